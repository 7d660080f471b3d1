"""Golden files: a gate in seconds, without torch and weights, that fails where the gate with the checkpoint fails."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import model_signing
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import exporter
from exporter.bundle import Bundle
from exporter.bundle.signing import Signer
from exporter.errors import BundleError, InputError
from exporter.golden import Golden, read_golden, sign_golden, signature_of, write_golden
from exporter.recipe import Gate, Gates, Recipe
from exporter.validator import ParityReport
from tests.conftest import ROOT
from tests.support.changed_bundles import truncate_early
from tests.support.keys import ec_key
from tests.support.manifests import edit_manifest, reseal
from tests.support.process import refused, run_program
from tests.support.warm import CLI, WarmPython

DEMO = ROOT / "recipes" / "demo" / "checkpoint"
PROMPTS = {"query": "질문: ", "document": "문서: ", "title": "제목: "}


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's golden file."""
    path = tmp_path_factory.mktemp("golden") / "demo.golden"
    exporter.write_golden("demo", path)
    return path


@pytest.fixture(scope="module")
def answers(golden: Path) -> Golden:
    return read_golden(golden)


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden file of the demo with prompts."""
    folder = tmp_path_factory.mktemp("prompted")
    checkpoint = Path(shutil.copytree(DEMO, folder / "checkpoint"))
    config = checkpoint / "config_sentence_transformers.json"
    content = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**content, "prompts": PROMPTS}), encoding="utf-8")
    exporter.write_golden(checkpoint, folder / "prompted.golden")
    return folder / "prompted.golden"


@pytest.fixture(scope="module")
def encode(demo_fp32: Path) -> Iterator[Callable[[list[str]], np.ndarray]]:
    with exporter.load(demo_fp32) as encoder:
        yield encoder.encode


@pytest.fixture
def bundle(demo_fp32: Path, tmp_path: Path) -> Path:
    """A copy of a sound bundle, to change."""
    return Path(shutil.copytree(demo_fp32, tmp_path / "bundle"))


def figures(report: ParityReport) -> dict[str, tuple[float, float]]:
    return {verdict.name: (verdict.value, verdict.bound) for verdict in report.verdicts}


@pytest.mark.parametrize("name", ["demo_fp16", pytest.param("demo_fp32", marks=pytest.mark.slow)])
def test_the_verdicts_are_those_of_the_checkpoint(name: str, golden: Path, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(name)
    with_golden, with_checkpoint = exporter.validate(folder, golden=golden), exporter.validate(folder)
    assert with_golden.passed, with_golden.failure()
    assert figures(with_golden) == figures(with_checkpoint)
    assert with_golden.golden == read_golden(golden).facts.seal
    assert with_checkpoint.golden is None
    checks = {check.name: check.coverage for check in with_golden.checks}
    assert {"facts", "tokenizer"} <= checks.keys()
    skipped = {check.name for check in with_golden.checks if not check.compared}
    assert skipped == {"engine facts", "weights", "graph", "dataflow", "lookup", "sweep"}


def test_a_bundle_can_stand_for_its_checkpoint(demo_fp32: Path, answers: Golden, tmp_path: Path) -> None:
    facts = exporter.write_golden(demo_fp32, tmp_path / "of-bundle.golden")
    assert (facts.source.weights_sha256, facts.probes) == (answers.facts.source.weights_sha256, answers.facts.probes)
    assert facts.sha256 == answers.facts.sha256
    with pytest.raises(InputError, match=r"`revision` is given for a bundle"):
        exporter.write_golden(demo_fp32, tmp_path / "other.golden", revision="main")


def test_commands(python: WarmPython, demo_fp32: Path, tmp_path: Path) -> None:
    file = tmp_path / "demo.golden"
    made = python.run(CLI, "golden", "demo", "--out", file, "--dtype", "float16", "--json")
    assert made.status == 0, made.stderr
    told = json.loads(made.stdout)
    assert (told["golden"], told["size_bytes"], told["facts"]["dtype"]) == (str(file), file.stat().st_size, "float16")
    refused(
        python.run(CLI, "validate", demo_fp32, "--golden", file),
        2,
        "a golden file in float16 is too coarse for a relative error of",
    )
    shown = python.run(CLI, "golden", "demo", "--out", file)
    assert shown.status == 0, shown.stderr
    assert "vectors of 256 dimensions in float32" in shown.stdout
    done = python.run(CLI, "validate", demo_fp32, "--golden", file, "--junit", tmp_path / "junit.xml", "--json")
    assert done.status == 0, done.stderr
    assert json.loads(done.stdout)["golden"] == read_golden(file).facts.seal
    assert (tmp_path / "junit.xml").is_file()
    for other in (("--checkpoint", DEMO), ("--sts", file), ("--record",)):
        done = python.run(CLI, "validate", demo_fp32, "--golden", file, *other)
        refused(done, 2, f"--golden and {other[0]} are both given")


def test_float16_judges_coarser_formats(demo_fp16: Path, demo_fp32: Path, answers: Golden, tmp_path: Path) -> None:
    file = tmp_path / "half.golden"
    write_golden(file, replace(answers, facts=answers.facts.model_copy(update={"dtype": "float16"})))
    assert exporter.validate(demo_fp16, golden=file).passed
    with pytest.raises(InputError, match="too coarse"):
        exporter.validate(demo_fp32, golden=file)
    large = replace(answers, facts=answers.facts.model_copy(update={"dtype": "float16"}), vectors=answers.vectors * 1e6)
    with pytest.raises(InputError, match="do not fit into float16"):
        write_golden(tmp_path / "large.golden", large)
    assert not (tmp_path / "large.golden").exists()


class TestRed:
    """Each of these is refused by its cause."""

    def test_a_changed_weight(self, golden: Path, bundle: Path) -> None:
        model = onnx.load(bundle / "model.onnx")
        table = max(model.graph.initializer, key=lambda tensor: tensor.dims[0] if len(tensor.dims) == 2 else 0)
        weights = numpy_helper.to_array(table) * np.float32(1.01)
        table.CopyFrom(numpy_helper.from_array(weights, table.name))
        onnx.save(model, bundle / "model.onnx")
        reseal(bundle)
        report = exporter.validate(bundle, golden=golden)
        assert not report.passed
        assert not all(verdict.passed for verdict in report.verdicts)
        assert all(check.passed for check in report.checks)

    def test_a_replaced_tokenizer(self, golden: Path, bundle: Path) -> None:
        content = json.loads((bundle / "tokenizer.json").read_text(encoding="utf-8"))
        vocabulary = content["model"]["vocab"]
        if isinstance(vocabulary, dict):
            first, second = [token for token, number in vocabulary.items() if number in (500, 501)]
            vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
        else:
            vocabulary[500], vocabulary[501] = vocabulary[501], vocabulary[500]
        (bundle / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        reseal(bundle)
        report = exporter.validate(bundle, golden=golden)
        assert "probes have other token ids: " in report.failure()

    def test_a_tokenizer_that_truncates_early(self, golden: Path, bundle: Path) -> None:
        truncate_early(bundle)
        report = exporter.validate(bundle, golden=golden)
        assert "probes have other token ids: " in report.failure()
        assert re.search(r"only text of 1\d\d tokens or more fails: truncation or positions", report.failure())

    def test_other_weights_in_the_manifest(self, golden: Path, bundle: Path) -> None:
        edit_manifest(bundle, lambda manifest: manifest["source"].update(weights_sha256="0" * 64))
        report = exporter.validate(bundle, golden=golden)
        assert f"facts: weights_sha256 is {'0' * 64!r} in the manifest, and " in report.failure()

    def test_a_weaker_gate_in_the_bundle(self, answers: Golden, bundle: Path, tmp_path: Path) -> None:
        """The golden file's own bounds count, as korsbert's do."""
        strict = answers.facts.gates.fp32.model_copy(update={"max_relative_error": 1e-9})
        gates = answers.facts.gates.model_copy(update={"fp32": strict})
        file = tmp_path / "strict.golden"
        write_golden(file, replace(answers, facts=answers.facts.model_copy(update={"gates": gates})))
        report = exporter.validate(bundle, golden=file)
        assert "max relative error" in report.failure()
        assert "> 1e-09" in report.failure()

    def test_vectors_of_another_length(self, golden: Path, minilm_fp16: Path) -> None:
        with pytest.raises(InputError, match=r"vectors of 256 dimensions \(demo\), the bundle of 384"):
            exporter.validate(minilm_fp16, golden=golden)


class TestFilesForCi:
    """JUnit XML and a summary are written however a validation ends."""

    def test_of_a_bundle_that_passes(self, python: WarmPython, golden: Path, bundle: Path, tmp_path: Path) -> None:
        junit, summary = tmp_path / "junit.xml", tmp_path / "summary.md"
        files = ("--golden", golden, "--junit", junit, "--summary", summary, "--baseline", bundle / "parity.json")
        for _ in range(2):
            done = python.run(CLI, "validate", bundle, *files)
            assert done.status == 0, done.stderr
        suite = ElementTree.parse(junit).getroot()
        assert (suite.get("failures"), suite.get("errors"), suite.get("skipped")) == ("0", "0", "6")
        text = summary.read_text(encoding="utf-8")
        assert text.count("### ✅ demo fp32 on onnxruntime: passed") == 2, "it is appended"
        assert text.count("The 5 sentences with the smallest cosine:") == 2
        assert "since the baseline" in text.lower()
        assert "onnxruntime 1." in text

    def test_of_one_that_fails(self, python: WarmPython, golden: Path, bundle: Path, tmp_path: Path) -> None:
        truncate_early(bundle)
        junit, summary = tmp_path / "junit.xml", tmp_path / "summary.md"
        done = python.run(CLI, "validate", bundle, "--golden", golden, "--junit", junit, "--summary", summary)
        assert done.status == 1
        for text in (junit.read_text(encoding="utf-8"), summary.read_text(encoding="utf-8")):
            assert text.count("likely cause: only text of 1") == 1, "the cause is told once"
        assert "### ❌ demo fp32 on onnxruntime: FAILED" in summary.read_text(encoding="utf-8")

    def test_of_one_that_is_refused(self, python: WarmPython, golden: Path, bundle: Path, tmp_path: Path) -> None:
        with (bundle / "model.onnx").open("r+b") as file:
            file.write(b"x")
        junit, summary = tmp_path / "junit.xml", tmp_path / "summary.md"
        done = python.run(CLI, "validate", bundle, "--golden", golden, "--junit", junit, "--summary", summary)
        refused(done, 2, "model.onnx: altered since it was published")
        suite = ElementTree.parse(junit).getroot()
        assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("1", "0", "1")
        (error,) = suite.iter("error")
        assert error.get("type") == "BundleError"
        text = summary.read_text(encoding="utf-8")
        assert "could not be judged" in text
        assert "model.onnx&#58; altered since it was published" in text

    def test_an_old_report_is_not_taken_for_that_of_this_run(
        self, python: WarmPython, golden: Path, bundle: Path, tmp_path: Path
    ) -> None:
        junit, summary = tmp_path / "junit.xml", tmp_path / "summary.md"
        junit.write_text("<?xml version='1.0'?><testsuites errors='0'/>")
        files = ("--junit", junit, "--summary", summary, "--baseline", tmp_path / "none.json")
        refused(python.run(CLI, "validate", bundle, "--golden", golden, *files), 2, "none.json: cannot be read")
        assert ElementTree.parse(junit).getroot().get("errors") == "1"
        assert "none.json" in summary.read_text(encoding="utf-8")

    def test_files_that_cannot_be_used(self, python: WarmPython, golden: Path, bundle: Path, tmp_path: Path) -> None:
        command = ("validate", bundle, "--golden", golden)
        for option in ("--junit", "--summary"):
            done = python.run(CLI, *command, option, tmp_path / "none" / "file")
            refused(done, 2, "none/file: cannot be written: No such file or directory")
        refused(python.run(CLI, *command, "--baseline", golden), 2, "--baseline is given without --summary")
        baseline = ("--summary", tmp_path / "summary.md", "--baseline", bundle / "manifest.json")
        refused(python.run(CLI, *command, *baseline), 2, "manifest.json: not a parity report")


class TestFunctions:
    def test_one_that_answers_as_the_checkpoint(self, encode: Callable[[list[str]], np.ndarray], golden: Path) -> None:
        report = exporter.assert_embeddings_match(lambda texts: encode(texts).tolist(), golden)
        assert (report.passed, report.golden) == (True, read_golden(golden).facts.seal)

    @pytest.mark.parametrize(
        ("fault", "told"),
        [
            (lambda vectors: vectors * 2, "all vectors are 2 times as long as the reference's"),
            (lambda vectors: vectors[::-1], "rows are out of order"),
            (lambda vectors: np.round(vectors * 20) / 20, "max relative error"),
            (lambda vectors: vectors * np.nan, "NaN or Inf"),
        ],
        ids=["a factor", "another order", "rounded", "NaN"],
    )
    def test_one_that_does_not(
        self,
        fault: Callable[[np.ndarray], np.ndarray],
        told: str,
        encode: Callable[[list[str]], np.ndarray],
        golden: Path,
    ) -> None:
        with pytest.raises(AssertionError, match=told):
            exporter.assert_embeddings_match(lambda texts: fault(encode(texts)), golden)

    def test_one_whose_answer_depends_on_the_batch(
        self, encode: Callable[[list[str]], np.ndarray], golden: Path
    ) -> None:
        with pytest.raises(AssertionError, match="padding is not masked"):
            exporter.assert_embeddings_match(lambda texts: encode(texts) + 0.3 * (len(texts) == 8), golden)

    def test_what_is_no_vector(self, encode: Callable[[list[str]], np.ndarray], golden: Path) -> None:
        with pytest.raises(InputError, match=r"the function returned \(729, 10\) for 729 texts"):
            exporter.assert_embeddings_match(lambda texts: encode(texts)[:, :10], golden)
        with pytest.raises(InputError, match=r"`precision` is 'float32'"):
            exporter.assert_embeddings_match(encode, golden, precision="float32")

    @pytest.mark.parametrize("answer", [["a", "b"], [[1.0], [2.0, 3.0]], None], ids=["texts", "ragged", "nothing"])
    def test_what_is_no_array(self, answer: object, golden: Path) -> None:
        with pytest.raises(InputError, match="the function returned"):
            exporter.assert_embeddings_match(lambda _: answer, golden)

    def test_a_weak_gate_of_the_golden_file_does_not_count(
        self, encode: Callable[[list[str]], np.ndarray], answers: Golden, tmp_path: Path
    ) -> None:
        weak = Gates(fp32=Gate(min_cosine=-1.0, neighbor_identity=0.0))
        file = tmp_path / "weak.golden"
        write_golden(file, replace(answers, facts=answers.facts.model_copy(update={"gates": weak})))
        with pytest.raises(AssertionError, match="min cosine"):
            exporter.assert_embeddings_match(lambda texts: encode(texts)[::-1], file)
        with pytest.raises(BundleError, match="not signed"):
            exporter.assert_embeddings_match(encode, file, require_signature=Path(__file__))

    def test_bounds_of_ones_own(self, encode: Callable[[list[str]], np.ndarray], golden: Path, tmp_path: Path) -> None:
        (tmp_path / "gates.yaml").write_text("gates: {fp32: {max_relative_error: 1.0e-9}}")
        with pytest.raises(AssertionError, match=r"max relative error .* > 1e-09"):
            exporter.assert_embeddings_match(encode, golden, gates=tmp_path / "gates.yaml")


def test_the_fixture_of_pytest(demo_fp32: Path, golden: Path, tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        f"""
import exporter

