from __future__ import annotations

import numpy as np
import pytest
from onnxruntime.quantization.calibrate import HistogramCollector

from exporter.precisions.int8.ranges import METHODS, Method, entropy_clip, value_range


def bell(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=40_000).astype(np.float32)


def squared_error(values: np.ndarray, low: float, high: float) -> float:
    step = max(high, -low) / 127
    return float(((np.clip(np.rint(values / step), -127, 127) * step - values) ** 2).mean())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_range_holds_zero_and_no_more_than_was_seen(method: Method, symmetric: bool) -> None:
    values = np.abs(bell()) + 1
    low, high = value_range(values, float(values.min()), float(values.max()), method, symmetric=symmetric)
    assert low <= 0 < high <= values.max()
    assert low == (pytest.approx(-high) if symmetric else 0)


def test_minmax_takes_the_extremes_of_all_values_and_not_of_the_sample() -> None:
    assert value_range(bell(), -9.0, 11.0, "minmax", symmetric=False) == (-9.0, 11.0)
    assert value_range(bell(), -9.0, 11.0, "minmax", symmetric=True) == (-11.0, 11.0)


def test_a_percentile_cuts_the_rarest_off() -> None:
    values = bell()
    values[0] = 500.0
    _, high = value_range(values, -5.0, 500.0, "percentile", symmetric=True)
    assert 3.5 < high < 5


@pytest.mark.parametrize("far", [4.0, 12.0, 60.0])
def test_least_squares_is_the_least_of_all_clips(far: float) -> None:
    values = bell()
    values[0] = far
    clipped = value_range(values, -5.0, far, "mse", symmetric=True)
    largest = max(far, 5.0)
    least = min(squared_error(values, -clip, clip) for clip in np.linspace(0.2, 1.0, 400) * largest)
    assert squared_error(values, *clipped) <= 1.03 * least
    assert far < 10 or clipped[1] < 0.9 * largest


@pytest.mark.parametrize(("heavy", "share"), [(True, 0.9), (False, 1.0)])
def test_entropy_agrees_with_onnxruntime_s(heavy: bool, share: float) -> None:
    rng = np.random.default_rng(0)
    values = (rng.laplace(size=300_000) if heavy else rng.normal(size=300_000)).astype(np.float32)
    largest = np.abs(values).max()
    counts, edges = np.histogram(values, 2 * 1024 + 1, (-largest, largest))
    collector = HistogramCollector("entropy", True, 2048, 128, 99.99, "same")
    _, wanted = collector.get_entropy_threshold((counts, edges, values.min(), values.max()), 128)
    assert entropy_clip(np.abs(values)) == pytest.approx(float(wanted), rel=0.2)
    assert entropy_clip(np.abs(values)) < share * largest


@pytest.mark.parametrize("method", METHODS)
def test_an_activation_that_is_always_zero_has_a_range(method: Method) -> None:
    assert value_range(np.zeros(10, np.float32), 0.0, 0.0, method, symmetric=True) == (0.0, 0.0)
