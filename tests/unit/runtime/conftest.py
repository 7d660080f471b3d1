"""The demo, by SentenceTransformer and as a bundle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sentence_transformers import SentenceTransformer

import exporter
from tests.support.checkpoints import DEMO


@pytest.fixture(scope="module")
def reference() -> SentenceTransformer:
    return SentenceTransformer(str(DEMO), device="cpu", local_files_only=True)


@pytest.fixture(scope="module")
def encoder(demo_fp32: Path) -> Iterator[exporter.Encoder]:
    with exporter.load(demo_fp32) as opened:
        yield opened
