"""What a proof compares a published engine with, and what it refuses to take the engine's word for."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from exporter.engines import Engine
from exporter.engines.building import build_engine, with_target_passes
from exporter.errors import BundleError
from exporter.machine import tool_versions
from exporter.recipe import Gates, Range, Shapes
from exporter.runtime.encoder import Encoder
from exporter.targets import Backend, Device, Precision, Target
from exporter.validator import proof as module
from exporter.validator.check import Check, check_facts
from exporter.validator.proof import (
    FOLDING_TOOLS,
    Proof,
    as_read_by,
    at_least_default,
    other_tools,
    stored_graph,
)
from exporter.validator.provenance import read_onnx
from tests.support.faults import Subject, subject_named

NAME = "albert-small (small twin)"
SHAPES = Shapes(batch=Range(opt=2, max=3))


@pytest.fixture(scope="module")
def subject() -> Subject:
    return subject_named(NAME)


@pytest.fixture
def proof(subject: Subject) -> Proof:
    return Proof(subject.checkpoint, ["달력을 한 장 넘겼다"], SHAPES)


def target(backend: str, device: str = "cpu", precision: str = "fp32") -> Target:
    return Target(Precision(precision), Backend(backend), Device(device))


class TestChecks:
    def test_a_sound_export_passes_all_of_them(self, subject: Subject, proof: Proof, tmp_path: Path) -> None:
        built = build_engine(subject.graph, target("onnxruntime"), SHAPES, tmp_path)
        stored = stored_graph(built.engine, lambda name: (tmp_path / name).read_bytes())
        assert stored is not None
        with built.open() as runner:
            encoder = Encoder.of(subject.checkpoint.facts, subject.checkpoint.tokenizer, runner)
            sweep = proof.sweep(encoder, Gates().fp32, "fp32", tables_proven=True, lengths=False, width_tokens=100)
        checks = [
            proof.tokenizer(subject.checkpoint.tokenizer),
            proof.weights(stored, "fp32"),
            proof.dataflow(subject.graph),
            proof.lookup(subject.graph),
            sweep,
        ]
        assert [check.name for check in checks] == ["tokenizer", "weights", "dataflow", "lookup", "sweep"]
        assert [check.failures for check in checks] == [()] * 5
        assert "batches of 1, 2 and 3" in sweep.coverage

    def test_a_parameter_that_was_changed_since_it_was_loaded_fails(self, subject: Subject, proof: Proof) -> None:
        """A folded graph shares the memory of the parameters, so that graph and reference would change alike."""
        stored = read_onnx(subject.graph.model, "the fp32 graph")
        words = subject.checkpoint.model[0].auto_model.get_input_embeddings().weight
        assert proof.weights(stored, "fp32").failures == ()
        with torch.no_grad():
            words[7] *= -1
        try:
            (failure,) = proof.weights(stored, "fp32").failures
        finally:
            with torch.no_grad():
                words[7] *= -1
        assert failure == (
            "1 parameters were changed after they were compared with the files, the first is "
            "0.model.embeddings.word_embeddings.weight"
        )

    def test_the_prompt_is_part_of_every_probe(self, subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[Any] = []

        def check_tokenizer(*given: Any) -> Check:
            seen.append(given)
            return Check("tokenizer", "")

        monkeypatch.setattr(module, "check_tokenizer", check_tokenizer)
        facts = subject.checkpoint.facts.model_copy(
            update={"prompt": "질문: ", "prompts": {"query": "질문: ", "document": "글: "}}
        )
        checkpoint = module.Proof(_with_facts(subject, facts), ["하나", "둘"], SHAPES)
        checkpoint.tokenizer(subject.checkpoint.tokenizer)
        assert seen == [
            (subject.checkpoint.anchor, subject.checkpoint.tokenizer, ["질문: 하나", "질문: 둘", "글: 하나", "글: 둘"])
        ]

    @pytest.mark.parametrize(
        ("precision", "proven", "rows"), [("fp32", False, "all"), ("fp16", True, "sample"), ("int8", True, "sample")]
    )
    def test_what_a_sweep_is_asked_for(
        self, proof: Proof, monkeypatch: pytest.MonkeyPatch, precision: str, proven: bool, rows: str
    ) -> None:
        asked: dict[str, Any] = {}

        def sweep(reference: Any, encoder: Any, shapes: Shapes, gate: Any, **options: Any) -> Check:
            asked.update(options, reference=reference, encoder=encoder, shapes=shapes, gate=gate)
            return Check("sweep", "")

        monkeypatch.setattr(module, "sweep", sweep)
        encoder: Any = object()
        gate = Gates().of(precision)
        for _ in range(2):
            proof.sweep(encoder, gate, precision, tables_proven=proven, lengths=True, width_tokens=7)
        reference = asked.pop("reference")
        assert reference is proof._sweep_reference
        assert asked == {
            "encoder": encoder,
            "shapes": SHAPES,
            "gate": gate,
            "rows": rows,
            "width_tokens": 7,
            "precision": Precision(precision),
            "right_padding_only": True,
        }


def _with_facts(subject: Subject, facts: Any) -> Any:
    from dataclasses import replace

    return replace(subject.checkpoint, facts=facts)


class TestStoredGraph:
    def engine(self, backend: str, *files: str) -> Engine:
        return Engine(backend=Backend(backend), precision=Precision.FP32, files=files)

    @pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
    def test_the_files_are_read(self, subject: Subject, tmp_path: Path, backend: str) -> None:
        built = build_engine(subject.graph, target(backend), SHAPES, tmp_path)
        asked: list[str] = []

        def read(name: str) -> bytes:
            asked.append(name)
            return (tmp_path / name).read_bytes()

        stored = stored_graph(built.engine, read)
        assert stored is not None
        assert tuple(asked) == built.engine.files

    @pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
    def test_an_engine_that_cannot_be_read_is_none(self, backend: str) -> None:
        assert stored_graph(self.engine(backend, "model.engine"), _nothing_is_read) is None

    @pytest.mark.parametrize(
        ("backend", "files"),
        [("onnxruntime", ()), ("onnxruntime", ("a", "b", "c")), ("openvino", ("model.xml",)), ("tensorrt", ())],
    )
    def test_other_files_are_refused(self, backend: str, files: tuple[str, ...]) -> None:
        with pytest.raises(
            BundleError, match=f"an engine of {backend} has other files than {', '.join(files)}"
        ) as failure:
            stored_graph(self.engine(backend, *files), _nothing_is_read)
        assert failure.value.next_step == "export it again"


def _nothing_is_read(name: str) -> bytes:
    raise AssertionError(name)


class TestProvenGraph:
    def test_it_has_the_passes_of_its_target(self, subject: Subject) -> None:
        def kinds(made: Target, padding: str = "right", reader: str | None = None) -> set[str]:
            stored = as_read_by(reader or made.backend, with_target_passes(subject.graph, made, padding))
            return {node.operator for node in stored.nodes}

        assert "Attention" in kinds(target("onnxruntime"))
        assert "Attention" not in kinds(target("tensorrt-rtx", "cuda"))
        lengths, mask = (kinds(target("onnxruntime", "cuda", "fp16"), side) for side in ("right", "left"))
        assert "Expand" in mask - lengths
        assert kinds(target("openvino")) != kinds(target("onnxruntime"))
        assert kinds(target("onnxruntime"), reader="openvino") != kinds(target("onnxruntime"))

    def test_the_folded_graph_stays_as_it_is(self, subject: Subject) -> None:
        before = subject.graph.content_hash()
        with_target_passes(subject.graph, target("openvino"))
        assert subject.graph.content_hash() == before


class TestShapes:
    @pytest.mark.parametrize(
        ("own", "swept"),
        [
            (Range(min=1, opt=1, max=1), (1, 32, 128)),
            (Range(min=2, opt=64, max=512), (1, 64, 512)),
            (Range(min=1, opt=40, max=64), (1, 40, 128)),
        ],
    )
    def test_a_bundle_cannot_ask_for_smaller_batches_than_the_default(self, own: Range, swept: tuple[int, ...]) -> None:
        batch = at_least_default(Shapes(batch=own), Backend.ONNXRUNTIME).batch
        assert (batch.min, batch.opt, batch.max) == swept

    def test_those_of_an_engine_with_profiles_are_taken(self) -> None:
        shapes = Shapes(batch=Range(min=1, opt=1, max=1))
        assert at_least_default(shapes, Backend.TENSORRT) is shapes


def test_every_fact_that_differs_is_named_with_both_values() -> None:
    check = check_facts({"dimension": 64, "prompt": "", "layers": 2}, {"dimension": 32, "prompt": "", "hidden": 1})
    assert (check.name, check.coverage) == (
        "facts",
        "3 facts of the encoder, of the manifest and of the checkpoint",
    )
    assert check.failures == (
        "dimension is 64 in the manifest, and 32 in the checkpoint",
        "hidden is None in the manifest, and 1 in the checkpoint",
        "layers is 2 in the manifest, and None in the checkpoint",
    )
    assert check_facts({"a": 1}, {"a": 1}).passed


def test_tools_that_fold_otherwise_are_named() -> None:
    here = tool_versions(FOLDING_TOOLS)
    assert other_tools(here | {"numpy": "0.1"}) is None
    assert other_tools(here | {"torch": "0.1"}) == f"torch 0.1, here {here['torch']}"
    told = other_tools({})
    assert told is not None
    assert told.count("None, here ") == len([name for name in FOLDING_TOOLS if name in here])


@pytest.mark.parametrize(
    "name", ["korsbert", "torch", "transformers", "sentence-transformers", "onnxscript", "onnx-ir"]
)
def test_each_tool_that_decides_the_operators_is_compared(name: str) -> None:
    here = tool_versions(FOLDING_TOOLS)
    assert other_tools(here | {name: "0.1"}) == f"{name} 0.1, here {version(name)}"
