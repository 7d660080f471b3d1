"""The figures that a report keeps of what a format loses."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.validator.format_loss import FormatLoss
from exporter.validator.parity import compare

REFERENCE = np.random.default_rng(6).standard_normal((6, 8)).astype(np.float32)
IDS = [[row] for row in range(6)]


def test_are_of_the_probes_that_are_known() -> None:
    vectors = REFERENCE.copy()
    vectors[0] *= 1.5
    vectors[1] = vectors[1][::-1]
    vectors[4] = np.nan
    parity = compare(REFERENCE, vectors, IDS)
    loss = FormatLoss("PyTorch in float16", parity)
    known = [0, 1, 2, 3, 5]
    assert loss.to_dict() == {
        "source": "PyTorch in float16",
        "probes": 5,
        "min_cosine": pytest.approx(parity.cosine[known].min()),
        "min_centered_cosine": pytest.approx(parity.centered_cosine[known].min()),
        "mean_relative_error": pytest.approx(parity.relative_error[known].mean()),
        "max_relative_error": pytest.approx(parity.relative_error[known].max()),
    }
    assert list(loss.to_dict()) == [
        "source",
        "probes",
        "min_cosine",
        "min_centered_cosine",
        "mean_relative_error",
        "max_relative_error",
    ]
    assert parity.cosine[known].min() < parity.cosine[known].max()


def test_are_null_where_nothing_is_known() -> None:
    loss = FormatLoss("PyTorch in float16", compare(REFERENCE, np.full(REFERENCE.shape, np.nan), IDS))
    assert loss.to_dict() == {
        "source": "PyTorch in float16",
        "probes": 0,
        "min_cosine": None,
        "min_centered_cosine": None,
        "mean_relative_error": None,
        "max_relative_error": None,
    }
    assert np.isnan([loss.mean_relative_error, loss.max_relative_error]).all()


def test_the_difference_from_the_emulator_is_taken_in_double_precision() -> None:
    parity = compare(REFERENCE, REFERENCE, IDS)
    nearly = (REFERENCE * np.float32(1 + 1e-6)).astype(np.float32)
    found = FormatLoss("the emulator", parity, REFERENCE).emulator_error(nearly)
    wanted = REFERENCE.astype(np.float64)
    expected = np.linalg.norm(nearly.astype(np.float64) - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
    assert found == pytest.approx(expected.mean(), rel=1e-9)


def test_a_vector_of_length_zero_is_compared_absolutely() -> None:
    emulated = np.array([[0.0, 0.0], [0.25, 0.0]], np.float32)
    parity = compare(emulated, emulated, [[0], [1]])
    found = FormatLoss("the emulator", parity, emulated).emulator_error(np.array([[0.5, 0.0], [0.5, 0.0]], np.float32))
    assert found == pytest.approx((0.5 + 1.0) / 2)
