"""The examples in ``docs/examples`` run as they stand, and do what their READMEs say."""

from __future__ import annotations

import os
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import exporter
from tests.conftest import ROOT, SCRIPTS
from tests.support.process import Done, refused, run_program
from tests.support.warm import WarmPython

EXAMPLES = ROOT / "docs" / "examples"
FOLDERS = sorted(path for path in EXAMPLES.iterdir() if path.is_dir())
RUN = "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"


def shell(script: Path, *arguments: str | Path, cwd: Path) -> Done:
    environment = {**os.environ, "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"}
    return run_program([script, *arguments], cwd=cwd, environment=environment)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_example_has_a_script_and_a_readme_that_names_it(folder: Path) -> None:
    (script,) = [path for path in folder.iterdir() if path.suffix in {".py", ".sh"}]
    assert f"]({script.name})" in (folder / "README.md").read_text(encoding="utf-8")
    index = (EXAMPLES / "index.md").read_text(encoding="utf-8")
    assert f"({folder.name}/README.md) | `{script.name}`" in index


def test_export_and_encode(python: WarmPython, tmp_path: Path) -> None:
    done = python.run(RUN, EXAMPLES / "export-and-encode" / "export_and_encode.py", "out", cwd=tmp_path)
    assert (done.status, done.stderr) == (0, "")
    exported, shape, cosine = done.stdout.splitlines()
    assert exported.startswith("out/demo/fp16-onnxruntime: passed its gate at min cosine 0.9999")
    assert shape == "2 vectors of 256 numbers, float32"
    assert cosine == "cosine of the two sentences: 0.77"
    assert exporter.load(tmp_path / "out" / "demo" / "fp16-onnxruntime").dimension == 256


@pytest.mark.slow
def test_validate_in_ci(demo_fp16: Path, tmp_path: Path) -> None:
    done = shell(EXAMPLES / "validate-in-ci" / "validate.sh", demo_fp16, "parity.xml", cwd=tmp_path)
    assert done.status == 0, done
    report = ET.parse(tmp_path / "parity.xml").getroot()
    assert len(report.findall(".//testcase")) > 10
    assert report.find(".//failure") is None


def test_validate_in_ci_reads_the_gates_of_the_team_and_fails_with_the_command(demo_fp16: Path, tmp_path: Path) -> None:
    script = tmp_path / "validate.sh"
    shutil.copy(EXAMPLES / "validate-in-ci" / "validate.sh", script)
    (tmp_path / "gates.yaml").write_text("gates: {fp16: {min_cosin: 0.9999}}\n", encoding="utf-8")
    refused(shell(script, demo_fp16, "parity.xml", cwd=tmp_path), 2, "gates.yaml", "did you mean 'min_cosine'?")


def test_serve_with_triton(demo_fp16: Path, tmp_path: Path) -> None:
    done = shell(EXAMPLES / "serve-with-triton" / "serve.sh", demo_fp16, "models", cwd=tmp_path)
    assert done.status == 0, done
    assert done.stdout.splitlines()[-1] == "models: no mistakes"
    written = {path.name for path in (tmp_path / "models").iterdir()}
    files = {".dockerignore", "Dockerfile", "README.md", "compose.yaml", "kubernetes.yaml", "prometheus-adapter.yaml"}
    assert written == {"demo", "demo_text", "demo_tokenizer", *files}
    assert 'backend: "python"' in (tmp_path / "models" / "demo" / "config.pbtxt").read_text(encoding="utf-8")


@pytest.mark.slow
def test_quantize_with_own_text(python: WarmPython, tmp_path: Path) -> None:
    folder = EXAMPLES / "quantize-with-own-text"
    done = python.run(RUN, folder / "quantize.py", "out", cwd=tmp_path)
    assert (done.status, done.stderr) == (0, ""), done
    assert "warning" not in done.stdout
    quantization = exporter.Bundle.open(tmp_path / "out" / "demo" / "int8-onnxruntime").manifest.quantization
    assert quantization is not None
    assert quantization.source == "calibration.txt"
    sentences = (folder / "calibration.txt").read_text(encoding="utf-8").splitlines()
    assert len(sentences) >= 128
    assert f"scales from {quantization.sentences} sentences of calibration.txt" in done.stdout


def test_semantic_search(python: WarmPython, demo_fp16: Path, tmp_path: Path) -> None:
    script = EXAMPLES / "semantic-search" / "search.py"
    for question, found in {
        "비밀번호를 잊어버렸어요": "비밀번호를 잊으셨다면",
        "물건이 부서져서 왔습니다": "상품이 파손된 채",
    }.items():
        done = python.run(RUN, script, demo_fp16, question, cwd=tmp_path)
        assert (done.status, done.stderr) == (0, ""), done
        first, *others = done.stdout.splitlines()
        assert first.partition("  ")[2].startswith(found), done.stdout
        cosines = [float(line.partition(" ")[0]) for line in (first, *others)]
        assert len(cosines) == 3
        assert cosines == sorted(cosines, reverse=True)
