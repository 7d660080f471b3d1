from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from exporter.calibration import TokenBatches
from exporter.graph import Graph
from exporter.precisions.int8 import smoothing
from exporter.precisions.int8.calibrate import quantize
from exporter.precisions.int8.emulator import Emulator
from exporter.precisions.int8.matmuls import matmuls_of
from exporter.precisions.int8.observer import Observation, observe
from exporter.precisions.int8.scheme import STATIC, Scheme
from exporter.precisions.int8.smoothing import choose_smoothing, groups_of
from tests.support.encoders import encode, numbers, small_encoder, word_tokenizer

BATCHES = TokenBatches(numbers(60), word_tokenizer())
S8 = STATIC["openvino", "cpu"]


def error_of(graph: Graph, smooth: dict[str, np.ndarray], emulator: Emulator, seen: dict[str, Observation]) -> float:
    quantization = quantize(emulator, S8, seen, "minmax", smooth)
    found = emulator.run(BATCHES, quantization, frozenset(matmul.node for matmul in emulator.matmuls))
    return float(np.linalg.norm(found - encode(graph, BATCHES)))


def test_an_outlier_channel_is_moved_into_the_weight_and_parity_gains() -> None:
    graph = small_encoder(outlier=40)
    emulator = Emulator(graph, S8)
    seen = observe(emulator, BATCHES)
    smooth = choose_smoothing(emulator, seen, S8)
    moved = smooth[emulator.matmuls[0].activation]
    assert moved.argmax() == 3
    assert moved[3] > 4 * np.median(moved)
    assert error_of(graph, smooth, emulator, seen) < 0.5 * error_of(graph, {}, emulator, seen)


def observed_with_a_quiet_channel(emulator: Emulator) -> dict[str, Observation]:
    """Return what activations hold, where channel 5 of the first one hardly ever fires."""
    seen = observe(emulator, BATCHES)
    name = emulator.matmuls[0].activation
    there = seen[name]
    quiet = np.where(np.arange(len(there.low)) == 5, np.float32(1e-6), np.float32(1))
    return {**seen, name: Observation(there.low * quiet, there.high * quiet, there.sample * quiet)}


def test_a_channel_that_hardly_ever_fires_keeps_the_integers_of_its_weights() -> None:
    """Smoothing alone would make its row so small that int8 has no number but zero for it."""
    emulator = Emulator(small_encoder(outlier=40), S8)
    weight = emulator.weight(emulator.matmuls[0].weight)
    smooth = choose_smoothing(emulator, observed_with_a_quiet_channel(emulator), S8)[emulator.matmuls[0].activation]
    assert smooth[5] == smooth.min()
    assert smooth.max() / smooth.min() == pytest.approx(32)
    rows = np.abs(S8.weight_of(weight * smooth[:, None]).values).max(axis=1).astype(int)
    assert (64 * rows >= np.abs(S8.weight_of(weight).values).max(axis=1)).all()


def test_scales_that_lose_a_row_are_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    emulator = Emulator(small_encoder(outlier=40), S8)
    name, seen = emulator.matmuls[0].activation, observed_with_a_quiet_channel(emulator)
    scales = smoothing._scales

    def lossy(group: Any, strength: float, *given: Any) -> np.ndarray:
        found = scales(group, strength, *given)
        return np.where(np.arange(len(found)) == 5, found.max() / 1e4, found).astype(np.float32)

    assert name in choose_smoothing(emulator, seen, S8)
    monkeypatch.setattr(smoothing, "_scales", lossy)
    assert name not in choose_smoothing(emulator, seen, S8)


def test_it_is_off_where_no_channel_stands_out() -> None:
    emulator = Emulator(small_encoder(), S8)
    smooth = choose_smoothing(emulator, observe(emulator, BATCHES), S8)
    assert emulator.matmuls[0].activation not in smooth


def test_matmuls_that_share_a_weight_or_an_activation_share_their_scales() -> None:
    graph = small_encoder(outlier=40, layers=3, shared=True)
    assert [len(group) for group in groups_of(matmuls_of(graph))] == [3, 3]
    assert [len(group) for group in groups_of(matmuls_of(small_encoder(layers=3)))] == [1] * 6
    emulator = Emulator(graph, S8)
    smooth = choose_smoothing(emulator, observe(emulator, BATCHES), S8)
    first, second = (emulator.matmuls[number].activation for number in (0, 2))
    np.testing.assert_array_equal(smooth[first], smooth[second])


def test_a_weight_comes_back_within_half_a_step_per_column() -> None:
    weight = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32) * np.array(
        [1, 10, 0.1, 1e-9, 0], np.float32
    )
    quantized = S8.weight_of(weight)
    assert quantized.values.dtype == np.int8
    assert (np.abs(quantized.restored() - weight) <= 0.5001 * quantized.scales).all()
    assert np.abs(quantized.values[:, :3]).max(axis=0).tolist() == [127] * 3


def test_scales_of_a_float16_graph_are_float16_and_never_zero() -> None:
    scheme = Scheme(S8.activation, "fp16", 2.0)
    weight = np.full((4, 2), [1.0, 1e-12], np.float32)
    scales = scheme.weight_of(weight).scales
    np.testing.assert_array_equal(scales, scales.astype(np.float16).astype(np.float32))
    assert (scales > 0).all()
