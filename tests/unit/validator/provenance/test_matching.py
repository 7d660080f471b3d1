"""Large tensors are compared block by block; where the first difference is does not depend on that."""

from __future__ import annotations

import numpy as np

from exporter.validator.provenance.matching import difference
from exporter.validator.provenance.stored import Value, blocks
from exporter.validator.provenance.tensors import FloatTensor


def test_blocks_cover_every_row_once() -> None:
    rows = np.concatenate([np.arange(1000)[block] for block in blocks((1000, 500))])
    np.testing.assert_array_equal(rows, np.arange(1000))


def test_the_first_difference_is_named_by_its_place_in_the_whole_tensor() -> None:
    wanted = np.random.default_rng(0).normal(size=(1000, 500)).astype(np.float32)
    stored = wanted.copy()
    stored[777, 31] = 0
    stored[900, 2] = 0
    found = difference(FloatTensor(Value("words", "float32", stored.shape, load=lambda: stored)), wanted)
    assert (found.count, found.first) == (2, (777, 31))
