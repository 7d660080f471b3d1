"""Architectures newer than BERT's kin: exported with the whole proof, and what is refused of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from tokenizers import normalizers
from transformers import DebertaV2Tokenizer

import exporter
from exporter.bundle import Bundle
from exporter.checkpoint import load_checkpoint
from exporter.checkpoint.configuration import RECENT
from exporter.errors import CheckpointError, GateError, UnsupportedModelError
from exporter.graph.folding import fold
from exporter.graph.surgery import make_node
from exporter.precisions.bf16 import convert
from exporter.precisions.retype import position_nodes
from exporter.recipe import find_recipe
from tests.support.checkpoints import ARCHITECTURES, save_checkpoint
from tests.support.twins.charsmap import nfkc_charsmap

NEW = [name for name in ("camembert", *RECENT) if name in ARCHITECTURES]
TARGETS = [("fp16", "onnxruntime"), ("int8", "openvino")]
# Twins of published checkpoints, which `test_exports.py` exports at fp16.
TWINS = ("gemma3_text", "qwen3")
# Attention that adds terms for distances to its scores; int8 of the other architectures is a slow test.
BY_DISTANCE = ("deberta-v2", "t5")
EXPORTS = [
    pytest.param(name, *target, marks=[pytest.mark.slow] if target[0] == "int8" and name not in BY_DISTANCE else [])
    for name in NEW
    for target in TARGETS
    if name not in TWINS or target != TARGETS[0]
]
# Its heads are Gemms, which the quantizer of this precision would rewrite.
EXPORTS += [pytest.param(name, "int8_dynamic", "onnxruntime") for name in ("gemma3_text",) if name in ARCHITECTURES]
# Its vectors of distances are computed by weights that MatMuls in int8 read too, and stay exact.
EXPORTS += [
    pytest.param(name, "int8_dynamic", "onnxruntime", marks=pytest.mark.slow)
    for name in ("deberta-v2",)
    if name in ARCHITECTURES
]
POSITIONS = [name for name in ("deberta-v2", "gemma3_text", "modernbert", "t5") if name in ARCHITECTURES]


def export(folder: Path, precision: str, backend: str, out: Path) -> Bundle:
    return exporter.export(str(folder), precision=precision, backend=backend, out=out)


@pytest.mark.parametrize(("architecture", "precision", "backend"), EXPORTS)
def test_it_passes_every_gate_and_check(architecture: str, precision: str, backend: str, tmp_path: Path) -> None:
    pooling = "lasttoken" if architecture == "qwen3" else "mean"
    modules = ("dense", "normalize") if architecture in ("gemma3_text", "t5") else ()
    folder = save_checkpoint(tmp_path, architecture, pooling, modules)
    report = json.loads((export(folder, precision, backend, tmp_path / "out").folder / "parity.json").read_text())
    assert report["passed"]


@pytest.mark.skipif("deberta-v2" not in ARCHITECTURES, reason="the installed versions cannot fold it")
class TestTokenizerOfDeberta:
    """transformers 5 makes it of the vocabulary, with steps of its own."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = save_checkpoint(tmp_path, "deberta-v2")
        entries = [(token, 0.0) for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")]
        entries += [(piece, -float(place)) for place, piece in enumerate(("▁", "▁가", "다", "지하", "철", "a", "▁the"))]
        DebertaV2Tokenizer(vocab=entries, unk_id=1).save_pretrained(folder)
        return folder

    def test_it_is_exported_as_transformers_5_saves_it(self, folder: Path, tmp_path: Path) -> None:
        bundle = export(folder, "fp32", "onnxruntime", tmp_path / "out")
        assert "DebertaV2Tokenizer" in (folder / "tokenizer_config.json").read_text()
        assert bundle.manifest.encoder.architecture == "DebertaV2Model"

    def test_steps_that_transformers_5_would_leave_out_are_refused(self, folder: Path, tmp_path: Path) -> None:
        content = json.loads((folder / "tokenizer.json").read_text())
        table = normalizers.Precompiled(nfkc_charsmap()).__getstate__()
        content["normalizer"] = {
            "type": "Sequence",
            "normalizers": [json.loads(table), *content["normalizer"]["normalizers"]],
        }
        (folder / "tokenizer.json").write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match="normalizer is not that of the checkpoint's files"):
            export(folder, "fp32", "onnxruntime", tmp_path / "out")


