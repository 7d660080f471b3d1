"""To what numbers vectors are rounded is found in their values, and sound vectors are not suspected."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from exporter.validator.rounding import rounded_to

Vectors = npt.NDArray[np.float32]


def sound(rows: int = 16, dimension: int = 384, seed: int = 0) -> Vectors:
    vectors = np.random.default_rng(seed).normal(size=(rows, dimension))
    unit: npt.NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit.astype(np.float32)


def codes(vectors: Vectors) -> Vectors:
    numbers: npt.NDArray[np.float64] = np.round(vectors / np.abs(vectors).max(axis=1, keepdims=True) * 127)
    return numbers.astype(np.float32)


def scaled(vectors: Vectors) -> Vectors:
    scaled: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled


ROUNDED: dict[str, tuple[Callable[[Vectors], Vectors], str]] = {
    "float16": (lambda vectors: vectors.astype(np.float16).astype(np.float32), "float16"),
    "bfloat16": (lambda vectors: (vectors.view(np.uint32) & 0xFFFF0000).view(np.float32), "bfloat16"),
    "int8 codes": (codes, "8 bits"),
    "int8 codes that were scaled to length 1": (lambda vectors: scaled(codes(vectors)), "8 bits"),
    "one scale for all": (lambda vectors: (np.round(vectors * 500) / 500).astype(np.float32), "8 bits"),
    "uint8 with a zero point": (lambda vectors: codes(vectors) * np.float32(0.01) + np.float32(0.3), "8 bits"),
}


@pytest.mark.parametrize("name", ROUNDED)
def test_it_is_found(name: str) -> None:
    change, told = ROUNDED[name]
    assert rounded_to(change(sound())) == told


@pytest.mark.parametrize("dimension", [8, 64, 384, 4096])
def test_float32_is_not_suspected(dimension: int) -> None:
    assert [rounded_to(sound(4, dimension, seed)) for seed in range(20)] == [None] * 20


def test_float16_that_was_scaled_to_length_1_is_not_found() -> None:
    assert rounded_to(scaled(sound().astype(np.float16).astype(np.float32))) is None


@pytest.mark.parametrize("vectors", [np.zeros((8, 8)), np.full((8, 8), np.nan), np.ones((2, 384)), np.ones((8, 2))])
def test_what_tells_nothing(vectors: npt.NDArray[np.float64]) -> None:
    assert rounded_to(vectors.astype(np.float32)) is None
