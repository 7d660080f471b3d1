"""Similarity equals that of sentence-transformers, and has the type of what is compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SimilarityFunction

from exporter.runtime.similarity import SIMILARITIES, SimilarityName, similarity, similarity_pairwise

A, B = np.random.default_rng(0).normal(size=(2, 40, 24)).astype(np.float32)
A[3] = 0
TENSOR = torch.from_numpy

SHAPES: dict[str, Callable[[np.ndarray], Any]] = {
    "matrix": lambda matrix: matrix,
    "vector": lambda matrix: matrix[0],
    "list of vectors": list,
    "float64": lambda matrix: matrix.astype(np.float64),
    "float16": lambda matrix: matrix.astype(np.float16),
    "tensor": TENSOR,
    "tensor of one vector": lambda matrix: TENSOR(matrix)[0],
    "list of tensors": lambda matrix: list(TENSOR(matrix)),
    "bfloat16": lambda matrix: TENSOR(matrix).bfloat16(),
}


@pytest.mark.parametrize("name", SIMILARITIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_like_sentence_transformers(name: SimilarityName, shape: str) -> None:
    first, second = SHAPES[shape](A), SHAPES[shape](B)
    tensors = "tensor" in shape or shape == "bfloat16"
    for ours, theirs in (
        (similarity, SimilarityFunction.to_similarity_fn(name)),
        (similarity_pairwise, SimilarityFunction.to_similarity_pairwise_fn(name)),
    ):
        wanted, found = theirs(first, second), ours(name, first, second)
        assert isinstance(found, torch.Tensor if tensors else np.ndarray)
        found = found if tensors else torch.from_numpy(np.asarray(found))
        assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-5)


def test_codes_of_int8_are_compared_as_numbers() -> None:
    codes = np.array([[100, 100], [-100, 100]], np.int8)
    np.testing.assert_array_equal(similarity("dot", codes, codes), [[20000, 0], [0, 20000]])
