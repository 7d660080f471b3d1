from __future__ import annotations

import numpy as np
import pytest

from exporter.graph.passes.decompose_attention import decompose_attention
from tests.support.graphs import evaluate, model_of, ops

ATTENTION = """
g (TYPE[B,2,S,4] q, TYPE[B,2,S,4] k, TYPE[B,2,S,4] v, bool[B,S] m) => (TYPE[B,2,S,4] y)
<int64[2] axes = {1, 2}> {
  mask = Unsqueeze(m, axes)
  y = Attention ATTRIBUTES (q, k, v, mask)
}
"""


def feeds(dtype: type) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    qkv: dict[str, np.ndarray] = {name: rng.standard_normal((2, 2, 5, 4)).astype(dtype) for name in "qkv"}
    return {**qkv, "m": np.array([[True] * 5, [True, False, True, True, False]])}


@pytest.mark.parametrize("attributes", ["", "<scale = 0.25>", "<scale = 2.0>"])
def test_it_equals_the_operator(attributes: str) -> None:
    model = model_of(ATTENTION.replace("TYPE", "float").replace("ATTRIBUTES", attributes))
    (before,) = evaluate(model, feeds(np.float32))
    assert decompose_attention(model) == 1
    assert "Attention" not in ops(model)
    np.testing.assert_allclose(evaluate(model, feeds(np.float32))[0], before, atol=1e-6)


def test_masked_keys_weigh_exactly_nothing() -> None:
    model = model_of(ATTENTION.replace("TYPE", "float").replace("ATTRIBUTES", ""))
    decompose_attention(model)
    changed = feeds(np.float32)
    (before,) = evaluate(model, changed)
    changed["v"][1, :, 1] = 1e6
    changed["k"][1, :, 4] = -7
    np.testing.assert_array_equal(evaluate(model, changed)[0], before)


def test_float16_stays_float16() -> None:
    model = model_of(ATTENTION.replace("TYPE", "float16").replace("ATTRIBUTES", ""))
    (before,) = evaluate(model, feeds(np.float16))
    assert decompose_attention(model) == 1
    (after,) = evaluate(model, feeds(np.float16))
    assert after.dtype == np.float16
    np.testing.assert_allclose(after, before, atol=2e-3)


@pytest.mark.parametrize("attributes", ["<is_causal = 1>", "<softcap = 5.0>"])
def test_what_is_no_plain_attention_is_left_alone(attributes: str) -> None:
    model = model_of(ATTENTION.replace("TYPE", "float").replace("ATTRIBUTES", attributes))
    assert decompose_attention(model) == 0
