"""Other tools read a bundle as it is: each runs in an environment of its own, without korsbert."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import exporter
from tests.conftest import ROOT
from tests.support.process import run_program

PYTHON = ROOT / "build" / "interop" / "bin" / "python"
PAGE = ROOT / "docs" / "interoperability.md"
TEXTS = ["안녕하세요?", "UPPER case, Ünïcödé 🙂", "", "기차가 터널을 지나자 바다가 보였다. " * 60]


def code_of(heading: str) -> str:
    """Return the Python below a heading of the page."""
    section = PAGE.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    found = re.search(r"^```python\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("name", ["demo_fp32", "demo_fp16", "minilm_fp16"])
def test_fastembed(request: pytest.FixtureRequest, tmp_path: Path, name: str) -> None:
    assert PYTHON.is_file(), "the environment is not there: run `make build/interop/ready`"
    bundle: Path = request.getfixturevalue(name)
    dimension = exporter.Bundle.open(bundle).manifest.encoder.dimension
    code = code_of("fastembed")
    for on_page, here in (
        ('"artifacts/demo/fp32-onnxruntime"', json.dumps(str(bundle))),
        ("dim=256", f"dim={dimension}"),
        ('["안녕하세요?", "오늘은 날씨가 좋네요."]', json.dumps(TEXTS, ensure_ascii=False)),
    ):
        assert code.count(on_page) == 1
        code = code.replace(on_page, here)
    code += "\nimport numpy\nnumpy.save('vectors.npy', numpy.array(vectors))\n"
    done = run_program([PYTHON, "-c", code], cwd=tmp_path, environment={"HF_HUB_OFFLINE": "1"})
    assert done.status == 0, done
    found = np.load(tmp_path / "vectors.npy")
    with exporter.load(bundle) as encoder:
        expected = encoder.encode(TEXTS)
    assert found.dtype == np.float32
    # fastembed opens the graph with other settings, and ONNX Runtime then takes other kernels: of the vector's length.
    errors = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert errors.max() < (2e-3 if "fp16" in str(bundle) else 1e-6), errors


def test_that_environment_is_without_korsbert() -> None:
    done = run_program([PYTHON, "-c", "import exporter"], cwd=Path("/"), environment={})
    assert "ModuleNotFoundError" in done.stderr
