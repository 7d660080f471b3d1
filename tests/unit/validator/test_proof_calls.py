"""What the proof hands to each check, by checks that only note what they are given."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import nn

from exporter.engines import Engine
from exporter.errors import BundleError
from exporter.recipe import Range, Shapes
from exporter.targets import Backend, Device, Precision, Target
from exporter.validator import proof as module
from exporter.validator.check import Check, check_facts
from exporter.validator.proof import (
    Proof,
    as_read_by,
    at_least_default,
    other_tools,
    stored_graph,
    tables_proven,
)
from exporter.validator.sweeps.inputs import WIDTH_TOKENS
from tests.support.stand_in import stand_in, words_tokenizer

SHAPES = Shapes(batch=Range(opt=2, max=3))

Noting = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def noting(monkeypatch: pytest.MonkeyPatch) -> Noting:
    """Put functions in the places of some of the module's: each notes its arguments, and answers with its name."""

    def note(*names: str) -> list[tuple[Any, ...]]:
        calls: list[tuple[Any, ...]] = []

        def replacement(name: str) -> Callable[..., str]:
            def call(*given: Any, **options: Any) -> str:
                calls.append((name, *given, *([options] if options else [])))
                return f"what {name} returns"

            return call

        for name in names:
            monkeypatch.setattr(module, name, replacement(name))
        return calls

    return note


