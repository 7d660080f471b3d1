"""Bundles in an older operator set: what is published, what is judged, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import exporter
from exporter.bundle import Bundle
from exporter.graph.passes import lowering
from exporter.graph.passes.decompose_attention import decompose_attention
from exporter.graph.passes.decompose_gelu import decompose_gelu
from exporter.graph.surgery import input_of
from exporter.stages import Stages
from tests.support.manifests import edit_manifest, reseal


@pytest.fixture(scope="module")
def done(twin: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Stages]:
    """The twin in fp16, at the oldest operator set."""
    stages = Stages()
    folder = tmp_path_factory.mktemp("opset")
    return exporter.export(str(twin), precision="fp16", opset=17, out=folder, stages=stages), stages


def test_it_states_its_opset_and_is_written_in_it(done: tuple[Bundle, Stages]) -> None:
    bundle, _ = done
    facts = bundle.manifest.engine.facts
    assert (facts.opset, facts.ir_version) == (17, 8)
    model = onnx.load(bundle.folder / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert ([one.version for one in model.opset_import], model.ir_version) == ([17], 8)
    assert any("opset_17 1" in decision for decision in bundle.manifest.decisions)
    assert f"ONNX Runtime must be {bundle.manifest.engine.least_runtime} or newer" in (
        bundle.folder / "README.md"
    ).read_text(encoding="utf-8")


def test_gate_1_has_judged_the_lowered_graph(done: tuple[Bundle, Stages]) -> None:
    """The weights and operators of the published file are compared with the graph that passed it, opset and all."""
    bundle, stages = done
    assert "gate: the fp32 graph" in [stage.name for stage in stages.done]
    (files,) = [stage.result for stage in stages.done if stage.name == "check the files"]
    assert "are those of the proven graph" in files
    assert "Attention" not in bundle.manifest.graph.nodes


def test_its_vectors_are_those_of_the_graph_that_is_not_lowered(done: tuple[Bundle, Stages], twin_bundle: Path) -> None:
    texts = ["가", "지하철이 늦게 와서 회의에 지각했다.", "The LAST bus to Busan leaves at 23:40."]
    vectors, wanted = (exporter.load(folder).encode(texts) for folder in (done[0].folder, twin_bundle))
    lengths = np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors / lengths, wanted / lengths, rtol=0, atol=1e-3)  # float16 keeps 11 bits


def test_validate_lowers_the_checkpoint_to_the_same_opset(done: tuple[Bundle, Stages], twin: Path) -> None:
    report = exporter.validate(done[0], checkpoint=twin)
    assert report.passed, report.failure()
    assert "graph" in [check.name for check in report.checks if check.compared]


def test_another_opset_than_that_of_the_file_is_not_believed(done: tuple[Bundle, Stages], twin: Path) -> None:
    folder = done[0].folder
    edit_manifest(folder, lambda manifest: manifest["engine"]["facts"].update(opset=22))
    reseal(folder)
    try:
        report = exporter.validate(folder, checkpoint=twin)
    finally:
        edit_manifest(folder, lambda manifest: manifest["engine"]["facts"].update(opset=17))
        reseal(folder)
    assert {"facts", "graph"} <= {check.name for check in report.checks if not check.passed}


def test_an_opset_that_the_checkpoint_cannot_be_lowered_to_is_a_failed_check(
    done: tuple[Bundle, Stages], twin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lowering, "LOWERING", ())
    report = exporter.validate(done[0], checkpoint=twin)
    assert {"facts", "graph"} <= {check.name for check in report.checks if not check.passed}


def scaled(model: ir.Model) -> int:
    """Write attention out with scores that are 1% too large."""
    count = decompose_attention(model)
    for name, value in model.graph.initializers.items():
        if name.endswith("/scale") and value.const_value is not None:
            value.const_value = ir.tensor(value.const_value.numpy() * np.float32(1.01), name=name)
    return count


def approximated(model: ir.Model) -> int:
    """Write out the approximation of GELU by tanh in place of GELU."""
    for node in model.graph:
        if node.op_type == "Gelu":
            node.attributes["approximate"] = ir.AttrString("approximate", "tanh")
    return decompose_gelu(model)


def without_mask(model: ir.Model) -> int:
    """Write attention out and lose the mask of the first layer."""
    count = decompose_attention(model)
    softmax = next(node for node in model.graph if node.op_type == "Softmax")
    add = input_of(softmax).producer()
    assert add is not None
    softmax.replace_input_with(0, input_of(add))
    return count


@pytest.mark.parametrize(
    ("sound", "broken"),
    [(decompose_attention, scaled), (decompose_attention, without_mask), (decompose_gelu, approximated)],
    ids=["scale", "mask", "gelu"],
)
def test_a_wrong_lowering_is_refused_by_gate_1(
    twin: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sound: Callable[[ir.Model], int],
    broken: Callable[[ir.Model], int],
) -> None:
    wrong = tuple((since, broken if one is sound else one) for since, one in lowering.LOWERING)
    monkeypatch.setattr(lowering, "LOWERING", wrong)
    with pytest.raises(exporter.GateError) as refusal:
        exporter.export(str(twin), precision="fp16", opset=17, out=tmp_path)
    assert "(gate 1)" in str(refusal.value)
    assert "the export itself is wrong" in str(refusal.value.next_step)
    assert list(tmp_path.iterdir()) == []


def test_openvino_heeds_none(twin: Path, tmp_path: Path) -> None:
    with pytest.raises(exporter.InputError, match="the openvino backend does not support `opset`"):
        exporter.export(str(twin), backend="openvino", opset=20, out=tmp_path)
