"""The smallest graph that has what provenance looks at: two tables, two linear layers, a scalar and a norm."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.graph import Graph
from exporter.graph.surgery import Dimension, add_constant, make_node
from exporter.validator.provenance import Parameter

ROWS, WIDTH, INNER = 300, 12, 20
FLOAT, INT64 = ir.DataType.FLOAT, ir.DataType.INT64


def small_parameters(seed: int = 0) -> dict[str, Parameter]:
    """Return the parameters of a seeded encoder, as a checkpoint would name them."""
    rng = np.random.default_rng(seed)
    shapes = {
        "0.model.embeddings.word_embeddings.weight": (ROWS, WIDTH),
        "0.model.embeddings.token_type_embeddings.weight": (2, WIDTH),
        "0.model.encoder.layer.0.ffn.weight": (INNER, WIDTH),
        "0.model.encoder.layer.0.ffn.bias": (INNER,),
        "0.model.encoder.layer.1.ffn.weight": (INNER, INNER),
        "0.model.encoder.layer.1.ffn.bias": (INNER,),
        "0.model.encoder.layer.1.LayerNorm.weight": (INNER,),
        "0.model.encoder.layer.1.LayerNorm.bias": (INNER,),
    }
    return {
        name: Parameter(name, rng.normal(size=shape).astype(np.float32), (0,) if "token_type" in name else None)
        for name, shape in shapes.items()
    }


def small_graph(parameters: dict[str, Parameter]) -> Graph:
    """Return the encoder as a folded float32 graph."""
    values = {name.removeprefix("0.model."): parameter.values for name, parameter in parameters.items()}
    inputs = [
        ir.Value(name=name, type=ir.TensorType(INT64), shape=ir.Shape(["batch", "sequence"]))
        for name in ("input_ids", "attention_mask")
    ]
    model = ir.Model(ir.Graph(inputs, [], nodes=[], opset_imports={"": 23}, name="encoder"), ir_version=10)
    tokens = ["batch", "sequence"]

    def stored(name: str, array: np.ndarray) -> ir.Value:
        return add_constant(model, name, np.array(array, order="C"))

    def add(operator: str, reads: list[ir.Value], name: str, shape: list[Dimension], **attributes: int) -> ir.Value:
        node = make_node(operator, reads, f"{name}/{operator}", FLOAT, shape, attributes)
        model.graph.append(node)
        return node.outputs[0]

    table = stored("words", values["embeddings.word_embeddings.weight"])
    x = add("Gather", [table, inputs[0]], "embeddings.word_embeddings", [*tokens, WIDTH], axis=0)
    row = stored("row", values["embeddings.token_type_embeddings.weight"][0])
    x = add("Add", [x, row], "embeddings", [*tokens, WIDTH])
    for layer in (0, 1):
        module = f"layer.{layer}.ffn"
        weight = stored(f"{module}.w", values[f"encoder.{module}.weight"].T)
        x = add("MatMul", [x, weight], module, [*tokens, INNER])
        x = add("Add", [x, stored(f"{module}.b", values[f"encoder.{module}.bias"])], module, [*tokens, INNER])
    norm = [stored(part, values[f"encoder.layer.1.LayerNorm.{part}"]) for part in ("weight", "bias")]
    x = add("LayerNormalization", [x, *norm], "layer.1.LayerNorm", [*tokens, INNER], axis=-1)
    x = add("Mul", [x, stored("half", np.array(0.5, np.float32))], "module.1", [*tokens, INNER])
    mask = make_node("Cast", [inputs[1]], "module.1/Cast", FLOAT, tokens, {"to": FLOAT})
    model.graph.append(mask)
    last = stored("last", np.array([2], np.int64))
    column = add("Unsqueeze", [mask.outputs[0], last], "module.1", [*tokens, 1])
    x = add("Mul", [x, column], "module.1.masked", [*tokens, INNER])
    axes = stored("axes", np.array([1], np.int64))
    x = add("ReduceMean", [x, axes], "module.1", ["batch", INNER], keepdims=0)
    x.name = "sentence_embedding"
    model.graph.outputs.append(x)
    model.metadata_props["max_sequence"] = "64"
    return Graph(model, INNER, 64)
