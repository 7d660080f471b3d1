"""INT8 from checkpoint to bundle: real weights, every target, and calibration text that is unfit."""

from __future__ import annotations

import csv
import json
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import exporter
from exporter.bundle import Bundle
from exporter.calibration import calibration_set, read_sentences
from exporter.checkpoint import Checkpoint, load_checkpoint
from exporter.engines import backend_of
from exporter.errors import BuildError, GateError, InputError
from exporter.graph import Graph
from exporter.graph.folding import fold
from exporter.graph.passes import passes_for, run_passes
from exporter.options import ExportOptions
from exporter.pipeline import export
from exporter.precisions.int8 import dynamic, static
from exporter.precisions.int8 import plan as planning
from exporter.precisions.int8.emulator import Emulator, Prefix
from exporter.precisions.int8.judge import Loss
from exporter.precisions.int8.plan import Plan, Progress, Request, make_plan
from exporter.precisions.int8.scheme import Quantization, scheme_of
from exporter.recipe import Gate, Gates, Int8Options, Precisions, Recipe, find_recipe
from exporter.stages import Stages
from exporter.targets import Backend, Device, Precision
from exporter.validation import validate_bundle
from exporter.validator.probes import probes_for, shipped_probes
from tests.conftest import Shared
from tests.support.encoders import encode
from tests.support.int8_bundles import facts, int8_bundle, require_small_loss, statistics
from tests.support.twins import MEASURED, build_twin

SHIPPED = read_sentences(Path(exporter.__file__).with_name("calibration.jsonl"))


@pytest.fixture(scope="module")
def demo_openvino(shared: Shared) -> Bundle:
    return int8_bundle(shared, "demo", "int8", "openvino")


@pytest.fixture(scope="module")
def demo_onnxruntime(shared: Shared) -> Bundle:
    return int8_bundle(shared, "demo", "int8", "onnxruntime")


@pytest.mark.parametrize(
    ("precision", "backend"),
    [
        ("int8", "openvino"),
        ("int8", "onnxruntime"),
        pytest.param("int8_dynamic", "onnxruntime", marks=pytest.mark.slow),
    ],
)
def test_the_demo_passes_with_few_matmuls_excluded(shared: Shared, precision: str, backend: str) -> None:
    bundle = int8_bundle(shared, "demo", precision, backend)
    require_small_loss(bundle)
    assert bundle.manifest.engine.precision == precision


@pytest.mark.slow
def test_a_task_is_part_of_the_gate(demo_openvino: Bundle, tmp_path: Path) -> None:
    """Scores that are the float32 cosines themselves leave int8 no room: whatever it loses is a drop from 100."""
    texts = list(SHIPPED[:400])
    vectors = load_checkpoint(find_recipe("demo")).encode(texts)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = zip(texts[::2], texts[1::2], (unit[::2] * unit[1::2]).sum(axis=1), strict=True)
    own = tmp_path / "own.csv"
    with own.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows((first, second, f"{cosine:.7f}") for first, second, cosine in rows)
    report = validate_bundle(demo_openvino, sts=[own])
    (task,) = report.sts
    assert task.reference_spearman == pytest.approx(100, abs=0.1)
    assert 0 < task.spearman_drop <= 0.3
    (verdict,) = [verdict for verdict in report.verdicts if "Spearman" in str(verdict)]
    assert verdict.passed
    (emulator,) = [check for check in report.checks if check.name == "emulator"]
    assert (emulator.coverage, emulator.passed) == ("not compared: only an export emulates int8", True)


def test_the_file_is_a_quarter_of_the_unique_weights(demo_openvino: Bundle, demo_onnxruntime: Bundle) -> None:
    graph = fold(load_checkpoint(find_recipe("demo")))
    for bundle in (demo_openvino, demo_onnxruntime):
        size = sum((bundle.folder / name).stat().st_size for name in bundle.manifest.engine.files)
        assert size <= 1.1 * graph.weight_bytes() / 4 + XML_BYTES[bundle.manifest.engine.backend]


