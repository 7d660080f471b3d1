"""A limit below the checkpoint's own: the bundle truncates there, as PyTorch does, and says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

import exporter
from exporter.bundle import Bundle
from tests.support.checkpoints import DEMO
from tests.support.process import refused
from tests.support.warm import CLI, WarmPython

LIMIT = 24
LONG = "도서관에서 빌린 책을 다 읽지 못해서 반납일을 일주일 미루었다. " * 8


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return exporter.export("demo", precision="fp16", max_seq_length=LIMIT, out=tmp_path_factory.mktemp("out"))


def test_the_bundle_truncates_where_the_reference_is_told_to(bundle: Bundle) -> None:
    model = SentenceTransformer(str(DEMO), device="cpu")
    whole = model.encode([LONG])
    model.max_seq_length = LIMIT
    with exporter.load(bundle.folder) as encoder:
        assert encoder.count_tokens([LONG]) == [LIMIT]
        assert encoder.max_seq_length == LIMIT
        vectors = encoder.encode([LONG])
    assert np.abs(vectors - model.encode([LONG])).max() < 1e-2 < np.abs(vectors - whole).max()


def test_the_manifest_records_it_and_validate_judges_by_it(bundle: Bundle) -> None:
    assert bundle.manifest.source.max_seq_length == LIMIT
    assert f"max_seq_length {LIMIT} of 256, as asked for" in bundle.manifest.decisions
    report = exporter.validate(bundle.folder)
    assert report.passed
    assert max(report.tokens) == LIMIT
    assert report.coverage.endswith(f"probes of 2 to {LIMIT} tokens")


@pytest.mark.parametrize(
    ("limit", "told"),
    [(2, "adds 2 special tokens to every sentence"), (257, "serves at most 256 tokens, special tokens included")],
)
def test_a_limit_that_the_checkpoint_cannot_serve_is_refused(
    python: WarmPython, tmp_path: Path, limit: int, told: str
) -> None:
    done = python.run(CLI, "export", "--model", "demo", "--max-seq-length", str(limit), cwd=tmp_path)
    refused(done, 2, f"--max-seq-length is {limit}", told)
    assert not list(tmp_path.rglob("*"))
