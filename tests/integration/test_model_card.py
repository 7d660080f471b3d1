"""The code on a model card, taken from the card's own text and run; its words about int8, compared with the plot."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import exporter
from exporter.bundle import Bundle
from exporter.recipe import Gates
from tests.conftest import ROOT, Shared
from tests.support.int8_bundles import facts, int8_bundle
from tests.support.process import Done, run_program

TEXTS_ON_CARD = '["안녕하세요?", "한국어 문장입니다."]'
TEXTS = [
    "안녕하세요?",
    "UPPER case, Ünïcödé and emoji 🙂🙂",
    "",
    "기차가 터널을 지나자 바다가 보였다. " * 60,  # longer than every maximum
    "ㅋㅋㅋ 뭐?",
]
WITHOUT_KORSBERT = "import sys; sys.modules.update(dict.fromkeys(('exporter', 'korsbert', 'torch', 'transformers')))\n"


def blocks(bundle: Path, language: str) -> list[str]:
    text = (bundle / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def with_texts(code: str) -> str:
    assert code.count(TEXTS_ON_CARD) == 1
    return code.replace(TEXTS_ON_CARD, json.dumps(TEXTS, ensure_ascii=False))


def place_of(bundle: Path, tmp_path: Path) -> Path:
    """Copy a bundle to where its card expects it, below a working folder."""
    manifest = Bundle.open(bundle).manifest
    named = f"{manifest.recipe.name}-{manifest.engine.precision}-{manifest.engine.backend}"
    return Path(shutil.copytree(bundle, tmp_path / named))


def python(code: str, cwd: Path) -> Done:
    code += "\nimport numpy\nnumpy.save('vectors.npy', vectors)\n"
    return run_program([sys.executable, "-c", code], cwd=cwd)


def javascript(code: str, cwd: Path) -> Done:
    packages = ROOT / "build" / "javascript" / "node_modules"
    assert packages.is_dir(), "the packages are not there: run `make build/javascript/ready`"
    (cwd / "node_modules").symlink_to(packages)
    code += "\nconsole.log(JSON.stringify([vectors.dims, Array.from(vectors.data)]));\n"
    (cwd / "code.mjs").write_text(code, encoding="utf-8")
    return run_program(["node", "code.mjs"], cwd=cwd, environment={"PATH": os.environ["PATH"]})


def require_within_gate(bundle: Path, found: npt.NDArray[Any]) -> None:
    """Require vectors of the card's code to be those of ``exporter.load``, by the gate of the bundle's precision."""
    with exporter.load(bundle) as encoder:
        expected = encoder.encode(TEXTS).astype(np.float64)
    gate = Gates().of(Bundle.open(bundle).manifest.engine.precision)
    assert found.shape == expected.shape
    vectors = found.astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
    assert ((vectors * expected).sum(axis=1) / norms).min() >= gate.min_cosine
    errors = np.linalg.norm(vectors - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert gate.max_relative_error is not None
    assert errors.max() <= gate.max_relative_error


@pytest.fixture(scope="module")
def openvino_bundle(shared: Shared) -> Path:
    def fill(folder: Path) -> None:
        exporter.export("demo", backend="openvino", out=folder)

    return shared("demo-fp32-openvino", fill) / "demo" / "fp32-openvino"


@pytest.fixture(scope="module")
def int8(shared: Shared) -> Bundle:
    return int8_bundle(shared, "demo", "int8", "onnxruntime")


@pytest.mark.parametrize(
    "name", ["demo_fp32", "demo_fp16", "minilm_fp16", pytest.param("openvino_bundle", marks=pytest.mark.slow)]
)
class TestPython:
    def test_with_korsbert(self, request: pytest.FixtureRequest, tmp_path: Path, name: str) -> None:
        bundle = place_of(request.getfixturevalue(name), tmp_path)
        done = python(with_texts(blocks(bundle, "python")[0]), tmp_path)
        assert (done.status, done.stderr) == (0, "")
        with exporter.load(bundle) as encoder:
            np.testing.assert_array_equal(np.load(tmp_path / "vectors.npy"), encoder.encode(TEXTS))

    def test_without_korsbert(self, request: pytest.FixtureRequest, tmp_path: Path, name: str) -> None:
        bundle = place_of(request.getfixturevalue(name), tmp_path)
        done = python(WITHOUT_KORSBERT + with_texts(blocks(bundle, "python")[1]), tmp_path)
        assert done.status == 0, done
        require_within_gate(bundle, np.load(tmp_path / "vectors.npy"))


@pytest.mark.parametrize("name", ["demo_fp32", "demo_fp16", "minilm_fp16"])
def test_javascript(request: pytest.FixtureRequest, tmp_path: Path, name: str) -> None:
    bundle = place_of(request.getfixturevalue(name), tmp_path)
    (code,) = blocks(bundle, "javascript")
    done = javascript(with_texts(code), tmp_path)
    assert done.status == 0, done
    shape, numbers = json.loads(done.stdout)
    require_within_gate(bundle, np.array(numbers, np.float32).reshape(shape))


def test_the_packages_for_javascript_are_those_on_the_card(demo_fp32: Path) -> None:
    pinned = json.loads((ROOT / "tests" / "javascript" / "package.json").read_text(encoding="utf-8"))["dependencies"]
    (install,) = [code for code in blocks(demo_fp32, "bash") if code.startswith("npm install ")]
    assert set(install.removeprefix("npm install ").split()) == pinned.keys()


@pytest.mark.parametrize("name", ["demo_fp16", "twin_bundle"])
def test_a_card_names_no_place_on_this_machine(request: pytest.FixtureRequest, name: str) -> None:
    bundle: Path = request.getfixturevalue(name)
    text = (bundle / "README.md").read_text(encoding="utf-8")
    for place in (str(ROOT), str(Path.home()), str(bundle.parents[1]), "/tmp/", "file://"):
        assert place not in text


class TestInt8:
    def test_the_code_of_an_int8_bundle(self, int8: Bundle, tmp_path: Path) -> None:
        bundle = place_of(int8.folder, tmp_path)
        done = python(WITHOUT_KORSBERT + with_texts(blocks(bundle, "python")[1]), tmp_path)
        assert done.status == 0, done
        require_within_gate(bundle, np.load(tmp_path / "vectors.npy"))

    def test_the_card_embeds_the_plot_of_the_bundle(self, int8: Bundle) -> None:
        text = (int8.folder / "README.md").read_text(encoding="utf-8")
        (image,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
        assert image == "int8.svg"
        assert image in int8.manifest.files

    def test_card_plot_and_figures_name_the_same_candidate(self, int8: Bundle) -> None:
        text = (int8.folder / "README.md").read_text(encoding="utf-8")
        stated = re.search(
            r"This bundle is candidate ([A-Z]): (\d+) of (\d+) MatMuls are in int8, and ([\d.]+)% of the "
            r"multiplications are excluded.*min cosine of ([\d.]+) and a mean cosine of ([\d.]+) .*MatMuls are "
            r"([\d.]+) times as fast",
            text,
        )
        assert stated is not None
        label, *told = stated.groups()
        quantized, matmuls, share, least, mean, speed = map(float, told)
        found = facts(int8)
        computed = [one["precision"] for one in found["matmuls"]]
        assert [quantized, matmuls] == [computed.count("int8"), len(computed)]
        built = found["built"][-1]
        assert share == pytest.approx(100 * built["share_excluded"], abs=0.05)
        assert [least, mean] == pytest.approx([built["min_cosine"], built["mean_cosine"]], abs=5e-5)
        (chosen,) = (one for one in found["candidates"] if one["result"] == "chosen")
        assert label == chosen["label"]
        assert speed == pytest.approx(1 / chosen["relative_time"], abs=0.006)  # the card has two digits
        assert re.findall(r"^\| ([A-Z]) \|.*\*\*chosen\*\*", text, re.MULTILINE) == [label]
        assert f"{label} was chosen" in (int8.folder / "int8.svg").read_text(encoding="utf-8")
