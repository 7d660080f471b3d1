"""The adapters beside the frameworks, in an environment with both and without torch; and the encoders they share."""

from __future__ import annotations

import gc
import os
import re
import shutil
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import exporter
from exporter.adapters.opening import opened
from tests.conftest import ROOT
from tests.support.manifests import edit_manifest
from tests.support.process import Done, run_program

VENV = ROOT / os.environ.get("KORSBERT_ADAPTERS_VENV", "build/adapters")
"""``make test-oldest`` names one with the lowest versions."""
PAGE = ROOT / "docs" / "adapters.md"
CHECKS = ROOT / "tests" / "support" / "adapters"
FRAMEWORKS = ["chroma", "haystack", "langchain", "llama_index", "sklearn"]
SECTIONS = ["LangChain", "LlamaIndex", "Haystack", "Chroma", "scikit-learn", "Functions"]
PROMPTS = {"query": "질문: ", "document": "글: "}


@pytest.fixture(scope="module")
def prompted(twin_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the twin's bundle with a prompt for queries and another for documents."""
    copy = Path(shutil.copytree(twin_bundle, tmp_path_factory.mktemp("prompted") / "bundle"))
    edit_manifest(copy, lambda manifest: manifest["encoder"].update(prompts=PROMPTS))
    return copy


def run_there(*arguments: str | Path, cwd: Path, **environment: Path) -> Done:
    """Run the Python that has the frameworks, where nothing is sent to their makers and nothing comes from a hub."""
    if not (VENV / "ready").is_file():
        pytest.skip(f"the frameworks are not installed: `make {VENV.relative_to(ROOT)}/ready` does it")
    silent = {"ANONYMIZED_TELEMETRY": "False", "HAYSTACK_TELEMETRY_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    paths = {name: str(path) for name, path in environment.items()}
    kept = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    program = [VENV / "bin" / "python", *arguments]
    return run_program(program, cwd=cwd, environment={**kept, **silent, **paths, "PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_beside_the_framework(framework: str, demo_fp32: Path, prompted: Path, tmp_path: Path) -> None:
    options = ["-q", "-p", "no:cacheprovider", f"--confcutdir={CHECKS}", "-o", "filterwarnings=default"]
    checks = CHECKS / f"{framework}_checks.py"
    bundles = {"KORSBERT_DEMO": demo_fp32, "KORSBERT_PROMPTED": prompted}
    done = run_there("-m", "pytest", *options, f"--rootdir={ROOT}", checks, cwd=tmp_path, **bundles)
    assert done.status == 0, f"{done.stdout}\n{done.stderr}"
    assert re.search(r"^\d+ passed(, \d+ warnings?)? in ", done.stdout, re.MULTILINE), done.stdout  # none is skipped


def test_every_adapter_is_tested_and_has_its_other_name() -> None:
    files = {path.stem for path in (ROOT / "exporter" / "adapters").glob("*.py")} - {"__init__", "opening"}
    assert files == set(FRAMEWORKS) == {path.stem.removesuffix("_checks") for path in CHECKS.glob("*_checks.py")}
    alias = {path.stem for path in (ROOT / "exporter" / "_alias" / "korsbert").glob("*.py")}
    assert alias == files | {"__init__", "__main__"}


def test_that_environment_has_no_torch(tmp_path: Path) -> None:
    done = run_there("-c", "import exporter, torch", cwd=tmp_path)
    assert "ModuleNotFoundError: No module named 'torch'" in done.stderr


class TestExamples:
    def test_every_section_with_code_is_run(self) -> None:
        parts = re.split(r"^## (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert [name for name, text in zip(parts[1::2], parts[2::2], strict=True) if "```python" in text] == SECTIONS

    @pytest.mark.parametrize("section", SECTIONS)
    def test_example(self, section: str, demo_fp32: Path, tmp_path: Path) -> None:
        text = PAGE.read_text(encoding="utf-8").partition(f"\n## {section}\n")[2].partition("\n## ")[0]
        found = re.search(r"^```python\n(.*?)^```\n\n^```text\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
        assert found is not None
        code, shown = found.groups()
        folder = tmp_path / "artifacts" / "demo" / "fp32-onnxruntime"
        assert code.count(f'"{folder.relative_to(tmp_path)}"') == 1
        folder.parent.mkdir(parents=True)
        folder.symlink_to(demo_fp32)
        (tmp_path / "example.py").write_text(code, encoding="utf-8")
        done = run_there(tmp_path / "example.py", cwd=tmp_path)
        assert (done.status, done.stdout) == (0, shown), done


class TestOpened:
    def test_one_encoder_as_long_as_it_is_held(self, demo_fp32: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = opened(demo_fp32)
        assert opened(str(demo_fp32)) is first
        monkeypatch.chdir(demo_fp32.parent)
        assert opened(demo_fp32.name) is first
        gone = weakref.ref(first)
        del first
        gc.collect()
        assert gone() is None
        assert opened(demo_fp32).encode("다시").shape == (256,)

    def test_threads_get_the_same(self, demo_fp32: Path) -> None:
        with ThreadPoolExecutor(4) as pool:
            encoders = list(pool.map(opened, [demo_fp32] * 4))
        assert len(set(map(id, encoders))) == 1

    def test_a_bundle_that_was_replaced_is_opened_again(
        self, demo_fp32: Path, twin_bundle: Path, tmp_path: Path
    ) -> None:
        place = tmp_path / "bundle"
        shutil.copytree(demo_fp32, place)
        first = opened(place)
        place.rename(tmp_path / "old")
        shutil.copytree(twin_bundle, place)
        second = opened(place)
        assert second.full_dimension != first.full_dimension
        assert opened(tmp_path / "old") is first

    @pytest.mark.parametrize("place", ["nowhere", "a/b/c", "\0"])
    def test_no_bundle(self, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for _ in range(2):
            with pytest.raises(exporter.BundleError):
                opened(place)
