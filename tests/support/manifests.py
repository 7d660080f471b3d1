"""Change a bundle's manifest and seal it again, as only an attacker or a test would."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from exporter.bundle import MANIFEST, FileFacts, Manifest
from exporter.bundle.manifest import UNLISTED, seal_of


def edit_manifest(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Apply ``change`` to the manifest's JSON; what is still a manifest then gets a seal that agrees."""
    content = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
    change(content)
    with suppress(ValidationError):
        content["seal"] = seal_of(Manifest.model_validate_json(json.dumps(content)))
    (bundle / MANIFEST).write_text(json.dumps(content), encoding="utf-8")


def reseal(bundle: Path) -> None:
    """Have the manifest list the files as they are now, with a seal that agrees."""

    def relist(content: dict[str, Any]) -> None:
        content["files"] = {
            path.name: FileFacts.of_file(path).model_dump()
            for path in sorted(bundle.iterdir())
            if path.name not in UNLISTED
        }

    edit_manifest(bundle, relist)
