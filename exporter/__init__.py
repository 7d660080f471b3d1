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
    from exporter.runtime.encoder import Encoder as Encoder

_HOME = {
    "export": "exporter.api",
    "load": "exporter.api",
    "validate": "exporter.api",
    "Bundle": "exporter.bundle.bundle",
    "Encoder": "exporter.runtime.encoder",
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

__all__ = [  # noqa: PLE0604 - one table says it all
    *_HOME,
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'exporter' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(_HOME)
