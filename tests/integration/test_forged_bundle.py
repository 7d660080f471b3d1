"""A bundle whose weights, gate and seal were all forged: bounds from outside of the bundle find it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import exporter
from exporter.bundle import Bundle
from exporter.bundle.minimum_gate import DEFAULT_MINIMUM_GATE, minimum_gate_of
from exporter.errors import BundleError, InputError, RecipeError
from exporter.recipe import Gate, Gates, Recipe
from exporter.serving.triton import Options, ship
from exporter.serving.triton.lint import check
from exporter.serving.triton.repository import ship as ship_whatever
from tests.support.manifests import edit_manifest, reseal
from tests.support.process import refused, succeeded
from tests.support.warm import CLI, WarmPython

OPTIONAL = {name for name, field in Gate.model_fields.items() if field.default is None and not field.is_required()}
NO_BOUND = {"min_cosine": -1.0, "neighbor_identity": 0.0, "max_spearman_drop": 100.0, **dict.fromkeys(OPTIONAL)}
WEAKER = "weaker than korsbert's gate: min_cosine -1.0 < 0.999999, no min_centered_cosine (0.99999999 wanted)"


def state_gate(bundle: Path, gate: dict[str, float | None]) -> None:
    """Have a bundle state another gate of fp32, with a seal that agrees."""
    edit_manifest(bundle, lambda manifest: manifest["recipe"]["gates"]["fp32"].update(gate))


def edit_report(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    report = json.loads((bundle / "parity.json").read_text(encoding="utf-8"))
    change(report)
    (bundle / "parity.json").write_text(json.dumps(report), encoding="utf-8")
    reseal(bundle)


def shuffle_embeddings(bundle: Path) -> None:
    model = onnx.load(bundle / "model.onnx")
    table = max(model.graph.initializer, key=lambda tensor: tensor.dims[0] if len(tensor.dims) == 2 else 0)
    rows = np.random.default_rng(0).permutation(numpy_helper.to_array(table))
    table.CopyFrom(numpy_helper.from_array(rows, table.name))
    onnx.save(model, bundle / "model.onnx")


def multiply_by_one(bundle: Path) -> None:
    """Add an operator to the graph that changes no vector: what a forger adds may wait for one phrase to change it."""
    model = onnx.load(bundle / "model.onnx")
    (output,) = model.graph.output
    name = output.name
    for node in model.graph.node:
        for index, written in enumerate(node.output):
            if written == name:
                node.output[index] = "sound"
    model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), "one"))
    model.graph.node.append(onnx.helper.make_node("Mul", ["sound", "one"], [name]))
    onnx.save(model, bundle / "model.onnx")


@pytest.fixture
def bundle(twin_bundle: Path, tmp_path: Path) -> Path:
    """A copy of a sound bundle."""
    return Path(shutil.copytree(twin_bundle, tmp_path / "bundle"))


@pytest.fixture
def forged(bundle: Path) -> Path:
    """Embeddings shuffled, no bound in its gate, every hash and the seal made anew."""
    shuffle_embeddings(bundle)
    state_gate(bundle, NO_BOUND)
    reseal(bundle)
    return bundle


class TestFactsOfTheForger:
    def test_a_graph_is_compared_whatever_tools_the_manifest_names(self, twin: Path, bundle: Path) -> None:
        multiply_by_one(bundle)
        edit_manifest(bundle, lambda manifest: manifest["tools"].update(torch="2.0.0"))
        reseal(bundle)
        report = exporter.validate(bundle, checkpoint=twin)
        assert [check.name for check in report.checks if not check.passed] == ["graph"]
        assert "the checkpoint was folded by torch 2.0.0, here " in report.failure()

    def test_what_the_manifest_says_of_the_encoder_is_compared(self, twin: Path, bundle: Path) -> None:
        edit_manifest(bundle, lambda manifest: manifest["encoder"].update(max_seq_length=4096, do_lower_case=True))
        report = exporter.validate(bundle, checkpoint=twin)
        assert [check.name for check in report.checks if not check.passed] == ["facts"]
        assert "max_seq_length is 4096 in the manifest, and 128 in the checkpoint" in report.failure()

    def test_what_the_manifest_says_of_the_engine_is_compared(self, twin: Path, tmp_path: Path) -> None:
        """Attention by lengths needs ONNX Runtime 1.25: 1.24 answers wrongly, and would open this bundle."""
        bundle = exporter.export(str(twin), precision="fp16", device="cuda", unvalidated=True, out=tmp_path)
        assert bundle.manifest.engine.least_runtime == "1.25"
        edit_manifest(bundle.folder, lambda manifest: manifest["engine"]["facts"].update(lengths=False))
        report = exporter.validate(bundle.folder, checkpoint=twin, device="cpu")
        assert [check.name for check in report.checks if not check.passed] == ["facts"]
        assert "lengths is False in the manifest, and True in the checkpoint" in report.failure()

    def test_smaller_shapes_than_the_default_are_not_believed(self, twin: Path, bundle: Path) -> None:
        small = {"batch": {"min": 1, "opt": 1, "max": 1}, "sequence": None}
        edit_manifest(bundle, lambda manifest: manifest["recipe"].update(shapes=small))
        (sweep,) = [check for check in exporter.validate(bundle, checkpoint=twin).checks if check.name == "sweep"]
        assert sweep.figures["batches"] == [1, 2, 32, 128]


class TestForged:
    def test_its_own_gate_lets_it_pass(self, twin: Path, forged: Path) -> None:
        """Without bounds from elsewhere no number would be wrong with it."""
        own = Bundle.open(forged).manifest.recipe.gates
        report = exporter.validate(forged, checkpoint=twin, gates=own)
        assert all(verdict.passed for verdict in report.verdicts)
        assert report.statistics["min_cosine"] < 0.9

    def test_validate_fails_it_by_the_default_gate(self, python: WarmPython, twin: Path, forged: Path) -> None:
        done = python.run(CLI, "validate", forged, "--checkpoint", twin)
        assert done.status == 1, done
        assert f"warning: the bundle's own gate is {WEAKER}" in done.stderr
        assert "FAILED   min cosine" in done.stdout

    def test_validate_in_python_fails_it_too(self, twin: Path, forged: Path) -> None:
        assert not exporter.validate(forged, checkpoint=twin).passed

    def test_validate_prints_the_weaker_bounds_as_json(self, python: WarmPython, twin: Path, forged: Path) -> None:
        done = python.run(CLI, "validate", forged, "--checkpoint", twin, "--json")
        told = json.loads(done.stdout)
        assert (done.status, told["passed"]) == (1, False)
        assert "min_cosine -1.0 < 0.999999" in told["weaker_own_gate"]

    @pytest.mark.parametrize("runtime", ["engine", "python"])
    def test_ship_refuses_it(self, python: WarmPython, forged: Path, tmp_path: Path, runtime: str) -> None:
        done = python.run(CLI, "ship", forged, "--repository", tmp_path / "models", "--runtime", runtime)
        refused(done, 2, str(forged), f"the bundle's own gate is {WEAKER}")
        assert not (tmp_path / "models").exists()

    def test_show_calls_it_out(self, python: WarmPython, forged: Path) -> None:
        done = python.run(CLI, "show", forged)
        assert done.status == 0
        assert "BELOW THE DEFAULT GATE" in done.stdout
        assert "min_cosine -1.0 < 0.999999" in " ".join(done.stdout.split())
        done = python.run(CLI, "show", forged, "--json")
        assert WEAKER in json.loads(done.stdout)["below_default_gate"][0]

    @pytest.mark.parametrize("runtime", ["engine", "python"])
    def test_check_finds_it_in_a_repository(
        self, python: WarmPython, forged: Path, tmp_path: Path, runtime: Any
    ) -> None:
        ship_whatever([Bundle.open(forged)], tmp_path / "models", Options(runtime=runtime))
        done = python.run(CLI, "check", tmp_path / "models")
        assert done.status == 1
        assert WEAKER in done.stdout
        own = minimum_gate_of(Bundle.open(forged).manifest.recipe.gates)
        assert not [finding for finding in check(tmp_path / "models", own) if finding.field == "gate"]


class TestSound:
    def test_nothing_is_called_out(self, python: WarmPython, bundle: Path) -> None:
        assert DEFAULT_MINIMUM_GATE.objections(Bundle.open(bundle)) == ()
        assert "BELOW" not in python.run(CLI, "show", bundle).stdout

    def test_its_own_stricter_bound_counts(self, twin: Path, bundle: Path) -> None:
        state_gate(bundle, {"min_cosine": 1.0})
        report = exporter.validate(bundle, checkpoint=twin)
        assert [verdict.name for verdict in report.verdicts if not verdict.passed] == ["min cosine"]

    def test_bounds_of_the_user_count_where_they_are_stricter(
        self, python: WarmPython, twin: Path, bundle: Path
    ) -> None:
        gates = bundle.parent / "gates.yaml"
        gates.write_text("gates:\n  fp32: {min_cosine: 1.0}\n", encoding="utf-8")
        done = python.run(CLI, "validate", bundle, "--checkpoint", twin, "--gates", gates)
        assert done.status == 1
        assert "the bundle's own gate is weaker than gates.yaml's gate: min_cosine 0.999999 < 1.0" in done.stderr
        done = python.run(CLI, "ship", bundle, "--repository", bundle.parent / "models", "--gates", gates)
        refused(done, 2, "weaker than gates.yaml's gate", "parity.json misses gates.yaml's gate: min_cosine 0.99")

    def test_bounds_of_the_user_may_be_weaker_than_the_defaults(
        self, python: WarmPython, twin: Path, bundle: Path, tmp_path: Path
    ) -> None:
        state_gate(bundle, {"min_cosine": 0.9})
        recipe = tmp_path / "weak.yaml"
        recipe.write_text("name: weak\nsource: a/b\ngates:\n  fp32: {min_cosine: 0.9}\n", encoding="utf-8")
        models = tmp_path / "models"
        refused(python.run(CLI, "ship", bundle, "--repository", models), 2, "min_cosine 0.9 < 0.999999")
        done = python.run(CLI, "ship", bundle, "--repository", models, "--recipe", recipe)
        succeeded(done)
        done = python.run(CLI, "validate", bundle, "--checkpoint", twin, "--recipe", recipe)
        succeeded(done)

    def test_a_recipe_that_ships_goes_by_its_name(self, python: WarmPython, twin: Path, bundle: Path) -> None:
        done = python.run(CLI, "validate", bundle, "--checkpoint", twin, "--recipe", "demo")
        succeeded(done)


class TestRecordedStatistics:
    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (lambda report: report["statistics"].update(min_cosine=0.5), "min_cosine 0.5 < 0.999998"),
            (lambda report: report["statistics"].update(max_relative_error=0.5), "max_relative_error 0.5 > 4e-05"),
            (lambda report: report["statistics"].update(mean_neighbor_overlap=0.5), "mean_neighbor_overlap 0.5 < "),
            (lambda report: report["statistics"].pop("min_neighbor_overlap"), "no min_neighbor_overlap (0.8 wanted)"),
            (lambda report: report["statistics"].update(min_cosine=None), "no min_cosine (0.999998 wanted)"),
            (lambda report: report["statistics"].update(min_cosine=float("nan")), "min_cosine nan < 0.999998"),
            (lambda report: report["statistics"].update(min_cosine="good"), "min_cosine good < 0.999998"),
            (lambda report: report["statistics"].pop("max_batch_deviation"), "no max_batch_deviation"),
            (lambda report: report["statistics"].update(min_cosine=True), "min_cosine True < 0.999998"),
            (lambda report: report["statistics"].update(max_relative_error=-5), "max_relative_error -5 > 4e-05"),
            (lambda report: report.update(passed=False), "its gate was not passed"),
            (lambda report: report.pop("checks"), "its checks were not passed"),
            (lambda report: report["checks"][0].update(passed=False), "its checks were not passed"),
        ],
    )
    def test_that_miss_the_floor_are_refused(
        self, bundle: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], told: str
    ) -> None:
        edit_report(bundle, change)
        with pytest.raises(BundleError, match=r"parity\.json misses korsbert's gate") as failure:
            ship([Bundle.open(bundle)], tmp_path / "models", Options())
        assert told in failure.value.message

    def test_a_bound_that_is_widened_for_single_probes_counts_at_its_widest(self, bundle: Path) -> None:
        opened = Bundle.open(bundle)
        at = opened.manifest.recipe.gates.fp32.model_copy(update={"min_cosine": 1.0, "max_widening": 1.0})
        assert "parity.json misses" in " ".join(minimum_gate_of(Gates(fp32=at)).objections(opened))
        found = json.loads(opened.read("parity.json"))["statistics"]["min_cosine"]
        bound = 1 - (1 - found) / 1.5
        for widening, misses in ((1.0, True), (1.4, True), (1.6, False)):
            gate = at.model_copy(update={"min_cosine": bound, "max_widening": widening})
            objections = " ".join(minimum_gate_of(Gates(fp32=gate)).objections(opened))
            assert ("parity.json misses" in objections) == misses

    @pytest.mark.parametrize("content", ["", "[]", "null", "{}", '{"statistics": 1}'])
    def test_a_report_that_is_none_is_refused(self, bundle: Path, content: str) -> None:
        (bundle / "parity.json").write_text(content, encoding="utf-8")
        reseal(bundle)
        with pytest.raises(BundleError, match=r"parity\.json: not (JSON|a parity report)"):
            DEFAULT_MINIMUM_GATE.objections(Bundle.open(bundle))


class TestMinimumGateOf:
    def test_gates_are_taken_from_what_has_them(self, tmp_path: Path) -> None:
        gates = Gates(fp32=Gate(min_cosine=0.5))
        (tmp_path / "g.yaml").write_text("gates:\n  fp32: {min_cosine: 0.5}\n", encoding="utf-8")
        assert minimum_gate_of().gates == Gates()
        assert minimum_gate_of(gates).gates == gates
        assert minimum_gate_of(Recipe(name="r", source="a/b", gates=gates)).gates == gates
        assert minimum_gate_of(tmp_path / "g.yaml").gates.fp32.min_cosine == 0.5
        assert minimum_gate_of(recipe="demo").source == "demo's gate"

    def test_two_of_them_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="both `gates` and `recipe` are given"):
            minimum_gate_of(tmp_path / "g.yaml", "demo")

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            ("gates: {fp32: {min_cosin: 0.9}}", r"gates\.fp32\.min_cosin: unknown key, did you mean 'min_cosine'"),
            ("fp32: {min_cosine: 0.9}", "gates: Field required"),
            ("gates: {fp32: {min_cosine: 2}}", r"gates\.fp32\.min_cosine"),
            ("[1]", "a mapping of keys"),
            ("gates: [", "not YAML"),
        ],
    )
    def test_a_file_that_holds_no_gates(self, tmp_path: Path, content: str, told: str) -> None:
        (tmp_path / "g.yaml").write_text(content, encoding="utf-8")
        with pytest.raises(RecipeError, match=told):
            minimum_gate_of(tmp_path / "g.yaml")

    def test_a_recipe_that_is_neither_a_file_nor_a_name(self) -> None:
        with pytest.raises(RecipeError, match="nowhere: neither a file nor a built-in recipe"):
            minimum_gate_of(recipe="nowhere")
