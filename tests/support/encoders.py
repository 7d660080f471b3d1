"""A small encoder for tests of int8, made of the operators that folding leaves: its numbers are chosen by the test."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from exporter.graph import Graph
from exporter.graph.storage import open_model
from exporter.precisions.int8.emulator import Batch
from exporter.runtime.contract import INPUTS, OUTPUT

WIDTH, INNER, WORDS = 16, 32, 1200


def small_encoder(*, seed: int = 0, outlier: float = 1.0, layers: int = 2, shared: bool = False) -> Graph:
    """Return an encoder of feed-forward layers with residuals, LayerNorm and mean pooling.

    Args:
        seed: Of the weights.
        outlier: What channel 3 of each LayerNorm is multiplied by.
        layers: How many.
        shared: Whether all layers use one set of weights, as ALBERT's do.
    """
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(WORDS, WIDTH)).astype(np.float32)
    gain = np.ones(WIDTH, np.float32)
    gain[3] = outlier
    weights: dict[str, np.ndarray] = {
        "words.weight": table,
        "gain": gain,
        "zeros": np.zeros(WIDTH, np.float32),
        "last": np.array([2], np.int64),
        "middle": np.array([1], np.int64),
    }
    nodes = [helper.make_node("Gather", ["words.weight", "input_ids"], ["e"], "embeddings.words/Gather", axis=0)]
    nodes.append(helper.make_node("LayerNormalization", ["e", "gain", "zeros"], ["x0"], "embeddings.LayerNorm/LN"))
    for layer in range(layers):
        own = 0 if shared else layer
        if own == layer:
            for name, shape in (("ffn", (WIDTH, INNER)), ("ffn_output", (INNER, WIDTH))):
                scale = 1 / np.sqrt(shape[0])
                weights[f"layer{own}.{name}.weight"] = rng.normal(0, scale, shape).astype(np.float32)
                weights[f"layer{own}.{name}.bias"] = rng.normal(0, 0.1, shape[1]).astype(np.float32)
            weights[f"layer{own}.ffn.weight"][3] /= max(1.0, outlier)
        name = f"layer.{layer}"
        x, h, a, o, r = (f"{letter}{layer}" for letter in ("x", "h", "a", "o", "r"))
        nodes += [
            helper.make_node("MatMul", [x, f"layer{own}.ffn.weight"], [f"{h}m"], f"{name}.ffn/MatMul"),
            helper.make_node("Add", [f"{h}m", f"layer{own}.ffn.bias"], [h], f"{name}.ffn/Add"),
            helper.make_node("Gelu", [h], [a], f"{name}.activation/Gelu"),
            helper.make_node("MatMul", [a, f"layer{own}.ffn_output.weight"], [f"{o}m"], f"{name}.ffn_output/MatMul"),
            helper.make_node("Add", [f"{o}m", f"layer{own}.ffn_output.bias"], [o], f"{name}.ffn_output/Add"),
            helper.make_node("Add", [o, x], [r], f"{name}/Add"),
            helper.make_node("LayerNormalization", [r, "gain", "zeros"], [f"x{layer + 1}"], f"{name}.LayerNorm/LN"),
        ]
    weights["head.weight"] = rng.normal(size=(WIDTH, WIDTH)).astype(np.float32)
    nodes += [
        helper.make_node("Cast", ["attention_mask"], ["m"], "module.1/Cast", to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["m", "last"], ["column"], "module.1/Unsqueeze"),
        helper.make_node("Mul", [f"x{layers}", "column"], ["kept"], "module.1/Mul"),
        helper.make_node("ReduceSum", ["kept", "middle"], ["pooled"], "module.1/ReduceSum", keepdims=0),
        helper.make_node("MatMul", ["pooled", "head.weight"], ["sentence_embedding"], "module.2/MatMul"),
    ]
    ids = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        for name in ("input_ids", "attention_mask")
    ]
    out = helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", WIDTH])
    stored = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "encoder", ids, [out], stored)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))
    return Graph(model, dimension=WIDTH, max_sequence=64)


def word_tokenizer() -> Tokenizer:
    """Return a tokenizer whose words are the numbers below ``WORDS``; id 0 pads, 1 is unknown, 2 and 3 are special."""
    vocabulary = {str(number): number for number in range(4, WORDS)} | {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(64)
    tokenizer.enable_padding(pad_id=0)
    return tokenizer


def numbers(count: int, *, seed: int = 1) -> tuple[str, ...]:
    """Return sentences of different lengths for ``word_tokenizer``."""
    rng = np.random.default_rng(seed)
    return tuple(" ".join(str(word) for word in rng.integers(4, WORDS, int(rng.integers(1, 12)))) for _ in range(count))


def encode(graph: Graph, batches: Iterable[Batch]) -> np.ndarray:
    """Encode every batch with a graph as it is, by onnxruntime: (rows, dimension) float32, in their order."""
    session = open_model(graph.model)
    return np.concatenate([session.run([OUTPUT], dict(zip(INPUTS, batch, strict=True)))[0] for batch in batches])
