"""``report.html`` of bundles, and ``--report`` of the commands, as they are run."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest

import exporter
from exporter.bundle import Bundle
from tests.support.changed_bundles import truncate_early
from tests.support.manifests import reseal
from tests.support.process import succeeded
from tests.support.warm import WarmPython

CLI = "from exporter.cli.main import main; main()"


def heading(page: Path) -> str:
    """Return the sentence at the top of a page."""
    (told,) = re.findall(r"<h1>(.*?)</h1>", page.read_text(encoding="utf-8"))
    return str(told)


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("golden") / "demo.golden"
    exporter.write_golden("demo", path)
    return path


@pytest.fixture
def bundle(demo_fp16: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo_fp16, tmp_path / "my-bundle"))


class TestInABundle:
    def test_it_is_listed_and_says_what_was_judged(self, demo_fp16: Path) -> None:
        opened = Bundle.open(demo_fp16)
        content = opened.read("report.html")
        assert opened.manifest.files["report.html"].sha256 == hashlib.sha256(content).hexdigest()
        assert re.fullmatch(
            r"demo fp16 on onnxruntime, compared with its PyTorch checkpoint on 729 probes, passed: \d+ bounds and "
            r"\d checks hold\.",
            heading(demo_fp16 / "report.html"),
        )
        text = content.decode()
        assert opened.manifest.source.weights_sha256 in text
        assert "Range audit" in text
        assert text.count("[CLS]") >= 10
        assert len(content) < 100_000

    def test_its_range_audit_is_that_of_the_decisions(self, demo_fp16: Path) -> None:
        opened = Bundle.open(demo_fp16)
        largest = json.loads(opened.read("fp16.json"))["largest"][0]["value"]
        assert any(f"largest activation {largest:.4g} over" in decision for decision in opened.manifest.decisions)

    def test_a_bundle_without_it_opens(self, bundle: Path) -> None:
        (bundle / "report.html").unlink()
        reseal(bundle)
        assert "report.html" not in Bundle.open(bundle).manifest.files


class TestOfCommands:
    def test_validate_that_passes(self, python: WarmPython, golden: Path, bundle: Path, tmp_path: Path) -> None:
        page = tmp_path / "page.html"
        done = python.run(CLI, "validate", bundle, "--golden", golden, "--report", page)
        succeeded(done)
        assert "compared with the answers in a golden file on 729 probes, passed" in heading(page)
        text = page.read_text(encoding="utf-8")
        assert Bundle.open(bundle).manifest.seal in text
        assert "Range audit" in text
        assert f"korsbert validate {bundle} --golden {golden}" in text

    def test_validate_that_fails(self, python: WarmPython, golden: Path, bundle: Path, tmp_path: Path) -> None:
        truncate_early(bundle)
        page = tmp_path / "page.html"
        assert python.run(CLI, "validate", bundle, "--golden", golden, "--report", page).status == 1
        assert "FAILED by min cosine (" in heading(page)
        assert "and by the tokenizer check." in heading(page)
        assert "Cause: tokenizer: " in page.read_text(encoding="utf-8")

    def test_validate_of_what_is_refused(self, python: WarmPython, golden: Path, bundle: Path, tmp_path: Path) -> None:
        with (bundle / "model.onnx").open("r+b") as file:
            file.write(b"x")
        page = tmp_path / "page.html"
        assert python.run(CLI, "validate", bundle, "--golden", golden, "--report", page).status == 2
        assert "could not be judged: " in heading(page)
        assert "model.onnx: altered since it was published" in heading(page)
        assert {path.name for path in tmp_path.iterdir()} == {"my-bundle", "page.html"}

    def test_compare(self, python: WarmPython, demo_fp16: Path, tmp_path: Path) -> None:
        page = tmp_path / "page.html"
        done = python.run(CLI, "compare", demo_fp16, demo_fp16, "--no-speed", "--report", page)
        assert done.status == 0, done.stderr
        assert heading(page).startswith("vectors stored with A can be searched with B: yes, top-10 overlap 1")
        assert "Error against length" in page.read_text(encoding="utf-8")

    def test_bench(self, python: WarmPython, bundle: Path, tmp_path: Path) -> None:
        text, page = tmp_path / "text.txt", tmp_path / "page.html"
        text.write_text("문장 하나\n문장 둘\n", encoding="utf-8")
        done = python.run(CLI, "bench", bundle, "--text", text, "--rounds", "1", "--report", page)
        succeeded(done)
        assert re.fullmatch(r"demo fp16 on onnxruntime encodes [\d,]+ sentences per second\.", heading(page))
        assert python.run(CLI, "bench", tmp_path / "none", "--report", page).status == 2
        assert "could not be judged" in heading(page)
