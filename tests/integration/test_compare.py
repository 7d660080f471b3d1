"""``korsbert compare`` of real bundles, of what ``embed`` and ``encode`` have written, and of both."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import exporter
from exporter.errors import BundleError, InputError
from exporter.validator.probes import shipped_probes
from tests.support.manifests import edit_manifest
from tests.support.process import refused, split_stages, succeeded
from tests.support.warm import CLI, WarmPython

TEXTS = [probe.text for probe in shipped_probes()[:120]]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """The texts, one a line."""
    path = tmp_path / "text.txt"
    path.write_text("\n".join(" ".join(text.split()) for text in TEXTS) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """The texts as JSONL with ids, in another order."""
    path = tmp_path / "corpus.jsonl"
    rows = [{"id": f"t{number}", "text": text} for number, text in enumerate(TEXTS)]
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows[::-1]), encoding="utf-8")
    return path


class TestBundles:
    def test_two_precisions_of_one_checkpoint(self, demo_fp32: Path, demo_fp16: Path) -> None:
        found = exporter.compare(demo_fp32, demo_fp16, speed=False)
        assert found.passed, found.failure()
        assert (found.a.judged_as, found.b.judged_as) == ("fp32", "fp16")
        assert found.text.source == "the probes that ship"
        assert found.text.rows > 700
        assert found.a.size_bytes is not None
        assert found.b.size_bytes is not None
        assert found.b.size_bytes < 0.6 * found.a.size_bytes
        assert found.a.size_bytes < sum(file.stat().st_size for file in demo_fp32.iterdir()), "what serves only"
        assert found.text.tokens is not None
        assert max(found.text.tokens) == 256
        tight = exporter.compare(demo_fp32, demo_fp16, speed=False, precision_b="fp32")
        assert not tight.passed, "fp16 is not within the bounds of fp32"
        assert "max relative error" in tight.failure()

    def test_a_bundle_against_itself(self, demo_fp32: Path, text: Path) -> None:
        found = exporter.compare(demo_fp32, demo_fp32, text=text, speed=False, k=5)
        assert found.passed
        assert (found.search.k, found.text.source, found.text.rows) == (5, "text.txt", len(set(TEXTS)))
        assert found.statistics is not None
        assert found.statistics["max_relative_error"] == 0

    def test_another_checkpoint_of_the_same_dimension_finds_nothing(
        self, demo_fp32: Path, demo_fp16: Path, tmp_path: Path
    ) -> None:
        """The hash of the weights is said at once; what decides is what was measured."""
        notes: list[str] = []
        other = exporter.load(demo_fp16)  # the same vectors, in another order of dimensions
        np.save(tmp_path / "other.npy", other.encode(TEXTS)[:, ::-1])
        text = tmp_path / "text.jsonl"
        text.write_text("\n".join(json.dumps({"text": one}) for one in TEXTS), encoding="utf-8")
        found = exporter.compare(demo_fp32, tmp_path / "other.npy", text=text)
        assert not found.passed
        assert found.search.within.mean > 0.95
        assert found.search.a_searched_with_b is not None
        assert found.search.a_searched_with_b.mean < 0.5
        assert notes == []

    def test_another_checkpoint_is_said_before_anything_is_encoded(
        self, python: WarmPython, demo_fp32: Path, twin_bundle: Path, text: Path
    ) -> None:
        done = python.run(CLI, "compare", demo_fp32, twin_bundle, "--text", text, "--no-speed", "--json")
        assert done.status == 1, done.stderr
        assert "note: A and B were made from other weight files" in done.stderr
        found = json.loads(done.stdout)
        assert found["passed"] is False
        assert "A and B were made from other checkpoints" in found["sentence"]
        assert found["search"]["within"]["mean"] < 0.9

    def test_equal_vectors_of_other_weight_files_can_be_searched(self, demo_fp32: Path, tmp_path: Path) -> None:
        """The same weights may be stored in another file format."""
        copy = tmp_path / "copy"
        copy.mkdir()
        for file in demo_fp32.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        edit_manifest(copy, lambda manifest: manifest["source"].update(weights_sha256="0" * 64))
        found = exporter.compare(demo_fp32, copy, speed=False)
        assert found.passed
        assert any("other weight files" in note for note in found.notes)

    def test_speed_is_measured_in_turns(self, demo_fp32: Path, demo_fp16: Path, text: Path) -> None:
        found = exporter.compare(demo_fp32, demo_fp16, text=text, threads=1)
        assert found.speed is not None
        assert [subject.name for subject in found.speed.subjects] == ["A", "B"]
        assert {len(subject.round_s) for subject in found.speed.subjects} == {5}
        assert "CPU threads 1" in found.speed.conditions
        assert "load of the machine before" in found.speed.conditions

    def test_scores_of_a_task(self, demo_fp32: Path, demo_fp16: Path, tmp_path: Path) -> None:
        lines = [f"{TEXTS[row]}\t{TEXTS[row + 1]}\t{row % 5}" for row in range(30)]
        (tmp_path / "sts.tsv").write_text("\n".join(["sentence1\tsentence2\tscore", *lines]), encoding="utf-8")
        found = exporter.compare(demo_fp32, demo_fp16, sts=[tmp_path / "sts.tsv"], speed=False)
        (score,) = found.sts
        assert score.pairs == 30
        (verdict,) = [one for one in found.verdicts if one.name == "Spearman drop on sts.tsv"]
        assert [verdict.bound, verdict.value] == pytest.approx([0.2, score.spearman_drop])


class TestWritten:
    def test_what_embed_wrote_against_its_bundle_and_another(
        self, demo_fp32: Path, demo_fp16: Path, corpus: Path, tmp_path: Path
    ) -> None:
        exporter.embed(demo_fp32, corpus, tmp_path / "vectors", id="id")
        same = exporter.compare(tmp_path / "vectors", demo_fp32, text=corpus)
        assert same.passed, same.failure()
        assert (same.a.precision, same.a.told, same.a.bundle) == ("fp32", "vectors of demo fp32", same.b.bundle)
        assert (same.text.matched_by, same.text.rows) == ("position", 120)
        assert same.statistics is not None
        assert same.statistics["min_cosine"] > 0.9999999
        by_id = exporter.compare(demo_fp16, tmp_path / "vectors", text=corpus, id_column="id")
        assert by_id.passed, by_id.failure()
        assert (by_id.text.matched_by, by_id.a.kind, by_id.b.kind) == ("id", "bundle", "vectors")

    @pytest.mark.parametrize(
        "options",
        [
            {"dtype": "int8"},
            {"dtype": "uint8", "normalize": True},
            {"dtype": "binary"},
            {"dtype": "float16", "normalize": True},
            {"truncate_dim": 100},
        ],
        ids=str,
    )
    def test_the_bundle_stores_as_the_file_does(
        self, options: dict[str, Any], demo_fp32: Path, corpus: Path, tmp_path: Path
    ) -> None:
        exporter.embed(demo_fp32, corpus, tmp_path / "vectors", id="id", **options)
        found = exporter.compare(tmp_path / "vectors", demo_fp32, text=corpus, id_column="id")
        assert found.passed, found.failure()
        assert found.b.dtype == options.get("dtype", "float32")
        assert found.b.dimension == options.get("truncate_dim", 256)
        assert found.search.a_searched_with_b is not None
        assert found.search.a_searched_with_b.mean > 0.99

    def test_codes_of_another_bundle(self, demo_fp32: Path, demo_fp16: Path, corpus: Path, tmp_path: Path) -> None:
        exporter.embed(demo_fp32, corpus, tmp_path / "a", id="id", dtype="int8")
        exporter.embed(demo_fp16, corpus, tmp_path / "b", id="id", dtype="int8")
        found = exporter.compare(tmp_path / "a", tmp_path / "b")
        assert found.passed, found.failure()
        assert {verdict.name for verdict in found.verdicts} >= {"code changes"}

    def test_what_encode_wrote(
        self, python: WarmPython, demo_fp32: Path, demo_fp16: Path, text: Path, tmp_path: Path
    ) -> None:
        for dtype in ("float32", "int8", "ubinary"):
            out = tmp_path / f"{dtype}.npy"
            assert python.run(CLI, "encode", demo_fp32, text, "--out", out, "--precision", dtype).status == 0
            found = exporter.compare(out, demo_fp16, text=text)
            assert found.passed, found.failure()
            assert (found.a.dtype, found.a.dimension) == (dtype, 256)

    def test_text_that_is_not_that_of_the_vectors(self, demo_fp32: Path, text: Path, tmp_path: Path) -> None:
        with exporter.load(demo_fp32) as encoder:
            np.save(tmp_path / "a.npy", encoder.encode(TEXTS))
            np.save(tmp_path / "b.npy", encoder.encode(TEXTS[:-1]))
        with pytest.raises(InputError, match="needs the text that they were made from"):
            exporter.compare(tmp_path / "a.npy", demo_fp32)
        with pytest.raises(InputError, match=r"text\.txt: has 120 lines, and there are 119 vectors"):
            exporter.compare(demo_fp32, tmp_path / "b.npy", text=text)
        lines = text.read_text(encoding="utf-8").splitlines()
        text.write_text("\n".join(["", *lines[::-1]]), encoding="utf-8")
        found = exporter.compare(demo_fp32, tmp_path / "a.npy", text=text)
        assert not found.passed, "lines in another order are other texts"


class TestCommand:
    def test_yes(self, python: WarmPython, demo_fp32: Path, demo_fp16: Path, tmp_path: Path) -> None:
        junit, summary = tmp_path / "junit.xml", tmp_path / "summary.md"
        files = ("--junit", junit, "--summary", summary)
        done = python.run(CLI, "compare", demo_fp32, demo_fp16, "--no-speed", *files)
        succeeded(done)
        last = done.stdout.splitlines()[-1]
        assert last.startswith("vectors stored with A can be searched with B: yes, top-10 overlap 0.99")
        assert "(at least 0.979)" in last
        suite = ElementTree.parse(junit).getroot()
        assert (suite.get("failures"), suite.get("errors")) == ("0", "0")
        assert "### ✅ vectors stored with A can be searched with B&#58; yes" in summary.read_text(encoding="utf-8")

    def test_no(self, python: WarmPython, demo_fp32: Path, minilm_fp16: Path, text: Path, tmp_path: Path) -> None:
        junit, summary = tmp_path / "junit.xml", tmp_path / "summary.md"
        files = ("--junit", junit, "--summary", summary, "--text", text)
        done = python.run(CLI, "compare", demo_fp32, minilm_fp16, "--no-speed", *files)
        assert done.status == 1
        assert done.stdout.splitlines()[-1].startswith(
            "vectors stored with A can be searched with B: no, A has vectors of 256 dimensions, and B of 384"
        )
        assert "Traceback" not in done.stderr
        assert ElementTree.parse(junit).getroot().get("failures") == "2"
        assert "### ❌ vectors stored with A can be searched with B&#58; no" in summary.read_text(encoding="utf-8")

    def test_json(self, python: WarmPython, demo_fp32: Path, demo_fp16: Path, text: Path) -> None:
        done = python.run(CLI, "compare", demo_fp32, demo_fp16, "--no-speed", "--text", text, "--json", "--k", "3")
        succeeded(done)
        found = json.loads(done.stdout)
        assert (found["search"]["k"], found["speed"], len(found["rows"])) == (3, None, found["text"]["rows"])

    def test_a_key_in_an_address_is_told_nowhere(self, python: WarmPython, tmp_path: Path) -> None:
        urls = ("https://me:s3cret@host/", "http://host/?key=s3cret")
        done = python.run(CLI, "compare", *urls, "--api", "tei", "--junit", "c.xml", "--summary", "c.md", cwd=tmp_path)
        refused(done, 2, "the URL has a user name or a password")
        junit, summary = ((tmp_path / name).read_text(encoding="utf-8") for name in ("c.xml", "c.md"))
        assert "host" in junit
        assert "s3cret" not in done.stderr + junit + summary

    @pytest.mark.parametrize(
        ("arguments", "status", "told"),
        [
            (("none", "BUNDLE"), 2, "none: there is no such file or folder"),
            (("BUNDLE", "BUNDLE", "--text", "none.txt"), 2, "none.txt: cannot be read"),
            (("BUNDLE", "BUNDLE", "--min-overlap", "2"), 2, "--min-overlap is 2.0, and must be above 0 and at most 1"),
            (("BUNDLE", "BUNDLE", "--id", "id"), 2, "--id is given, and no side has rows with ids"),
            (("BUNDLE", "http://127.0.0.1:9"), 2, "Triton serves models by name, and none is given"),
            (("BUNDLE", "http://127.0.0.1:9", "--model", "x"), 3, "127.0.0.1:9"),
            (("BUNDLE", "http://127.0.0.1:9", "--api", "tei"), 3, "127.0.0.1:9"),
            (("BUNDLE", "BUNDLE", "--gates", "none.yaml"), 2, "none.yaml: the recipe cannot be read"),
        ],
        ids=str,
    )
    def test_bad_input_gets_one_sentence(
        self, arguments: tuple[str, ...], status: int, told: str, python: WarmPython, demo_fp32: Path, tmp_path: Path
    ) -> None:
        command = [str(demo_fp32) if argument == "BUNDLE" else argument for argument in arguments]
        junit = tmp_path / "junit.xml"
        done = python.run(CLI, "compare", *command, "--junit", junit, cwd=tmp_path)
        # What is known only of opened sides comes after the line of that stage.
        refused(replace(done, stderr=split_stages(done.stderr)[1]), status, told)
        assert ElementTree.parse(junit).getroot().get("errors") == "1"

    def test_a_bundle_that_is_not_signed(self, demo_fp32: Path, tmp_path: Path) -> None:
        from tests.support.keys import ec_key

        ec_key(tmp_path, "publisher")
        with pytest.raises(BundleError, match="not signed"):
            exporter.compare(demo_fp32, demo_fp32, require_signature=tmp_path / "publisher.pub")
