"""Exact search in blocks, on arrays whose neighbors can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.comparison import search
from exporter.comparison.search import Index, Metric, overlap

RNG = np.random.default_rng(0)


def directions(*degrees: float) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def all_rows(corpus: np.ndarray) -> np.ndarray:
    return np.arange(len(corpus))


# Texts at these angles; the two nearest of each can be seen: 0 -> 10, 30; 10 -> 0, 30; 30 -> 10, 0 (60 is as far); ...
CORPUS = directions(0, 10, 31, 60, 100)


def test_neighbors_are_those_that_can_be_seen() -> None:
    found = Index(CORPUS, "cosine").nearest(CORPUS, all_rows(CORPUS), 2)
    assert found.rows.tolist() == [[1, 2], [0, 2], [1, 3], [2, 4], [3, 2]]
    np.testing.assert_allclose(found.scores[0], np.cos(np.radians([10, 31])), atol=1e-6)


def test_the_overlap_is_counted_by_hand() -> None:
    """Turned by 40 degrees, the queries find what lies 40 degrees further."""
    index, own = Index(CORPUS, "cosine"), all_rows(CORPUS)
    wanted = index.nearest(CORPUS, own, 2)
    turned = directions(40, 50, 71, 100, 140)
    found = index.nearest(turned, own, 2)
    assert found.rows.tolist() == [[2, 3], [3, 2], [3, 4], [4, 2], [3, 2]]
    # wanted [1, 2], [0, 2], [1, 3], [2, 4], [3, 2]
    assert overlap(index, CORPUS, own, wanted, found.rows).tolist() == [0.5, 0.5, 0.5, 1, 1]


def test_what_is_as_near_as_the_last_one_counts() -> None:
    corpus = directions(0, 20, 20, 20, 90)
    index, own = Index(corpus, "cosine"), all_rows(corpus)
    wanted = index.nearest(corpus[:1], own[:1], 1)
    for row in (1, 2, 3):
        assert overlap(index, corpus[:1], own[:1], wanted, np.array([[row]])) == [1]
    assert overlap(index, corpus[:1], own[:1], wanted, np.array([[4]])) == [0]
    assert overlap(index, corpus[:1], own[:1], wanted, np.array([[0]])) == [0], "its own row is no neighbor"


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize(("queries", "vectors"), [(256, 8192), (3, 5), (1, 1), (7, 2)])
def test_blocks_find_what_all_pairs_show(
    metric: Metric, queries: int, vectors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_QUERIES", queries)
    monkeypatch.setattr(search, "_VECTORS", vectors)
    corpus = RNG.standard_normal((41, 6)).astype(np.float32) * RNG.uniform(0.5, 2, (41, 1)).astype(np.float32)
    asked = RNG.standard_normal((41, 6)).astype(np.float32)
    lengths = np.linalg.norm(asked, axis=1)[:, None] * np.linalg.norm(corpus, axis=1)
    distances = np.linalg.norm(asked[:, None] - corpus, axis=2)
    scores = {"cosine": asked @ corpus.T / lengths, "dot": asked @ corpus.T, "euclidean": -distances}[metric]
    np.fill_diagonal(scores, -np.inf)
    wanted = np.argsort(-scores, axis=1)[:, :7]
    found = Index(corpus, metric).nearest(asked, all_rows(corpus), 7)
    np.testing.assert_array_equal(found.rows, wanted)


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_a_search_repeats_itself_whatever_the_scale(metric: Metric) -> None:
    corpus = (1e3 * RNG.standard_normal((60, 5))).astype(np.float32)
    index, own = Index(corpus, metric), all_rows(corpus)
    wanted = index.nearest(corpus, own, 10)
    assert overlap(index, corpus, own, wanted, wanted.rows).tolist() == [1] * 60
    random = np.stack([RNG.permutation(np.delete(own, row))[:10] for row in own])
    assert overlap(index, corpus, own, wanted, random).mean() < 0.35, "10 of 59 by chance"


@pytest.mark.parametrize("metric", ["dot", "euclidean"])
def test_one_very_long_vector_makes_no_others_equal(metric: Metric) -> None:
    corpus = RNG.standard_normal((60, 5)).astype(np.float32)
    corpus[0] *= 1e8
    index, own = Index(corpus, metric), all_rows(corpus)
    wanted = index.nearest(corpus, own, 10)
    random = np.stack([RNG.permutation(own[(own != row) & (own != 0)])[:10] for row in own])
    assert overlap(index, corpus, own, wanted, random)[1:].mean() < 0.35, "10 of 59 by chance"
