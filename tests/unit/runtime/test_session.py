"""What ONNX Runtime makes of a graph with the options of a session."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from exporter.runtime.session import session_options
from tests.support.graphs import model_of

RESIDUAL = """
g (float[B,S,4] hidden, float[B,S,4] residual) => (float[B,S,4] normed)
<float[4] scale = {1, 2, 3, 4}, float[4] shift = {4, 3, 2, 1}> {
  sum = Add(hidden, residual)
  normed = LayerNormalization<axis = -1, epsilon = 0.00001>(sum, scale, shift)
}
"""


def opened(options: onnxruntime.SessionOptions, file: Path) -> tuple[onnxruntime.InferenceSession, list[str]]:
    """Open the graph on the CPU, and return the session and the operators that it runs."""
    options.optimized_model_filepath = str(file)
    data = ir.to_proto(model_of(RESIDUAL)).SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session, [node.op_type for node in onnx.load(file).graph.node]


def test_on_a_cpu_the_sum_before_a_layer_norm_is_an_operator_of_its_own(tmp_path: Path) -> None:
    _, operators = opened(session_options(), tmp_path / "model.onnx")
    assert operators == ["Add", "LayerNormalization"]


def test_on_a_gpu_it_is_fused(tmp_path: Path) -> None:
    _, operators = opened(session_options(device="cuda"), tmp_path / "model.onnx")
    assert operators == ["SkipLayerNormalization"]


def test_both_compute_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal((2, 3, 4)).astype(np.float32) for name in ("hidden", "residual")}
    (apart,), (fused,) = (
        opened(session_options(device=device), tmp_path / device)[0].run(None, feeds) for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(apart, fused, rtol=1e-5, atol=1e-6)


def test_threads_spin_unless_they_must_not() -> None:
    key = "session.intra_op.allow_spinning"
    assert session_options(spinning=False).get_session_config_entry(key) == "0"
    with pytest.raises(RuntimeError, match=key):  # it is not set: ONNX Runtime's own default
        session_options().get_session_config_entry(key)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_threads_are_those_asked_for(device: str) -> None:
    assert session_options(3, device).intra_op_num_threads == 3