def test_sound(embedding_parity):
    with exporter.load({str(demo_fp32)!r}) as encoder:
        embedding_parity(encoder.encode, {str(golden)!r})

def test_unsound(embedding_parity):
    with exporter.load({str(demo_fp32)!r}) as encoder:
        embedding_parity(lambda texts: encoder.encode(texts)[::-1], {str(golden)!r})
"""
    )
    # The plugin is found as pytest finds it for a user: by the entry point of the installed package.
    done = run_program([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path], cwd=tmp_path)
    assert done.status == 1, done
    assert "1 failed, 1 passed" in done.stdout
    assert "likely cause: most rows are closest to another row's reference" in done.stdout


class TestPrompts:
    def state_prompts(self, bundle: Path, prompts: dict[str, str]) -> None:
        edit_manifest(bundle, lambda manifest: manifest["encoder"].update(prompts=prompts))

    def test_each_is_judged(self, prompted: Path, bundle: Path) -> None:
        self.state_prompts(bundle, PROMPTS)
        report = exporter.validate(bundle, golden=prompted)
        assert report.passed, report.failure()
        (check,) = [check for check in report.checks if check.name == "prompts"]
        assert check.coverage.startswith("prompt 'query', prompt 'document', prompt 'title', encode_query, encode_docu")

    def test_another_text_of_one(self, prompted: Path, bundle: Path) -> None:
        self.state_prompts(bundle, {**PROMPTS, "title": "제목 "})
        failure = exporter.validate(bundle, golden=prompted).failure()
        assert "facts: prompts is " in failure
        assert "prompts: prompt 'title': min cosine " in failure

    def test_one_that_the_bundle_lacks(self, prompted: Path, bundle: Path) -> None:
        self.state_prompts(bundle, {name: text for name, text in PROMPTS.items() if name != "title"})
        failure = exporter.validate(bundle, golden=prompted).failure()
        assert "prompts: the bundle has no prompt 'title'" in failure


@pytest.mark.slow
def test_dimensions_of_the_bundle_are_judged(twin: Path, tmp_path: Path) -> None:
    """A golden file of a plain folder declares none, and holds whole vectors."""
    recipe = Recipe(name="matryoshka", source=str(twin), truncate_dims=(16,))
    bundle = exporter.export(recipe, out=tmp_path / "out")
    exporter.write_golden(str(twin), tmp_path / "twin.golden")
    report = exporter.validate(bundle, golden=tmp_path / "twin.golden", checkpoint=None)
    assert report.passed, report.failure()
    assert "min cosine at 16 dimensions" in {verdict.name for verdict in report.verdicts}
    exporter.write_golden(recipe, tmp_path / "declared.golden")
    plain = exporter.export(str(twin), out=tmp_path / "plain")
    report = exporter.validate(plain, golden=tmp_path / "declared.golden")
    assert report.passed, report.failure()
    assert [check.coverage for check in report.checks if check.name == "16 dimensions"] == [
        "not compared: the bundle does not declare them"
    ]


def test_rounding_is_told_of_the_rows_that_are_asked_for(answers: Golden) -> None:
    reference = answers.reference(None)
    assert reference.rounding is not None
    loss = reference.rounding([3, 7])
    assert np.flatnonzero(loss.rows).tolist() == [3, 7]
    whole = answers.losses["fp32"].parity
    assert loss.parity.relative_error[7] == whole.relative_error[7]
    assert loss.parity.cosine[3] == whole.cosine[3]


class TestFile:
    def test_it_is_what_was_written(self, answers: Golden, tmp_path: Path) -> None:
        write_golden(tmp_path / "again.golden", answers)
        again = read_golden(tmp_path / "again.golden")
        assert again.facts == answers.facts
        np.testing.assert_array_equal(again.vectors, answers.vectors)
        assert again.token_ids == answers.token_ids
        for name, loss in answers.losses.items():
            for figure in ("cosine", "centered_cosine", "relative_error"):
                found, wanted = (getattr(one.parity, figure) for one in (again.losses[name], loss))
                np.testing.assert_array_equal(found, wanted)

    @pytest.mark.parametrize("part", range(8))
    def test_a_flipped_bit(self, part: int, golden: Path, tmp_path: Path) -> None:
        content = bytearray(golden.read_bytes())
        content[8 + part * (len(content) - 9) // 7] ^= 1
        (tmp_path / "bad.golden").write_bytes(content)
        with pytest.raises((InputError, BundleError), match=r"bad\.golden: ((damaged, or )?not a golden|altered)"):
            read_golden(tmp_path / "bad.golden")

    @pytest.mark.parametrize("length", [0, 7, 100, 5000, -1])
    def test_a_file_cut_short(self, length: int, golden: Path, tmp_path: Path) -> None:
        (tmp_path / "bad.golden").write_bytes(golden.read_bytes()[:length])
        with pytest.raises(InputError, match=r"bad\.golden: (damaged, or )?not a golden file"):
            read_golden(tmp_path / "bad.golden")

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (
                lambda golden: replace(golden, vectors=golden.vectors[1:]),
                r"vectors is float32 \(\d+, 256\), and should",
            ),
            (
                lambda golden: replace(golden, vectors=golden.vectors * np.nan),
                "vectors has a number that is not finite",
            ),
            (lambda golden: replace(golden, token_ids=golden.token_ids[1:]), "token_counts is int32"),
            (lambda golden: replace(golden, losses={}), "it has no loss.fp16"),
        ],
        ids=["fewer vectors", "NaN", "fewer token ids", "no losses"],
    )
    def test_tensors_that_are_not_those_of_the_facts(
        self, change: Callable[[Golden], Golden], told: str, answers: Golden, tmp_path: Path
    ) -> None:
        write_golden(tmp_path / "bad.golden", change(answers))
        with pytest.raises(InputError, match=rf"bad\.golden: damaged, or not a golden file: .*{told}"):
            read_golden(tmp_path / "bad.golden")

    @pytest.mark.parametrize("count", [0, 1, 99, 5001])
    def test_too_few_probes_and_too_many(self, count: int, answers: Golden, tmp_path: Path) -> None:
        """One probe proves nothing, and the time to compare many grows with the square."""
        probes = [number % 729 for number in range(count)]
        facts = answers.facts.model_copy(update={"probes": tuple(answers.facts.probes[row] for row in probes)})
        rows = {name: replace(loss, parity=loss.parity) for name, loss in answers.losses.items()}
        ids = [answers.token_ids[row] for row in probes]
        write_golden(tmp_path / "bad.golden", Golden(facts, answers.vectors[probes], ids, rows, None))
        with pytest.raises(InputError, match=rf"it has {count} probes, and 100 to 5000 are expected"):
            read_golden(tmp_path / "bad.golden")

    @pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", "X", 7])
    def test_a_type_that_numpy_does_not_have(self, dtype: object, golden: Path, tmp_path: Path) -> None:
        content = golden.read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        header["vectors"]["dtype"] = dtype
        changed = json.dumps(header).encode()
        (tmp_path / "bad.golden").write_bytes(len(changed).to_bytes(8, "little") + changed + content[8 + length :])
        with pytest.raises(InputError, match=r"bad\.golden: not a golden file"):
            read_golden(tmp_path / "bad.golden")

    @pytest.mark.parametrize(
        "content", [b"", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}", (3).to_bytes(8, "little") + b"[[["], ids=str
    )
    def test_another_file(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "bad.golden").write_bytes(content)
        with pytest.raises(InputError, match=r"bad\.golden: not a golden file"):
            read_golden(tmp_path / "bad.golden")

    def test_what_is_no_golden_file_is_not_replaced(self, answers: Golden, tmp_path: Path) -> None:
        (tmp_path / "mine.csv").write_text("a,b,korsbert_golden\n")
        with pytest.raises(InputError, match=r"mine\.csv: is there, and is no golden file"):
            write_golden(tmp_path / "mine.csv", answers)
        with pytest.raises(InputError, match=r"mine\.csv: is there, and is no golden file"):
            exporter.write_golden("demo", tmp_path / "mine.csv")
        assert (tmp_path / "mine.csv").read_text() == "a,b,korsbert_golden\n"
        with pytest.raises(InputError, match="`out` is empty"):
            exporter.write_golden("demo", "")

    def test_one_that_is_replaced_loses_its_signature(self, answers: Golden, golden: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copy(golden, tmp_path / "demo.golden"))
        signature_of(copy).write_bytes(b"of the old one")
        write_golden(copy, answers)
        assert not signature_of(copy).exists()

    def test_where_nothing_can_be_read_or_written(self, answers: Golden, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"none\.golden: cannot be read: No such file"):
            read_golden(tmp_path / "none.golden")
        with pytest.raises(InputError, match=r"none/a\.golden: cannot be written: No such file"):
            write_golden(tmp_path / "none" / "a.golden", answers)

    def test_a_report_of_it_is_not_recorded(self, golden: Path, demo_fp32: Path) -> None:
        bundle = Bundle.open(demo_fp32)
        pending = bundle.manifest.validation.model_copy(update={"state": "pending"})
        bundle.manifest = bundle.manifest.model_copy(update={"validation": pending})
        report = exporter.validate(demo_fp32, golden=golden)
        with pytest.raises(BundleError, match="the report is about a golden file"):
            exporter.record_validation(bundle, report)


class TestSignature:
    @pytest.fixture
    def signed(self, golden: Path, tmp_path: Path) -> Path:
        """A copy with the signature of ``publisher.key``."""
        for name in ("publisher", "other"):
            ec_key(tmp_path, name)
        copy = Path(shutil.copy(golden, tmp_path / "demo.golden"))
        assert sign_golden(copy, Signer(tmp_path / "publisher.key")) == signature_of(copy)
        return copy

    def test_of_the_signer(self, signed: Path) -> None:
        read_golden(signed, require_signature=signed.with_name("publisher.pub"))
        verifying: Any = model_signing.verifying.Config
        by_library: Any = verifying().use_elliptic_key_verifier(public_key=signed.with_name("publisher.pub"))
        by_library.verify(signed, signature_of(signed))

    def test_of_somebody_else(self, signed: Path) -> None:
        with pytest.raises(BundleError, match="not a signature by the public key"):
            read_golden(signed, require_signature=signed.with_name("other.pub"))

    def test_of_another_file(self, signed: Path, answers: Golden) -> None:
        signature = signature_of(signed).read_bytes()
        write_golden(signed, replace(answers, facts=answers.facts.model_copy(update={"created": "later"})))
        signature_of(signed).write_bytes(signature)
        read_golden(signed)
        with pytest.raises(BundleError, match="altered since it was signed"):
            read_golden(signed, require_signature=signed.with_name("publisher.pub"))

    def test_none(self, golden: Path, signed: Path) -> None:
        with pytest.raises(BundleError, match=r"not signed, and a signature by .*publisher\.pub is required"):
            read_golden(golden, require_signature=signed.with_name("publisher.pub"))

    def test_commands(self, python: WarmPython, golden: Path, bundle: Path, tmp_path: Path) -> None:
        ec_key(tmp_path, "publisher")
        copy = Path(shutil.copy(golden, tmp_path / "demo.golden"))
        key = ("--private-key", tmp_path / "publisher.key")
        public: tuple[Any, ...] = ("--public-key", tmp_path / "publisher.pub")
        done = python.run(CLI, "sign", copy, *key)
        assert (done.status, done.stdout) == (0, f"{copy}.sig: signs 1 file\n"), done.stderr
        refused(python.run(CLI, "sign", copy, *key), 2, "demo.golden.sig: already exists")
        done = python.run(CLI, "verify-signature", copy, *public)
        assert (done.status, done.stdout.endswith("1 file verified\n")) == (0, True), done.stderr
        required = ("validate", bundle, "--golden", copy, "--require-signature", public[1])
        refused(python.run(CLI, *required), 2, "not signed")
        assert python.run(CLI, "sign", bundle, *key).status == 0
        done = python.run(CLI, *required)
        assert done.status == 0, done.stderr
        signature_of(copy).unlink()
        refused(python.run(CLI, *required), 2, "demo.golden: not signed")
