"""The bundles, made by whoever runs these tests, and their encoders."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

import exporter


@pytest.fixture(params=["demo", "prompted"])
def bundle(request: pytest.FixtureRequest) -> str:
    """The folder of a bundle: the demo, which has no prompts, and a twin that has one for queries and documents."""
    return os.environ[f"KORSBERT_{str(request.param).upper()}"]


@pytest.fixture
def prompted() -> str:
    """The folder of the bundle with prompts."""
    return os.environ["KORSBERT_PROMPTED"]


@pytest.fixture
def encoder(bundle: str) -> Iterator[exporter.Encoder]:
    with exporter.load(bundle) as encoder:
        yield encoder
