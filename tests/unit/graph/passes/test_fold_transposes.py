from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.graph.passes.fold_transposes import fold_transposes
from tests.support.graphs import evaluate, model_of, ops
from tests.support.surgery import stored_array

SHARED = """
g (float[B,3] x) => (float[B,3] y)
<float[3,3] w = {1,2,3,4,5,6,7,8,9}> {
  t = Transpose<perm = [1, 0]>(w)
  a = MatMul(x, t)
  u = Transpose<perm = [1, 0]>(w)
  y = MatMul(a, u)
}
"""


def test_one_transposed_copy_serves_every_use() -> None:
    model = model_of(SHARED)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    (before,) = evaluate(model, {"x": x})
    assert fold_transposes(model) == 2
    assert ops(model) == ["MatMul", "MatMul"]
    assert list(model.graph.initializers) == ["w.transposed"]
    np.testing.assert_array_equal(evaluate(model, {"x": x})[0], before)


def test_it_is_the_memory_of_the_original() -> None:
    model = model_of(SHARED)
    original = np.arange(9, dtype=np.float32).reshape(3, 3)
    model.graph.initializers["w"].const_value = ir.tensor(original, name="w")
    fold_transposes(model)
    transposed = stored_array(model.graph.initializers["w.transposed"])
    assert np.shares_memory(original, transposed)
    np.testing.assert_array_equal(transposed, original.T)


def test_the_original_stays_where_something_else_reads_it() -> None:
    model = model_of(SHARED.replace("y = MatMul(a, u)", "b = MatMul(a, u)\n y = MatMul(b, w)"))
    x = np.ones((1, 3), dtype=np.float32)
    (before,) = evaluate(model, {"x": x})
    assert fold_transposes(model) == 2
    assert sorted(model.graph.initializers) == ["w", "w.transposed"]
    np.testing.assert_array_equal(evaluate(model, {"x": x})[0], before)


def test_a_transposed_activation_is_left_alone() -> None:
    model = model_of("g (float[B,3] x) => (float[3,B] y) { y = Transpose<perm = [1, 0]>(x) }")
    assert fold_transposes(model) == 0
    assert ops(model) == ["Transpose"]