class TestChecks:
    def test_weights_are_compared_with_the_parameters_found_once(self, noting: Noting) -> None:
        calls = noting("dependent_parameters", "check_weights")
        checkpoint = stand_in()
        proof = Proof(checkpoint, [], SHAPES)
        stored: Any = "a stored graph"
        for precision in ("fp32", "fp16"):
            found: Any = proof.weights(stored, precision)
            assert found == "what check_weights returns"
        parameters = "what dependent_parameters returns"
        assert calls == [
            ("dependent_parameters", checkpoint),
            ("check_weights", parameters, stored, "fp32"),
            ("check_weights", parameters, stored, "fp16"),
        ]

    def test_word_vectors_are_looked_up_in_the_folded_graph(self, noting: Noting) -> None:
        calls = noting("check_lookup")
        table = nn.Embedding(3, 2)
        auto_model = SimpleNamespace(get_input_embeddings=lambda: table)
        folded: Any = SimpleNamespace(model="a model", max_sequence=64)
        found: Any = Proof(stand_in(model=[SimpleNamespace(auto_model=auto_model)]), [], SHAPES).lookup(folded)
        assert found == "what check_lookup returns"
        ((name, model, words, longest),) = calls
        assert (name, model, longest) == ("check_lookup", "a model", 64)
        np.testing.assert_array_equal(words, table.weight.detach().numpy())

    @pytest.mark.parametrize(("of_table", "used"), [(None, 3), (0, 0), (1, 1)])
    def test_positions_are_counted_by_the_padding_id_of_the_table(
        self, noting: Noting, of_table: int | None, used: int
    ) -> None:
        calls = noting("check_dataflow")
        auto_model = SimpleNamespace(get_input_embeddings=lambda: nn.Embedding(5, 2, padding_idx=of_table))
        graph: Any = "a graph"
        checkpoint = stand_in(model=[SimpleNamespace(auto_model=auto_model)], pad_token_id=3)
        found: Any = Proof(checkpoint, [], SHAPES).dataflow(graph)
        assert found == "what check_dataflow returns"
        assert calls == [("check_dataflow", "a graph", used, checkpoint.facts.heads)]

    def test_the_operators_of_a_float32_graph_are_judged_by_what_they_read_and_find(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Proof, "dataflow", lambda _, graph: f"data flow of {graph}")
        monkeypatch.setattr(Proof, "lookup", lambda _, graph: f"lookup in {graph}")
        graph: Any = "a graph"
        found: Any = Proof(stand_in(), [], SHAPES).operators(graph)
        assert found == ("data flow of a graph", "lookup in a graph")

    def test_the_published_graph_is_compared_with_the_proven_one_in_the_reading_of_its_backend(
        self, noting: Noting
    ) -> None:
        calls = noting("as_read_by", "check_graph")
        proven: Any = "a float32 graph"
        published: Any = "a published graph"
        target = Target(Precision.FP16, Backend.OPENVINO, Device.CPU)
        found: Any = Proof.graph(proven, published, target)
        assert found == "what check_graph returns"
        assert calls == [
            ("as_read_by", "openvino", proven),
            ("check_graph", "what as_read_by returns", published, "fp16"),
        ]

    def test_widths_are_swept_by_the_default_budget(self, noting: Noting) -> None:
        calls = noting("SweepReference", "sweep")
        encoder: Any = "an encoder"
        gate: Any = "a gate"
        Proof(stand_in(), [], SHAPES).sweep(encoder, gate, "fp32", tables_proven=True, lengths=False)
        assert calls[-1][-1]["width_tokens"] == WIDTH_TOKENS

    def test_the_sweep_has_one_reference_for_all_candidates(self, noting: Noting) -> None:
        calls = noting("SweepReference", "sweep")
        checkpoint = stand_in()
        proof = Proof(checkpoint, [], SHAPES)
        encoder: Any = "an encoder"
        gate: Any = "a gate"
        for precision, proven in (("int8", True), ("int8_dynamic", False)):
            proof.sweep(encoder, gate, precision, tables_proven=proven, lengths=proven, width_tokens=7)
        given = ("sweep", "what SweepReference returns", encoder, SHAPES, gate)
        options = {"width_tokens": 7, "rows": "sample", "precision": Precision.INT8, "right_padding_only": True}
        others = {"width_tokens": 7, "rows": "all", "precision": Precision.INT8_DYNAMIC, "right_padding_only": False}
        assert calls == [("SweepReference", checkpoint), (*given, options), (*given, others)]

    def test_the_tokenizer_is_compared_on_texts_with_the_prompt(self, noting: Noting) -> None:
        calls = noting("check_tokenizer")
        plain = stand_in()
        checkpoint = stand_in(facts=plain.facts.model_copy(update={"prompt": "질문: "}))
        published = words_tokenizer("밥")
        proof = Proof(checkpoint, ["밥", ""], SHAPES)
        found: Any = proof.tokenizer(published)
        assert found == "what check_tokenizer returns"
        assert calls == [("check_tokenizer", checkpoint.anchor, published, ["질문: 밥", "질문: "])]
        assert proof.tokenizer(words_tokenizer("밥")) is found
        assert len(calls) == 1  # the same content has the same result
        other = words_tokenizer("국")
        proof.tokenizer(other)
        assert calls[1:] == [("check_tokenizer", checkpoint.anchor, other, ["질문: 밥", "질문: "])]


class TestStoredGraph:
    def engine(self, backend: str, *files: str) -> Engine:
        return Engine(backend=Backend(backend), precision=Precision.FP32, files=files)

    def test_each_engine_is_read_by_its_own_reader(self, noting: Noting) -> None:
        calls = noting("read_onnx", "read_openvino")
        engines = [
            ("onnxruntime", "a.onnx"),
            ("onnxruntime", "a.onnx", "a.onnx.data"),
            ("openvino", "a.xml", "a.bin"),
            ("tensorrt", "a.engine", "a.log"),
        ]
        found: list[Any] = [stored_graph(self.engine(*engine), str.encode) for engine in engines]
        assert found == ["what read_onnx returns", "what read_onnx returns", "what read_openvino returns", None]
        assert calls == [
            ("read_onnx", b"a.onnx", "a.onnx"),
            ("read_onnx", b"a.onnx", "a.onnx", b"a.onnx.data"),
            ("read_openvino", b"a.xml", b"a.bin", "a.xml"),
        ]

    @pytest.mark.parametrize(
        ("backend", "files"),
        [("onnxruntime", ("a", "b", "c")), ("openvino", ("a",)), ("openvino", ("a", "b", "c")), ("tensorrt-rtx", ())],
    )
    def test_other_files_are_refused(self, noting: Noting, backend: str, files: tuple[str, ...]) -> None:
        calls = noting("read_onnx", "read_openvino")
        with pytest.raises(BundleError) as failure:
            stored_graph(self.engine(backend, *files), str.encode)
        assert failure.value.message == f"an engine of {backend} has other files than {', '.join(files)}"
        assert failure.value.next_step == "export it again"
        assert calls == []


