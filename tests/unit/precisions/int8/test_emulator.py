"""The emulator must say what an engine will do: it is compared with the graphs that are written."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from exporter.calibration import TokenBatches
from exporter.graph.surgery import add_constant
from exporter.precisions.int8.calibrate import quantize
from exporter.precisions.int8.dynamic import quantize_matmuls
from exporter.precisions.int8.embedding import quantize_tables
from exporter.precisions.int8.emulator import Emulator, Prefix
from exporter.precisions.int8.observer import observe
from exporter.precisions.int8.qdq import insert_qdq
from exporter.precisions.int8.scheme import DYNAMIC, STATIC, Quantization, Scheme
from exporter.precisions.int8.segments import Segment, Values, opened
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


@pytest.mark.parametrize("int8", [False, True])
def test_large_tables_are_fed_and_no_session_holds_them(int8: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    table = np.random.default_rng(0).normal(size=(80_000, WIDTH)).astype(np.float32)
    graph = small_encoder()
    stored = graph.model.graph.initializers["words.weight"]
    table[: len(stored_array(stored))] = stored_array(stored)
    stored.const_value = ir.tensor(table, name="words.weight")
    stored.shape = ir.Shape(table.shape)
    if int8:
        model = graph.editable()
        assert quantize_tables(model) == 1
        graph = graph.with_model(model)
    sizes: list[int] = []

    def noted(content: bytes) -> object:
        sizes.append(len(content))
        return opened(content)

    monkeypatch.setattr("exporter.precisions.int8.segments.opened", noted)
    np.testing.assert_allclose(Emulator(graph, S8).run(BATCHES), encode(graph, BATCHES), atol=1e-4)
    assert 0 < sum(sizes) < 2**16
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


@pytest.mark.parametrize("scheme", [S8, DYNAMIC["onnxruntime", "cpu"]])
def test_runs_after_a_prefix_give_the_same_bits(scheme: Scheme) -> None:
    emulator, quantization, nodes = quantized_encoder(scheme, layers=3)
    prefix = Prefix(list(BATCHES))
    alone = [frozenset([node]) for node in nodes]
    several = [frozenset(nodes[2:]), frozenset(nodes), frozenset([nodes[1], nodes[4]]), frozenset[str]()]
    seen = set()
    for on in (*alone, *several, *reversed(alone)):
        found = emulator.run_after(prefix, quantization, on)
        np.testing.assert_array_equal(found, emulator.run(BATCHES, quantization, on))
        seen.add(found.tobytes())
    assert len(seen) == len(nodes) + len(several)  # each assignment has an effect


def test_what_comes_before_the_first_matmul_in_int8_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    emulator, quantization, nodes = quantized_encoder(S8, layers=3)
    runs = noted_runs(monkeypatch)
    batch = next(iter(BATCHES))
    prefix = Prefix([batch])
    for node in nodes:
        emulator.run_after(prefix, quantization, frozenset([node]))
    segments = len(nodes) + 1  # one MatMul each, and the word vectors before them
    assert len(runs) == len(nodes) + sum(
        range(1, segments)
    )  # up to each MatMul once in all, and behind it once for each
    runs.clear()
    emulator.run([batch], quantization, frozenset(nodes))
    assert len(runs) == segments


@pytest.mark.parametrize("layers", [3, 5])
def test_layers_share_their_sessions(layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session has threads and memory of its own: their number may not grow with that of the layers."""
    graph, runs = small_encoder(layers=layers), noted_runs(monkeypatch)
    for number, node in enumerate(node for node in graph.model.graph if node.op_type == "LayerNormalization"):
        gain = np.linspace(1, 1 + number, WIDTH).astype(np.float32)
        node.replace_input_with(1, add_constant(graph.model, f"gain.{number}", gain))
    batch = next(iter(BATCHES))
    np.testing.assert_allclose(Emulator(graph, S8).run([batch]), encode(graph, [batch]), atol=1e-4)
    assert len(runs) == 2 * layers + 1
    assert len({id(segment.session) for segment in runs}) == 4  # words, both MatMuls of a layer, the last with pooling


def noted_runs(monkeypatch: pytest.MonkeyPatch) -> list[Segment]:
    """Return a list that every segment is added to when it runs."""
    runs: list[Segment] = []
    run = Segment.run

    def noted(segment: Segment, values: Values) -> Values:
        runs.append(segment)
        return run(segment, values)

    monkeypatch.setattr(Segment, "run", noted)
    return runs


def quantized_encoder(scheme: Scheme, *, layers: int) -> tuple[Emulator, Quantization, list[str]]:
    """Return an emulator, scales, and the nodes of its MatMuls."""
    emulator = Emulator(small_encoder(layers=layers), scheme)
    quantization = quantize(emulator, scheme, observe(emulator, BATCHES), "minmax", {})
    return emulator, quantization, [matmul.node for matmul in emulator.matmuls]
