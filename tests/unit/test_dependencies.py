"""Optional packages are imported without garbage collection, which is left as it was."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest

from exporter.dependencies import require_all
from exporter.errors import MissingDependencyError


def test_nothing_is_collected_while_packages_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "asks_for_collection.py").write_text("import gc\nenabled = gc.isenabled()\n")
    monkeypatch.syspath_prepend(tmp_path)
    require_all(["asks_for_collection"])
    asked = sys.modules["asks_for_collection"]

    assert not asked.enabled
    assert gc.isenabled()


@pytest.mark.parametrize("collects", [True, False])
def test_collection_is_as_it_was_after_a_package_that_is_missing(
    collects: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # an import of it fails
    if not collects:
        gc.disable()
    try:
        with pytest.raises(MissingDependencyError):
            require_all(["json", "ray"])
        assert gc.isenabled() is collects
    finally:
        gc.enable()