# OpenVINO describes its graph in XML, some kilobytes a node, which says nothing of how weights are stored.
XML_BYTES = {"onnxruntime": 0, "openvino": 300_000}


def test_the_shared_layer_is_stored_once_with_a_scale_for_each_use(demo_onnxruntime: Bundle) -> None:
    model = onnx.load(demo_onnxruntime.folder / "model.onnx")
    int8 = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    large = [tensor for tensor in int8 if np.prod(tensor.dims) >= 256 * 256]
    assert len(large) == 7  # six of the layer, and the table of word vectors; that of positions is smaller
    said = facts(demo_onnxruntime)
    inputs = [entry for name, entry in said["activations"].items() if "Gelu" in name]
    assert len(inputs) == 4
    assert len({entry["scale"] for entry in inputs}) == 4
    growth = [entry["relative_error"] for entry in said["error_by_layer"]]
    assert [entry["layer"] for entry in said["error_by_layer"]][-4:] == [f"layer.{use}" for use in range(4)]
    assert 0 < growth[-4] < growth[-1] < 0.2


def test_onnxruntime_really_multiplies_integers(demo_onnxruntime: Bundle, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(
        str(demo_onnxruntime.folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    operators = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert operators.count("MatMulIntegerToFloat") == len(facts(demo_onnxruntime)["matmuls"])
    assert "MatMul" not in operators


def test_openvino_really_multiplies_integers_and_keeps_the_table_small(demo_openvino: Bundle) -> None:
    import openvino as ov

    core = ov.Core()
    model = core.read_model(str(demo_openvino.folder / "openvino_model.xml"))
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    types = [
        node.get_rt_info()["runtimePrecision"].astype(str)
        for node in compiled.get_runtime_model().get_ops()
        if node.get_rt_info()["layerType"].astype(str) in {"FullyConnected", "MatMul"}
    ]
    assert sum(kind in {"i8", "u8"} for kind in types) == len(facts(demo_openvino)["matmuls"])
    assert (demo_openvino.folder / "openvino_model.bin").stat().st_size < 3_000_000


def test_the_bundle_says_what_was_decided_and_from_what(demo_openvino: Bundle) -> None:
    manifest, said = demo_openvino.manifest, facts(demo_openvino)
    assert manifest.quantization is not None
    assert manifest.quantization.sha256 == said["calibration"]["sha256"]
    assert manifest.quantization.method == said["calibration"]["method"]
    assert {"int8.json", "int8.svg"} <= set(manifest.files)
    assert {trial["name"] for trial in said["calibration"]["trials"]} >= {"minmax", "percentile", "entropy", "mse"}
    assert {"layer 0 attention query", "layer 3 feed-forward out"} <= {entry["name"] for entry in said["matmuls"]}
    assert any("MatMuls in int8" in decision for decision in manifest.decisions)
    card = (demo_openvino.folder / "README.md").read_text(encoding="utf-8")
    assert re.search(r"\| layer 0 attention query \| (int8|fp32) \| \d\.\de-\d\d \| \d\.\de-\d\d \|", card)
    assert "<svg" in (demo_openvino.folder / "int8.svg").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def twin_checkpoint(twin: Path) -> Checkpoint:
    return load_checkpoint(find_recipe(str(twin)))


@pytest.fixture(scope="module")
def twin_graph(twin_checkpoint: Checkpoint) -> Graph:
    return fold(twin_checkpoint)


def plan_of(checkpoint: Checkpoint, graph: Graph, text: Path, backend: str = "openvino", device: str = "cpu") -> Plan:
    probes = [probe.text for probe in probes_for(checkpoint.tokenizer, checkpoint.facts.max_seq_length)]
    calibration = calibration_set(text, probes, checkpoint.tokenizer, checkpoint.facts.prompt)
    return make_plan(graph, Request(scheme_of("int8", backend, device), calibration, Gates().int8))


@pytest.fixture(scope="module")
def some_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "some.txt"
    short = [text for text in SHIPPED if len(text) < 60]
    path.write_text("\n".join(short[::3]), encoding="utf-8")  # of every kind and language that ships
    return path


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("albert-small", "klue-sroberta") else pytest.param(name, marks=pytest.mark.slow)
        for name in MEASURED
    ],
)
def test_tensorrt_rtx_builds_the_graph_of_every_twin(name: str, some_text: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed (Linux x86_64 only)")
    checkpoint = load_checkpoint(find_recipe(str(build_twin(name, tmp_path / name))))
    plan = plan_of(checkpoint, fold(checkpoint), some_text, "tensorrt-rtx", "cuda")
    typed = static.convert(plan, plan.found.candidates[0], plan.request.calibration.fit)
    assert typed.op_counts()["QuantizeLinear"] > 0
    model = typed.editable()
    run_passes(model, passes_for("tensorrt-rtx", "cuda", "int8"))
    engine = backend_of("tensorrt-rtx").build(typed.with_model(model), find_recipe(name).shapes, tmp_path)
    said = next(text for text in engine.decisions if text.startswith("network: "))
    assert re.search(r"\d+ half", said)
    assert re.search(r"\d+ int8", said)
    attention = next(text for text in engine.decisions if text.startswith("attention: "))
    assert f"{checkpoint.facts.layers} of them by lengths" in attention


@pytest.mark.parametrize("backend", ["tensorrt-rtx", pytest.param("onnxruntime", marks=pytest.mark.slow)])
def test_int8_for_a_gpu_is_published_unvalidated_where_there_is_none(
    twin: Path, some_text: Path, tmp_path: Path, backend: str
) -> None:
    if backend == "tensorrt-rtx":
        pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed (Linux x86_64 only)")
    options = ExportOptions(
        precision=Precision.INT8,
        backend=Backend(backend),
        out=tmp_path,
        device=Device.CUDA,
        calibration=some_text,
        unvalidated=True,
    )
    bundle = export(find_recipe(str(twin)), options)
    assert not bundle.validated
    assert bundle.manifest.validation.device == "cuda"
    assert statistics(bundle)["min_cosine"] >= 0.97  # of the graph, on the CPU
    assert any("stays fp16" in decision for decision in bundle.manifest.decisions)
    with pytest.raises(exporter.BundleError, match="is for cuda kernels"):
        bundle.encoder(device="cpu")


def test_probes_are_not_touched_before_they_judge(twin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    original = planning.make_plan

    def watched(graph: Graph, request: Request, progress: Progress) -> Plan:
        seen.update(request.calibration.fit.sentences, request.calibration.held_out.sentences)
        return original(graph, request, progress)

    monkeypatch.setattr("exporter.precisions.int8.conversion.make_plan", watched)
    mixed = tmp_path / "mixed.txt"
    probes = [probe.text for probe in shipped_probes()]
    mixed.write_text("\n".join([*(text for text in probes[:50] if "\n" not in text), *SHIPPED[::4]]), encoding="utf-8")
    export(
        find_recipe(str(twin)),
        ExportOptions(precision=Precision.INT8, backend=Backend.OPENVINO, out=tmp_path, calibration=mixed),
    )
    assert len(seen) > 60
    assert not seen & set(probes)


def test_nothing_of_the_calibration_text_is_both_looked_at_and_judged_by(twin_checkpoint: Checkpoint) -> None:
    text = calibration_set(None, [], twin_checkpoint.tokenizer, "")
    assert not set(text.fit.sentences) & set(text.held_out.sentences)
    assert text.warnings == ()


class TestPoisonedText:
    """Either it is survived within the gates, or it is caught."""

    def outcome(self, text: Path, out: Path) -> tuple[bool, tuple[str, ...]]:
        options = ExportOptions(precision=Precision.INT8, backend=Backend.OPENVINO, out=out, calibration=text)
        try:
            bundle = export(find_recipe("demo"), options)
        except GateError:
            assert not (out / "demo" / "int8-openvino").exists()
            return False, ()
        assert statistics(bundle)["min_cosine"] >= 0.97
        assert facts(bundle)["share_excluded"] <= 0.5  # float32 by another name would have passed too
        return True, bundle.manifest.decisions

    def test_one_sentence_over_and_over_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "same.txt").write_text("같은 문장만 있습니다.\n" * 300, encoding="utf-8")
        with pytest.raises(InputError, match="only one sentence"):
            self.outcome(tmp_path / "same.txt", tmp_path)

    @pytest.mark.slow
    def test_two_sentences_over_and_over_are_warned_of(self, tmp_path: Path) -> None:
        text = "같은 문장만 있습니다.\n" * 300 + "다른 문장도 하나 있습니다.\n"
        (tmp_path / "two.txt").write_text(text, encoding="utf-8")
        survived, decisions = self.outcome(tmp_path / "two.txt", tmp_path)
        if survived:
            assert any("are few to calibrate with" in decision for decision in decisions)
            assert any("repeat others" in decision for decision in decisions)

    @pytest.mark.slow
    def test_random_bytes_are_caught_or_warned_of(self, tmp_path: Path) -> None:
        noise = random.Random(0)
        lines = ["".join(chr(noise.randrange(0x2500, 0x2BFF)) for _ in range(30)) for _ in range(200)]
        (tmp_path / "noise.txt").write_text("\n".join(lines), encoding="utf-8")
        survived, decisions = self.outcome(tmp_path / "noise.txt", tmp_path)
        if survived:
            assert any("unknown to the tokenizer" in decision for decision in decisions)


def test_a_gate_that_nothing_passes_publishes_nothing_and_says_how_near_it_was(twin: Path, tmp_path: Path) -> None:
    strict = Gates(int8=Gate(min_cosine=1.0, p01_cosine=1.0, mean_cosine=1.0))
    recipe = Recipe(name="strict", source=str(twin), gates=strict)
    text = tmp_path / "text.txt"
    text.write_text("\n".join(SHIPPED[:40]), encoding="utf-8")
    with pytest.raises(GateError) as refusal:
        export(
            recipe, ExportOptions(precision=Precision.INT8, backend=Backend.OPENVINO, out=tmp_path, calibration=text)
        )
    assert "the closest of" in str(refusal.value)
    assert "of the work of all MatMuls stays" in str(refusal.value)
    assert not (tmp_path / "strict" / "int8-openvino").exists()


def test_a_search_that_was_interrupted_goes_on(
    twin: Path, tmp_path: Path, some_text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ExportOptions(precision=Precision.INT8, backend=Backend.ONNXRUNTIME, out=tmp_path, calibration=some_text)
    state = tmp_path / "twin" / ".int8-onnxruntime.search.json"
    runs: list[int] = []
    original = Emulator.run_after

    def run_after(self: Emulator, prefix: Prefix, quantization: Quantization, on: frozenset[str]) -> np.ndarray:
        runs.append(len(on))
        if len(runs) == 9:
            raise KeyboardInterrupt
        return original(self, prefix, quantization, on)

    monkeypatch.setattr(Emulator, "run_after", run_after)
    with pytest.raises(KeyboardInterrupt):
        export(find_recipe(str(twin)), options)
    known = len(json.loads(state.read_text(encoding="utf-8"))["losses"])
    assert known == len(runs) - 1  # the last one was measured by nobody
    first = len(runs)
    runs += [0] * 100
    stages = Stages()
    bundle = export(find_recipe(str(twin)), options, stages)
    again = len(runs) - 100 - first
    results = [stage.result for stage in stages.done if stage.name == "calibrate and search"]
    assert f"{known} results of an interrupted search" in results[0]
    assert not state.exists()
    other = export(find_recipe(str(twin)), options.model_copy(update={"out": tmp_path / "other"}))
    whole = len(runs) - 100 - first - again
    assert again == whole - known
    assert facts(bundle) == facts(other)
    for name in ("model.onnx", "int8.svg"):
        assert (bundle.folder / name).read_bytes() == (other.folder / name).read_bytes()


def test_what_the_user_keeps_high_is_kept(twin: Path, tmp_path: Path, some_text: Path) -> None:
    kept = ("layer.0.output.dense", "layer.1.attention")
    recipe = Recipe(name="kept", source=str(twin), precision=Precisions(int8=Int8Options(exclude=kept)))
    bundle = export(
        recipe, ExportOptions(precision=Precision.INT8, backend=Backend.OPENVINO, out=tmp_path, calibration=some_text)
    )
    precision = {entry["module"]: entry["precision"] for entry in facts(bundle)["matmuls"]}
    assert precision["layer.0.output.dense"] == precision["layer.1.attention.self.query"] == "fp32"
    assert precision["layer.0.intermediate.dense"] == "int8"


def test_a_name_to_exclude_that_is_no_matmul_is_refused(
    twin_checkpoint: Checkpoint, twin_graph: Graph, some_text: Path
) -> None:
    calibration = calibration_set(some_text, [], twin_checkpoint.tokenizer, "")
    request = Request(scheme_of("int8", "openvino", "cpu"), calibration, Gates().int8, ("layer.99.",))
    with pytest.raises(InputError, match=r"`exclude` names 'layer\.99\.'"):
        make_plan(twin_graph, request)


@pytest.mark.parametrize("names", [("",), ("layer.1.", "layer.0.output.dense", "layer.0.attention")])
def test_keeping_half_of_the_work_is_refused(
    twin_checkpoint: Checkpoint, twin_graph: Graph, some_text: Path, names: tuple[str, ...]
) -> None:
    calibration = calibration_set(some_text, [], twin_checkpoint.tokenizer, "")
    request = Request(scheme_of("int8", "openvino", "cpu"), calibration, Gates().int8, names)
    with pytest.raises(InputError, match=r"`exclude` covers \d+\.\d% of the work of all MatMuls"):
        make_plan(twin_graph, request)


class TestWhoChooses:
    """The probes judge once. What is built is chosen by what its engine loses on held-out calibration text."""

    GATE, HELD_OUT = "gate: int8 on openvino", "held-out text: int8 on openvino"

    def exported(
        self, twin: Path, out: Path, text: Path, gate: Gate | None = None
    ) -> tuple[Bundle | GateError, list[str]]:
        """Return the bundle, or why there is none, and the stages in order."""
        stages = Stages()
        gates = Gates() if gate is None else Gates(int8=gate)
        recipe = Recipe(name="twin", source=str(twin), gates=gates)
        options = ExportOptions(precision=Precision.INT8, backend=Backend.OPENVINO, out=out, calibration=text)
        try:
            outcome: Bundle | GateError = export(recipe, options, stages)
        except GateError as refusal:
            outcome = refusal
        return outcome, [stage.name for stage in stages.done]

    def test_what_fails_on_the_probes_is_not_followed_by_another_try(
        self, twin: Path, tmp_path: Path, some_text: Path
    ) -> None:
        """Drift is judged on the probes alone: float32 in more and more places would pass it some time."""
        outcome, stages = self.exported(
            twin, tmp_path, some_text, Gates().int8.model_copy(update={"max_similarity_drift": 1e-4})
        )
        assert isinstance(outcome, GateError)
        assert stages.count(self.GATE) == stages.count("type as int8") == 1
        assert "similarity drift" in outcome.message
        assert "of the work in fp32: min cosine" in outcome.message
        assert not (tmp_path / "twin" / "int8-openvino").exists()

    def losses(self, monkeypatch: pytest.MonkeyPatch, *smallest_cosines: float) -> None:
        """Let the engines that are built one after the other have these smallest cosines on the held-out text."""
        left = list(smallest_cosines)
        original = Plan.loss_of

        def loss_of(plan: Plan, run: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Loss:
            measured = original(plan, run)
            assert measured.min_cosine > 0.97  # the engine itself is sound
            return replace(measured, min_cosine=left.pop(0)) if left else measured

        monkeypatch.setattr(Plan, "loss_of", loss_of)

    def test_the_first_engine_that_passes_on_held_out_text_is_judged(
        self, twin: Path, tmp_path: Path, some_text: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.losses(monkeypatch, 0.5, 0.999)
        outcome, stages = self.exported(twin, tmp_path, some_text)
        assert isinstance(outcome, Bundle)
        assert stages.count(self.HELD_OUT) == stages.count("type as int8") == 2
        assert stages.count(self.GATE) == 1
        first, second = facts(outcome)["built"]
        assert (first["min_cosine"], second["min_cosine"]) == (0.5, 0.999)
        assert first["share_excluded"] < second["share_excluded"] == facts(outcome)["share_excluded"]

    def test_no_engine_that_fails_on_held_out_text_is_judged(
        self, twin: Path, tmp_path: Path, some_text: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.losses(monkeypatch, *[0.5, 0.6, *[0.4] * 10])
        outcome, stages = self.exported(twin, tmp_path, some_text)
        assert isinstance(outcome, GateError)
        assert "no engine passes on held-out calibration text" in outcome.message
        assert "min cosine 0.6000" in outcome.message
        assert len(outcome.report["tried"]) == stages.count(self.HELD_OUT) > 2
        assert self.GATE not in stages
        assert not (tmp_path / "twin" / "int8-openvino").exists()

    def test_where_none_passes_with_a_margin_the_nearest_is_built_again(
        self, twin: Path, tmp_path: Path, some_text: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.losses(monkeypatch, *[0.972, 0.975, *[0.971] * 10])
        outcome, stages = self.exported(twin, tmp_path, some_text)
        assert isinstance(outcome, Bundle)
        assert stages.count("type as int8") == stages.count(self.HELD_OUT) + 1
        assert stages.count(self.GATE) == 1
        built = facts(outcome)["built"]
        assert built[-1]["min_cosine"] == 0.975
        assert facts(outcome)["share_excluded"] == built[-1]["share_excluded"]
        report = validate_bundle(outcome, checkpoint=twin)
        assert report.passed
        assert report.statistics["min_cosine"] == pytest.approx(statistics(outcome)["min_cosine"], abs=1e-6)


def test_the_report_says_how_near_the_engine_is_to_what_was_emulated(demo_openvino: Bundle) -> None:
    content = json.loads((demo_openvino.folder / "parity.json").read_text(encoding="utf-8"))
    assert content["format"]["source"] == "the emulator of int8"
    assert content["statistics"]["emulator_error"] < 0.3 * content["format"]["mean_relative_error"]
    assert "difference from the emulator" in {verdict["name"] for verdict in content["verdicts"]}


def test_dynamic_int8_gives_what_the_emulator_says(
    twin_checkpoint: Checkpoint, twin_graph: Graph, some_text: Path
) -> None:
    calibration = calibration_set(some_text, [], twin_checkpoint.tokenizer, "")
    scheme = scheme_of("int8_dynamic", "onnxruntime", "cpu")
    plan = make_plan(twin_graph, Request(scheme, calibration, Gates().int8_dynamic))
    typed = dynamic.convert(plan, plan.found.candidates[0], calibration.fit)
    assert {"MatMulInteger", "DynamicQuantizeLinear"} <= set(typed.op_counts())
    batches = list(calibration.held_out)
    wanted = encode(twin_graph, batches)
    cosine = [
        float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        for a, b in zip(encode(typed, batches), wanted, strict=True)
    ]
    assert min(cosine) == pytest.approx(plan.found.candidates[0].loss.min_cosine, abs=2e-3)


def test_dynamic_int8_is_refused_elsewhere_before_any_work(twin: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="only onnxruntime's CPU provider"):
        exporter.export(str(twin), precision="int8_dynamic", backend="openvino", out=tmp_path)
    assert not any(tmp_path.iterdir())
