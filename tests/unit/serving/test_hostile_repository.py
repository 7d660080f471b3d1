"""A repository of which any file is something else: ``check`` ends in findings, and ``ship`` in files or a sentence."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings

from exporter.bundle import Bundle
from exporter.serving.triton import Options, deployment, deployment_files, repository
from exporter.serving.triton.images import image_for
from exporter.serving.triton.lint import check
from tests.support.fuzzing import CASES, LONGEST_MESSAGE, changed_bytes, told_in_a_sentence, within_one_gibibyte

FILES = (
    "demo/config.pbtxt",
    "demo/1/model.py",
    "demo/1/bundle/manifest.json",
    "demo_tokenizer/config.pbtxt",
    "demo_tokenizer/1/tokenizer.json",
    "demo_text/config.pbtxt",
)


@pytest.fixture(scope="module")
def shipped(demo_fp32: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shipped") / "models"
    repository.ship([Bundle.open(demo_fp32)], folder, Options(runtime="python"), name="demo")
    return folder


@pytest.mark.parametrize("name", FILES)
def test_any_content_of_a_file(name: str, shipped: Path, tmp_path: Path) -> None:
    models = Path(shutil.copytree(shipped, tmp_path / "models"))
    sound = (models / name).read_bytes()

    @settings(max_examples=CASES // 10, derandomize=True)
    @given(changed_bytes(sound))
    def one(content: bytes) -> None:
        (models / name).write_bytes(content)
        with told_in_a_sentence():
            for finding in check(models):
                told = f"{finding.found} {finding.wanted} {finding.fix}"
                assert told.isprintable(), told
                assert len(told) < LONGEST_MESSAGE, told
        with told_in_a_sentence():
            assert deployment_files(deployment.deployed(models), image_for({}, None), 1)

    with within_one_gibibyte():
        one()
