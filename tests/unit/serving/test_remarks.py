"""What is said of a bundle that is shipped soundly, and may still surprise."""

from __future__ import annotations

from pathlib import Path

from exporter.serving.triton.config import FILE, encoder_config, to_text
from exporter.serving.triton.facts import Options, served
from exporter.serving.triton.repository import remarks_on
from tests.support.served_bundles import bundle_of

OPTIONS = Options(runtime="python")


def test_nothing_is_said_of_a_first_version(tmp_path: Path) -> None:
    assert remarks_on(served(bundle_of("onnxruntime", "fp16"), OPTIONS), tmp_path, 1) == ()


def test_another_engine_under_the_same_name_is_told(tmp_path: Path) -> None:
    before = served(bundle_of("onnxruntime", "fp16"), OPTIONS)
    (tmp_path / before.name).mkdir()
    (tmp_path / before.name / FILE).write_text(to_text(encoder_config(before, OPTIONS)))
    assert remarks_on(before, tmp_path, 2) == ()
    (said,) = remarks_on(served(bundle_of("onnxruntime", "int8"), OPTIONS), tmp_path, 2)
    assert f"version 2 of {before.name} is int8 on onnxruntime; the version before is fp16 on onnxruntime" in said


def test_scales_from_each_batch_are_told(tmp_path: Path) -> None:
    (said,) = remarks_on(served(bundle_of("onnxruntime", "int8_dynamic"), OPTIONS), tmp_path, 1)
    assert "depends slightly on the other texts in the batch" in said
