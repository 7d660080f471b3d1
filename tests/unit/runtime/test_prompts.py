"""Prompts of a checkpoint whose default is "요약": encode_query and encode_document have prompts of their own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

import exporter
from exporter.bundle import Bundle
from exporter.engines.cuda import find_gpu
from exporter.errors import GateError
from tests.unit.runtime.test_encoder import RAGGED

PROMPTS = {"query": "질문: ", "passage": "글: ", "요약": "요약하면 "}


@pytest.fixture(scope="module")
def folder(twin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(twin, tmp_path_factory.mktemp("prompted") / "prompted"))
    path = folder / "config_sentence_transformers.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings |= {"prompts": PROMPTS, "default_prompt_name": "요약"}
    path.write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def bundle(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return exporter.export(str(folder), out=tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def prompted(bundle: Bundle) -> Iterator[exporter.Encoder]:
    with exporter.load(bundle.folder) as encoder:
        yield encoder


@pytest.fixture(scope="module")
def reference(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def test_they_are_part_of_the_bundle_and_of_its_proof(bundle: Bundle) -> None:
    facts = bundle.manifest.encoder
    assert facts.prompt == "요약하면 "
    assert PROMPTS.items() <= facts.prompts.items()
    checks = json.loads((bundle.folder / "parity.json").read_text(encoding="utf-8"))["checks"]
    (check,) = (check for check in checks if check["name"] == "prompts")
    assert check["passed"]
    assert check["coverage"].startswith(
        "prompt 'query', prompt 'document', prompt 'passage', encode_query, encode_document on "
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"prompt_name": "query"}, {"prompt_name": "passage"}, {"prompt": ""}, {"prompt": "아무 "}],
    ids=str,
)
def test_vectors_are_those_of_the_reference(
    prompted: exporter.Encoder, reference: SentenceTransformer, options: Any
) -> None:
    wanted: Any = reference.encode(RAGGED, **options, show_progress_bar=False)
    np.testing.assert_allclose(prompted.encode(RAGGED, **options), wanted, atol=2e-5, rtol=0)


@pytest.mark.parametrize("method", ["encode_query", "encode_document"])
@pytest.mark.parametrize("options", [{}, {"prompt_name": "요약"}, {"prompt": "아무 "}], ids=str)
def test_queries_and_documents_are_those_of_the_reference(
    prompted: exporter.Encoder, reference: SentenceTransformer, method: str, options: Any
) -> None:
    wanted: Any = getattr(reference, method)(RAGGED, **options, show_progress_bar=False)
    np.testing.assert_allclose(getattr(prompted, method)(RAGGED, **options), wanted, atol=2e-5, rtol=0)


def test_every_prompt_gives_other_vectors(prompted: exporter.Encoder) -> None:
    found = [prompted.encode(RAGGED, prompt=prompt) for prompt in ("", *PROMPTS.values())]
    for number, vectors in enumerate(found):
        assert all(np.abs(vectors - other).max() > 0.1 for other in found[:number])


def test_a_name_that_there_is_not_is_refused(prompted: exporter.Encoder) -> None:
    with pytest.raises(
        ValueError, match=r"the model has no prompt 'title'; its prompts are 'query', 'document', 'passage', '요약'"
    ):
        prompted.encode("가", prompt_name="title")


def test_an_encoder_that_confuses_them_fails_the_check(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter.Encoder, "encode_query", exporter.Encoder.encode_document)
    with pytest.raises(GateError, match=r"prompts: encode_query: min cosine 0\.\d+ < 0.999999"):
        exporter.export(str(folder), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_where_no_engine_runs_the_report_says_that_prompts_were_not_compared(folder: Path, tmp_path: Path) -> None:
    """ONNX Runtime's CPU provider has no kernels for bfloat16: on this machine nothing runs the engine."""
    if find_gpu() is not None:
        pytest.skip("a GPU would run it")
    bundle = exporter.export(str(folder), precision="bf16", device="cuda", unvalidated=True, out=tmp_path)
    checks = json.loads((bundle.folder / "parity.json").read_text(encoding="utf-8"))["checks"]
    assert [check["coverage"] for check in checks if check["name"] == "prompts"] == ["not compared: no engine ran"]
