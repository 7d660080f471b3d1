"""korsbert: from a sentence-transformers checkpoint to a serving artifact proven equal to it.

The public names, and nothing else. They are imported on use, so that ``import exporter`` costs next to nothing and
brings in neither torch nor onnx.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exporter.api import export as export
    from exporter.api import load as load
    from exporter.api import validate as validate
    from exporter.bundle import Bundle as Bundle
    from exporter.encoder import Encoder as Encoder
    from exporter.errors import BuildError as BuildError
    from exporter.errors import BundleError as BundleError
    from exporter.errors import CheckpointError as CheckpointError
    from exporter.errors import EngineError as EngineError
    from exporter.errors import ExportError as ExportError
    from exporter.errors import GateError as GateError
    from exporter.errors import HubError as HubError
    from exporter.errors import InputError as InputError
    from exporter.errors import MissingDependencyError as MissingDependencyError
    from exporter.errors import RecipeError as RecipeError
    from exporter.errors import ServerError as ServerError
    from exporter.errors import UnsupportedModelError as UnsupportedModelError
    from exporter.recipe import Recipe as Recipe

    __version__: str

_HOME = {
    "export": "exporter.api",
    "load": "exporter.api",
    "validate": "exporter.api",
    "Bundle": "exporter.bundle",
    "Encoder": "exporter.encoder",
    "Recipe": "exporter.recipe",
    "BuildError": "exporter.errors",
    "BundleError": "exporter.errors",
    "CheckpointError": "exporter.errors",
    "EngineError": "exporter.errors",
    "ExportError": "exporter.errors",
    "GateError": "exporter.errors",
    "HubError": "exporter.errors",
    "InputError": "exporter.errors",
    "MissingDependencyError": "exporter.errors",
    "RecipeError": "exporter.errors",
    "ServerError": "exporter.errors",
    "UnsupportedModelError": "exporter.errors",
}

# Written out, because type checkers do not read ``[*_HOME]``.
__all__ = [
    "BuildError",
    "Bundle",
    "BundleError",
    "CheckpointError",
    "Encoder",
    "EngineError",
    "ExportError",
    "GateError",
    "HubError",
    "InputError",
    "MissingDependencyError",
    "Recipe",
    "RecipeError",
    "ServerError",
    "UnsupportedModelError",
    "export",
    "load",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("korsbert")
    if name not in _HOME:
        raise AttributeError(f"module 'exporter' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(_HOME)
