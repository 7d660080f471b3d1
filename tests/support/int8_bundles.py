"""int8 bundles of real weights, each exported once a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from exporter.bundle import Bundle
from exporter.options import ExportOptions
from exporter.pipeline import export
from exporter.recipe import find_recipe
from exporter.targets import Backend, Precision
from tests.conftest import Shared


def int8_bundle(shared: Shared, model: str, precision: str, backend: str) -> Bundle:
    def fill(folder: Path) -> None:
        options = ExportOptions(precision=Precision(precision), backend=Backend(backend), out=folder)
        export(find_recipe(model), options)

    return Bundle.open(shared(f"{model}-{precision}-{backend}", fill) / model / f"{precision}-{backend}")


def facts(bundle: Bundle) -> Any:
    return json.loads((bundle.folder / "int8.json").read_text(encoding="utf-8"))


def statistics(bundle: Bundle) -> Any:
    return json.loads((bundle.folder / "parity.json").read_text(encoding="utf-8"))["statistics"]


def require_small_loss(bundle: Bundle) -> None:
    """Require what int8 loses at most where weights are real, and that few MatMuls are excluded."""
    found = statistics(bundle)
    assert found["min_cosine"] >= 0.97
    assert found["mean_cosine"] >= 0.992
    assert found["mean_neighbor_overlap"] >= 0.85
    assert facts(bundle)["share_excluded"] <= 0.15
