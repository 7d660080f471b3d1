"""korsbert with a mistake of its own, in the fold or in a pass for one target, publishes nothing.

The graph check compares what is published with the float32 graph, so a mistake that both have is gate 1's to find.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

import exporter
from exporter import pipeline
from exporter.bundle import TOKENIZER
from exporter.checkpoint import Checkpoint
from exporter.cli import export_main
from exporter.engines.building import BuiltEngine, build_engine
from exporter.errors import GateError
from exporter.graph import Graph, folding, passes
from exporter.graph.folding import fold
from exporter.publication import write_tokenizer
from exporter.targets import Backend, Device, Precision, Target
from exporter.validation import validate_bundle
from exporter.validator import Check
from tests.support import surgery
from tests.support.faults import Candidate, faults_of, subject_named
from tests.support.twins import build_twin

Edit = Callable[[ir.Model], None]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_twin("ko-sbert-multitask", tmp_path_factory.mktemp("twin"))


def in_batches_of_57(model: ir.Model) -> None:
    surgery.negated_in_batch_of(model, 57)


def in_batches_above_the_largest(model: ir.Model) -> None:
    surgery.negated_in_batch_above(model, 128)


def where_two_words_meet(model: ir.Model) -> None:
    surgery.negated_where_words_meet(model, 1234, 1235)


def at_one_width(model: ir.Model) -> None:
    surgery.negated_at_width(model, 77)


def faulty_fold(edit: Edit) -> Callable[[Checkpoint], Graph]:
    def folded(checkpoint: Checkpoint) -> Graph:
        graph = fold(checkpoint)
        model = graph.editable()
        edit(model)
        return graph.with_model(model)

    return folded


@pytest.mark.parametrize(
    ("edit", "precision"),
    [
        (in_batches_of_57, "fp16"),
        (in_batches_of_57, "fp32"),
        (in_batches_above_the_largest, "fp16"),
        (where_two_words_meet, "fp16"),
        (at_one_width, "fp16"),
    ],
)
def test_a_fold_that_errs_rarely_is_refused(
    edit: Edit, precision: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folding, "fold", faulty_fold(edit))
    with pytest.raises(GateError, match=r"dataflow: \w+ module\.fault/.* no rule allows that") as failure:
        exporter.export(str(checkpoint), precision=precision, out=tmp_path / "bundles")
    assert failure.value.next_step is not None
    assert failure.value.next_step.startswith("korsbert cannot prove what these operators do")
    assert not (tmp_path / "bundles").exists()


def test_a_fold_that_writes_into_the_checkpoints_weights_is_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph shares their memory: reference, provenance, lookup and sweep would all see the same wrong row."""

    def negate_an_unused_word(model: ir.Model) -> None:
        stored = model.graph.initializers["embeddings.word_embeddings.weight"].const_value
        assert stored is not None
        stored.numpy()[870] *= -1

    monkeypatch.setattr(folding, "fold", faulty_fold(negate_an_unused_word))
    with pytest.raises(GateError, match=r"weights: 1 parameters were changed after they were compared with the files"):
        exporter.export(str(checkpoint), precision="fp16", out=tmp_path / "bundles")
    assert not (tmp_path / "bundles").exists()


@pytest.mark.parametrize("edit", [surgery.gelu_by_tanh, in_batches_of_57])
def test_a_pass_for_one_target_that_errs_is_refused(
    edit: Edit, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty_pass(model: ir.Model) -> int:
        edit(model)
        return 1

    monkeypatch.setitem(passes.TARGETS, ("onnxruntime", "cpu", "*"), (faulty_pass,))
    with pytest.raises(GateError, match=r"fp32 \(gate 1\): ") as failure:
        exporter.export(str(checkpoint), precision="fp16", out=tmp_path / "bundles")
    assert failure.value.report is not None
    assert not failure.value.report["passed"]
    assert not (tmp_path / "bundles").exists()


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("mask adds -10", "sweep: with words behind the mask"),
        ("unused words' vectors replaced by noise", "weights: "),
        ("row 0's vector for rows from 32 on", "graph: "),
        ("one weight's sign flipped", "weights: "),
        ("negated at one padded width", "graph: "),
        ("output times 1.01", "max relative error"),
    ],
)
def test_a_typed_graph_with_a_fault_is_refused(
    name: str,
    check: str,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The other faults of stage "typing" in ``tests/FAULTS.md`` meet the same checks there."""
    subject = subject_named("ko-sbert-multitask (small twin)")
    (fault,) = (fault for fault in faults_of(subject.name) if fault.name == name)
    assert fault.stage == "typing"

    def build_faulty(graph: Graph, *given: Any, **options: Any) -> BuiltEngine:
        candidate = Candidate(subject, graph.precision, graph.editable(), subject.checkpoint.tokenizer)
        fault.apply(candidate)
        return build_engine(graph.with_model(candidate.model), *given, **options)

    monkeypatch.setattr("exporter.pipeline.building.build_engine", build_faulty)
    arguments = ["--model", str(checkpoint), "--fp16", "--out", str(tmp_path / "bundles")]
    monkeypatch.setattr(sys, "argv", ["korsbert-export", *arguments])
    with pytest.raises(SystemExit) as stop:
        export_main()
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert check in said
    assert "Traceback" not in said
    assert not (tmp_path / "bundles").exists()


def test_a_tokenizer_with_the_ids_of_two_words_exchanged_is_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_faulty(of: Checkpoint, folder: Path) -> None:
        write_tokenizer(of, folder)
        content = json.loads((folder / TOKENIZER).read_text(encoding="utf-8"))
        words = content["model"]["vocab"]
        first, second = list(words)[-2:]
        words[first], words[second] = words[second], words[first]
        (folder / TOKENIZER).write_text(json.dumps(content), encoding="utf-8")

    monkeypatch.setattr("exporter.pipeline.judgement.write_tokenizer", write_faulty)
    with pytest.raises(GateError, match=r"tokenizer: 2 of [\d,]+ vocabulary entries have another id: "):
        exporter.export(str(checkpoint), precision="fp16", out=tmp_path / "bundles")
    assert not (tmp_path / "bundles").exists()


def test_a_sound_validation_finds_the_bundle_of_a_faulty_korsbert(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the data flow check had not been there when it was exported."""
    monkeypatch.setattr(folding, "fold", faulty_fold(in_batches_of_57))
    monkeypatch.setattr("exporter.validator.proof.check_dataflow", lambda *_: Check("dataflow", ""))
    bundle = exporter.export(str(checkpoint), precision="fp16", out=tmp_path / "bundles")
    monkeypatch.undo()
    report = validate_bundle(bundle, checkpoint=checkpoint)
    assert {check.name for check in report.checks if not check.passed} == {"graph"}


def test_the_graph_that_gate_1_judges_has_the_passes_of_its_target(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FarEnoughError(Exception):
        """Stops an export at its first gate."""

    def note(graph: Graph, _: object) -> None:
        judged.append(graph)
        raise FarEnoughError

    judged: list[Graph] = []
    monkeypatch.setattr(pipeline, "judge_float32", note)
    target = Target(Precision.BF16, Backend.OPENVINO, Device.CPU)
    with pytest.raises(FarEnoughError):
        exporter.export(str(checkpoint), precision=target.precision, backend=target.backend, out=tmp_path / "bundles")
    assert "Attention" not in judged[0].op_counts()
