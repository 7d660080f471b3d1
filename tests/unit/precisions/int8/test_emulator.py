"""The emulator must say what an engine will do: it is compared with the graphs that are written."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from exporter.calibration import TokenBatches
from exporter.precisions.int8.calibrate import quantize
from exporter.precisions.int8.dynamic import quantize_matmuls
from exporter.precisions.int8.emulator import Emulator
from exporter.precisions.int8.observer import observe
from exporter.precisions.int8.qdq import insert_qdq
from exporter.precisions.int8.scheme import DYNAMIC, STATIC, Scheme
from tests.support.encoders import WIDTH, encode, numbers, small_encoder, word_tokenizer
from tests.support.surgery import stored_array

BATCHES = TokenBatches(numbers(40), word_tokenizer(), batch_size=8)
S8, U8 = STATIC["openvino", "cpu"], STATIC["onnxruntime", "cpu"]


def test_with_nothing_on_it_is_the_float32_graph() -> None:
    graph = small_encoder()
    np.testing.assert_allclose(Emulator(graph, S8).run(BATCHES), encode(graph, BATCHES), atol=1e-4)


@pytest.mark.parametrize("scheme", [S8, U8])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kept", [0, 1])
def test_an_assignment_gives_what_the_written_graph_gives(scheme: Scheme, shared: bool, kept: int) -> None:
    graph = small_encoder(outlier=20, shared=shared)
    emulator = Emulator(graph, scheme)
    seen = observe(emulator, BATCHES)
    smooth = {name: np.linspace(0.5, 2, there.low.size).astype(np.float32) for name, there in seen.items()}
    quantization = quantize(emulator, scheme, seen, "mse", smooth)
    on = frozenset(matmul.node for matmul in emulator.matmuls[kept:])
    model = graph.editable()
    assert insert_qdq(model, emulator.matmuls, quantization, scheme, on) == 4 - kept
    written = encode(graph.with_model(model), BATCHES)
    # A sum in another order may round to the next integer somewhere.
    np.testing.assert_allclose(emulator.run(BATCHES, quantization, on), written, atol=0.02 * np.abs(written).max())
    assert np.abs(written - encode(graph, BATCHES)).max() > 1e-3


def test_the_dynamic_scheme_takes_its_scale_from_the_batch() -> None:
    graph = small_encoder()
    emulator = Emulator(graph, DYNAMIC["onnxruntime", "cpu"])
    quantization = quantize(emulator, DYNAMIC["onnxruntime", "cpu"], observe(emulator, BATCHES), "minmax", {})
    on = frozenset(matmul.node for matmul in emulator.matmuls)
    found, wanted = emulator.run(BATCHES, quantization, on), encode(graph, BATCHES)
    assert 0 < np.abs(found - wanted).max() < 0.1 * np.abs(wanted).max()


def test_a_dynamic_assignment_gives_what_the_quantizer_s_graph_gives() -> None:
    scheme = DYNAMIC["onnxruntime", "cpu"]
    graph = small_encoder(outlier=20)
    emulator = Emulator(graph, scheme)
    seen = observe(emulator, BATCHES)
    smooth = {name: np.linspace(0.5, 2, there.low.size).astype(np.float32) for name, there in seen.items()}
    quantization = quantize(emulator, scheme, seen, "minmax", smooth)
    kept = emulator.matmuls[0].node
    on = frozenset(matmul.node for matmul in emulator.matmuls) - {kept}
    model = quantize_matmuls(graph.editable(), emulator.matmuls, quantization, on)
    written = encode(graph.with_model(model), BATCHES)
    found = emulator.run(BATCHES, quantization, on)
    np.testing.assert_allclose(found, written, atol=0.02 * np.abs(written).max())
    plain = emulator.run(BATCHES, quantize(emulator, scheme, seen, "minmax", {}), on)
    assert np.abs(written - plain).max() > 2 * np.abs(written - found).max()


def test_large_tables_are_fed_and_no_session_holds_them() -> None:
    table = np.random.default_rng(0).normal(size=(20_000, WIDTH)).astype(np.float32)
    graph = small_encoder()
    stored = graph.model.graph.initializers["words.weight"]
    table[: len(stored_array(stored))] = stored_array(stored)
    wanted = encode(graph, BATCHES)
    stored.const_value = ir.tensor(table, name="words.weight")
    stored.shape = ir.Shape(table.shape)
    np.testing.assert_allclose(Emulator(graph, S8).run(BATCHES), wanted, atol=1e-4)
    assert stored.const_value is not None  # the graph itself keeps it


def test_a_value_may_be_asked_for_twice() -> None:
    emulator = Emulator(small_encoder(), S8)
    name = emulator.matmuls[0].activation
    for once, twice in zip(emulator.look(BATCHES, (name,)), emulator.look(BATCHES, (name, name)), strict=True):
        np.testing.assert_array_equal(once[name], twice[name])


def test_padding_is_not_looked_at() -> None:
    graph = small_encoder()
    table = graph.model.graph.initializers["words.weight"]
    padded = stored_array(table).copy()
    padded[0] = np.arange(WIDTH)  # the row that pads, like no other
    table.const_value = ir.tensor(padded, name="words.weight")
    emulator = Emulator(graph, S8)
    name = emulator.matmuls[0].activation
    tokens = sum(int(mask.sum()) for _, mask in BATCHES)
    looked = np.concatenate([found[name] for found in emulator.look(BATCHES, (name,))])
    assert looked.shape[0] == tokens < sum(mask.size for _, mask in BATCHES)
    ramp = (padded[0] - padded[0].mean()) / padded[0].std()
    assert np.abs(looked - ramp).max(axis=1).min() > 0.1
