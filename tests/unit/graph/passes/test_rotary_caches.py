from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.graph.passes import remove_unused
from exporter.graph.passes.rotary_caches import rotary_caches
from tests.support.graphs import evaluate, model_of, ops

# Two layers that compute the same cosines and sines, for one row.
LAYERS = """
g (int64[batch,sequence] input_ids, float[batch,2,sequence,4] x) => (float[batch,2,sequence,4] y)
<float[1,1,2] frequencies = {1.0, 0.1}, int64 zero = {0}, int64 step = {1}, int64[2] around = {0, 2}> {
  length = Shape<start = 1, end = 2>(input_ids)
  scalar = Squeeze(length)
  places = Range(zero, scalar, step)
  column = Unsqueeze(places, around)
  numbers = Cast<to = 1>(column)
  angles = Mul(numbers, frequencies)
  cos_0 = Cos(angles)
  sin_0 = Sin(angles)
  first = RotaryEmbedding<interleaved = 0, num_heads = 2>(x, cos_0, sin_0)
  cos_1 = Cos(angles)
  sin_1 = Sin(angles)
  y = RotaryEmbedding<interleaved = 0, num_heads = 2>(first, cos_1, sin_1)
}
"""


def typed(body: str) -> ir.Model:
    """The exporter states the shape of the angles, and neither shape nor type of their cosines."""
    model = model_of(body)
    for node in model.graph:
        if node.op_type == "Mul":
            node.outputs[0].shape = ir.Shape([1, "sequence", 2])
            node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        if node.op_type in ("Cos", "Sin"):
            node.outputs[0].shape = node.outputs[0].type = None
    return model


def feeds(batch: int, sequence: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "input_ids": np.ones((batch, sequence), dtype=np.int64),
        "x": rng.standard_normal((batch, 2, sequence, 4)).astype(np.float32),
    }


def rotated(x: np.ndarray) -> np.ndarray:
    """Rotate each pair (i, i + 2) of every token by its position, in float64."""
    angles = np.arange(x.shape[2])[:, None] * np.array([1.0, 0.1])
    first, second = x[..., :2].astype(np.float64), x[..., 2:]
    turned = (first * np.cos(angles) - second * np.sin(angles), second * np.cos(angles) + first * np.sin(angles))
    return np.concatenate(turned, axis=-1)


def test_every_row_of_a_batch_is_rotated() -> None:
    model = typed(LAYERS)
    assert rotary_caches(model) == 2
    remove_unused(model)
    for batch, sequence in ((1, 1), (1, 9), (3, 9)):
        inputs = feeds(batch, sequence)
        (found,) = evaluate(model, inputs)
        np.testing.assert_allclose(found, rotated(rotated(inputs["x"])), atol=1e-6)


def test_what_all_layers_compute_alike_is_computed_once_and_typed() -> None:
    model = typed(LAYERS)
    rotary_caches(model)
    remove_unused(model)
    assert [ops(model).count(name) for name in ("Cos", "Sin", "Expand")] == [1, 1, 2]
    for node in model.graph:
        if node.op_type in ("Cos", "Sin", "Expand"):
            shape, dtype = node.outputs[0].shape, node.outputs[0].dtype
            assert shape is not None
            assert [str(size) for size in shape][1:] == ["sequence", "2"]
            assert dtype == ir.DataType.FLOAT


def test_other_frequencies_stay_apart() -> None:
    body = LAYERS.replace(
        "float[1,1,2] frequencies = {1.0, 0.1}", "float[1,1,2] frequencies = {1.0, 0.1}, float two = {2.0}"
    )
    body = body.replace("cos_1 = Cos(angles)", "other = Mul(angles, two)\n  cos_1 = Cos(other)")
    model = typed(body)
    assert rotary_caches(model) == 2
    remove_unused(model)
    assert [ops(model).count(name) for name in ("Cos", "Sin", "Expand")] == [2, 1, 3]


def test_caches_of_every_row_or_with_position_ids_stay() -> None:
    whole = LAYERS.replace(
        "y = RotaryEmbedding<interleaved = 0, num_heads = 2>(first, cos_1, sin_1)", "y = Identity(x)"
    )
    whole = whole.replace("(x, cos_0, sin_0)", "(x, cos_0, sin_0, input_ids)")
    assert rotary_caches(typed(whole)) == 0
    assert rotary_caches(model_of("g (float[2] x) => (float[2] y) { y = Abs(x) }")) == 0