@pytest.mark.skipif("qwen3" not in ARCHITECTURES, reason="the installed versions cannot fold it")
def test_a_decoder_that_pads_left_answers_from_the_last_token(tmp_path: Path) -> None:
    """As Qwen3-Embedding: padding, at which nothing can be attended to, stands before the text."""
    folder = save_checkpoint(tmp_path, "qwen3", "lasttoken", ("normalize",))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"padding_side": "left"}))
    bundle = export(folder, "fp32", "onnxruntime", tmp_path / "out")
    assert bundle.manifest.decisions
    with exporter.load(bundle.folder) as encoder:
        alone, together = encoder.encode(["짧다"]), encoder.encode(["짧다", "이 문장은 앞의 것보다 훨씬 더 길다"])
    assert abs(alone[0] @ together[0] - 1) < 1e-4


@pytest.mark.parametrize("architecture", POSITIONS)
def test_positions_are_computed_in_float32_whatever_the_precision(architecture: str, tmp_path: Path) -> None:
    """bfloat16 cannot tell position 257 from 256, and the angles of a rotation are multiples of it."""
    graph = fold(load_checkpoint(find_recipe(str(save_checkpoint(tmp_path, architecture)))))
    no_text: Any = None  # bfloat16 looks at none
    model = convert(graph, no_text, ()).model
    types = {node.op_type: node.outputs[0].dtype for node in model.graph}
    for operator in ("Log",) if architecture in BY_DISTANCE else ("Cos", "Sin"):
        assert types[operator] == ir.DataType.FLOAT
    assert types["Softmax" if architecture == "deberta-v2" else "Attention"] == ir.DataType.BFLOAT16


def test_weights_in_int8_are_no_positions(tmp_path: Path) -> None:
    """They depend on no input either, and must be restored in the precision of the MatMul that reads them."""
    graph = fold(load_checkpoint(find_recipe(str(save_checkpoint(tmp_path)))))
    model = graph.editable()
    weight = next(value for name, value in model.graph.initializers.items() if "position_embeddings" in name)
    restored = make_node("Identity", [weight], "restored/Identity", ir.DataType.FLOAT, weight.shape)
    weight.replace_all_uses_with(restored.outputs[0])
    restored.replace_input_with(0, weight)
    model.graph.insert_before(model.graph[0], restored)
    assert position_nodes(model) == set()


@pytest.mark.skipif("qwen3" not in ARCHITECTURES, reason="the installed versions cannot fold it")
def test_rotations_that_depend_on_the_length_of_a_batch_are_refused(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, "qwen3")
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match="rope_type dynamic makes a vector depend on the other sentences"):
        load_checkpoint(find_recipe(str(folder)))


@pytest.mark.skipif("t5" not in ARCHITECTURES, reason="the installed versions cannot fold it")
def test_a_checkpoint_that_nothing_limits_is_refused(tmp_path: Path) -> None:
    """T5 has no table of positions, and its configuration states no longest input."""
    folder = save_checkpoint(tmp_path, "t5")
    (folder / "sentence_bert_config.json").write_text("{}")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("model_max_length", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="nothing limits how many tokens it takes"):
        load_checkpoint(find_recipe(str(folder)))


@pytest.mark.skipif("t5" not in ARCHITECTURES, reason="the installed versions cannot fold it")
def test_t5_in_bfloat16_loses_more_on_openvino_than_its_gate_allows(tmp_path: Path) -> None:
    """OpenVINO adds biases of distances to scores in bfloat16. docs/recipes.md says that this is refused."""
    with pytest.raises(GateError, match="min cosine"):
        export(save_checkpoint(tmp_path, "t5"), "bf16", "openvino", tmp_path / "out")
