from __future__ import annotations

import numpy as np
import pytest

from exporter.calibration import TokenBatches
from exporter.precisions.int8 import observer
from exporter.precisions.int8.emulator import Emulator
from exporter.precisions.int8.observer import observe
from exporter.precisions.int8.scheme import DYNAMIC, STATIC
from tests.support.encoders import numbers, small_encoder, word_tokenizer

S8 = STATIC["openvino", "cpu"]


def test_extremes_are_those_of_every_token_and_the_sample_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observer, "SAMPLE_BYTES", 1)
    batches = TokenBatches(numbers(200), word_tokenizer(), batch_size=8)
    emulator = Emulator(small_encoder(), S8)
    names = tuple(dict.fromkeys(matmul.activation for matmul in emulator.matmuls))
    everything = {name: np.concatenate([f[name] for f in emulator.look(batches, (name,))]) for name in names}
    seen = observe(emulator, batches)
    for name, there in seen.items():
        np.testing.assert_array_equal(there.low, everything[name].min(axis=0))
        np.testing.assert_array_equal(there.high, everything[name].max(axis=0))
        assert there.sample.shape[0] == 256 < everything[name].shape[0]
        rows = {row.tobytes() for row in everything[name]}
        assert all(row.tobytes() in rows for row in there.sample)


def test_padding_counts_where_scales_come_from_each_batch_as_it_is() -> None:
    batches = TokenBatches(numbers(20), word_tokenizer(), batch_size=8)
    graph = small_encoder()
    name = Emulator(graph, S8).matmuls[0].activation
    without, with_padding = (
        observe(Emulator(graph, scheme), batches)[name] for scheme in (S8, DYNAMIC["onnxruntime", "cpu"])
    )
    assert len(without.sample) == sum(int(mask.sum()) for _, mask in batches)
    assert len(with_padding.sample) == sum(mask.size for _, mask in batches)


def test_it_tells_how_far_it_is_and_twice_is_the_same() -> None:
    batches = TokenBatches(numbers(20), word_tokenizer(), batch_size=8)
    emulator = Emulator(small_encoder(), S8)
    told: list[str] = []
    first, second = observe(emulator, batches, told.append), observe(emulator, batches)
    assert told[-1].split()[0] == told[-1].split()[2]
    assert len(told) == 3
    for name in first:
        np.testing.assert_array_equal(first[name].sample, second[name].sample)