@pytest.mark.parametrize(
    ("reader", "read"),
    [
        ("onnxruntime", ("read_onnx", "a model", "the proven graph")),
        ("tensorrt", ("read_onnx", "a model", "the proven graph")),
        ("openvino", ("read_onnx_by_openvino", "its bytes", 64)),
    ],
)
def test_the_proven_graph_is_read_as_the_published_one(noting: Noting, reader: str, read: tuple[Any, ...]) -> None:
    calls = noting("read_onnx", "read_onnx_by_openvino")
    proven: Any = SimpleNamespace(model="a model", max_sequence=64, as_file=lambda: nullcontext("its bytes"))
    found: Any = as_read_by(reader, proven)
    assert found == f"what {read[0]} returns"
    assert calls == [read]


@pytest.mark.parametrize(
    ("backend", "failures", "proven"),
    [("onnxruntime", (), True), ("openvino", (), True), ("openvino", ("wrong",), False), ("tensorrt", (), False)],
)
def test_tables_are_proven_by_the_weights_of_a_file_that_can_be_read(
    backend: str, failures: tuple[str, ...], proven: bool
) -> None:
    checks = [Check("tokenizer", ""), Check("weights", "", failures), Check("graph", "")]
    assert tables_proven(checks, Backend(backend)) is proven
    assert not tables_proven(checks[:1], Backend.ONNXRUNTIME)


class TestShapes:
    @pytest.mark.parametrize(
        ("own", "swept"),
        [
            ((1, 1, 1), (1, 32, 128)),
            ((2, 64, 512), (1, 64, 512)),
            ((1, 40, 64), (1, 40, 128)),
        ],
    )
    def test_are_the_bundles_own_and_no_smaller_batches_than_the_default(
        self, own: tuple[int, int, int], swept: tuple[int, int, int]
    ) -> None:
        ranges = [Range(min=least, opt=best, max=most) for least, best, most in (own, swept)]
        sequence = Range(opt=8, max=16)
        found = at_least_default(Shapes(batch=ranges[0], sequence=sequence), Backend.OPENVINO)
        assert found == Shapes(batch=ranges[1], sequence=sequence)

    @pytest.mark.parametrize("backend", [Backend.TENSORRT, Backend.TENSORRT_RTX])
    def test_of_an_engine_with_profiles_are_taken_as_stated(self, backend: Backend) -> None:
        shapes = Shapes(batch=Range(opt=1, max=1))
        assert at_least_default(shapes, backend) is shapes


def test_facts_are_compared_by_name_in_the_order_of_the_alphabet() -> None:
    check = check_facts({"b": 1, "a": 1, "same": 0}, {"b": 2, "c": None, "a": "1", "same": 0})
    assert check == Check(
        "facts",
        "4 facts of the encoder, of the manifest and of the checkpoint",
        ("a is 1 in the manifest, and '1' in the checkpoint", "b is 1 in the manifest, and 2 in the checkpoint"),
    )


def test_other_versions_are_named_in_the_order_of_the_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"python": "3", "torch": "2", "onnx-ir": "1"}
    monkeypatch.setattr(module, "tool_versions", lambda tools: here if "torch" in tools else {})
    assert other_tools(here | {"python": "2"}) is None
    assert other_tools({"torch": "1", "onnxscript": "4"}) == (
        "torch 1, here 2, onnxscript 4, here None, onnx-ir None, here 1"
    )
