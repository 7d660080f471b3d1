"""Exact search in blocks, and what two searches in one corpus have in common. Pure numpy.

Memory besides the vectors is bounded, however many there are: scores of ``_QUERIES`` queries and ``_VECTORS`` vectors
of the corpus at a time, some 64 MiB in all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from exporter.runtime.vector_types import Vectors

Metric = Literal["cosine", "dot", "euclidean"]
METRICS: tuple[Metric, ...] = get_args(Metric)

_QUERIES, _VECTORS = 256, 8192
_ROUNDING = 1e-6
"""Scores that differ by less, relative to what they are sums of, are equal in float32."""

Rows = npt.NDArray[np.int64]
Shares = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Nearest:
    """What a search found.

    Attributes:
        rows: (queries, k) rows of the corpus, the nearest first.
        scores: (queries, k) float32, larger is nearer.
    """

    rows: Rows
    scores: Vectors


class Index:
    """A corpus to search in.

    Args:
        corpus: (rows, dimension) float32.
        metric: How vectors are compared. The rows of a distance are ordered, and scored, by ``q.c - |c|^2 / 2``.
    """

    def __init__(self, corpus: Vectors, metric: Metric) -> None:
        self._corpus, self._metric = corpus, metric
        norms = np.linalg.norm(corpus.astype(np.float64, copy=False), axis=1) if len(corpus) else np.zeros(0)
        self._scale = np.where(norms > 0, 1 / np.where(norms > 0, norms, 1.0), 0.0).astype(np.float32)
        self._offset = (norms**2 / 2).astype(np.float32)

    def nearest(self, queries: Vectors, own: Rows, k: int) -> Nearest:
        """Return the ``k`` nearest rows of each query, its own row left out.

        Args:
            queries: (queries, dimension) float32.
            own: (queries,) the row of the corpus that has the query's own text.
            k: Less than the number of rows.
        """
        rows, scores = np.zeros((len(queries), k), np.int64), np.full((len(queries), k), -np.inf, np.float32)
        for block in _blocks(len(queries), _QUERIES):
            asked = self._asked(queries[block])
            for part in _blocks(len(self._corpus), _VECTORS):
                found = self._scores(asked, part)
                mine = own[block] - part.start
                inside = np.flatnonzero((mine >= 0) & (mine < found.shape[1]))
                found[inside, mine[inside]] = -np.inf
                _keep_nearest(rows[block], scores[block], found, part.start)
        return Nearest(rows, scores)

    def scores_of(self, queries: Vectors, rows: Rows) -> Vectors:
        """Return the (queries, k) scores of given rows of the corpus, (queries, k)."""
        scores = np.empty(rows.shape, np.float32)
        for block in _blocks(len(queries), _QUERIES):
            chosen = rows[block]
            products = np.einsum("qd,qkd->qk", self._asked(queries[block]), self._corpus[chosen])
            scores[block] = self._scored(products, self._scale[chosen], self._offset[chosen])
        return scores

    def rounding(self, queries: Vectors, rows: Rows) -> Vectors:
        """Return (queries, k) by how much equal scores of given rows of the corpus, (queries, k), may differ.

        It is that of these rows: one very long vector of the corpus makes no others equal.
        """
        if self._metric == "cosine":
            return np.full((len(queries), 1), _ROUNDING, np.float32)
        lengths = np.sqrt(2 * self._offset[rows])
        norms = np.linalg.norm(queries, axis=1, keepdims=True)
        return np.asarray(_ROUNDING * lengths * (np.maximum(norms, lengths) if self._metric == "euclidean" else norms))

    def _asked(self, queries: Vectors) -> Vectors:
        if self._metric != "cosine":
            return queries
        norms = np.linalg.norm(queries, axis=1, keepdims=True)
        return np.asarray(queries / np.where(norms > 0, norms, 1), np.float32)

    def _scores(self, asked: Vectors, part: slice) -> Vectors:
        return self._scored(asked @ self._corpus[part].T, self._scale[part], self._offset[part])

    def _scored(self, products: Vectors, scale: Vectors, offset: Vectors) -> Vectors:
        match self._metric:
            case "cosine":
                return products * scale
            case "dot":
                return products
            case "euclidean":
                return products - offset


def overlap(index: Index, queries: Vectors, own: Rows, wanted: Nearest, found: Rows) -> Shares:
    """Return the (queries,) share of ``found`` that are among the nearest rows that were wanted.

    A row that is as near as the last one that was wanted counts as one of them: the order of equally near rows is a
    matter of luck.

    Args:
        index: The corpus in which ``wanted`` was searched.
        queries: (queries, dimension) float32, with which it was searched.
        own: (queries,) the row of each query.
        wanted: What was found then.
        found: (queries, k) the rows that another search has found.
    """
    scores = index.scores_of(queries, found)
    rounding = (index.rounding(queries, rows) for rows in (found, wanted.rows[:, -1:]))
    kept = scores >= wanted.scores[:, -1:] - np.maximum(*rounding)
    kept &= found != own[:, None]
    return np.asarray(kept.mean(axis=1), np.float64)


def _keep_nearest(rows: Rows, scores: Vectors, found: Vectors, start: int) -> None:
    """Put the best of a block of the corpus among the best so far; both arrays are changed."""
    k = rows.shape[1]
    width = min(k, found.shape[1])
    best = np.argpartition(-found, width - 1, axis=1)[:, :width]
    best.sort(axis=1)  # of equal scores, the first rows of the corpus
    all_scores = np.concatenate([scores, np.take_along_axis(found, best, axis=1)], axis=1)
    all_rows = np.concatenate([rows, best + start], axis=1)
    order = np.argsort(-all_scores, axis=1, kind="stable")[:, :k]
    rows[:] = np.take_along_axis(all_rows, order, axis=1)
    scores[:] = np.take_along_axis(all_scores, order, axis=1)


def _blocks(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
