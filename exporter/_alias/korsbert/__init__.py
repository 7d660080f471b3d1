"""korsbert: the public names of ``exporter``, under the name that is installed.

``import korsbert`` and ``import exporter`` give the same objects, and neither imports torch. In a wheel this folder is
the top-level package ``korsbert`` (``[tool.hatch.build.targets.wheel.sources]`` in ``pyproject.toml``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import exporter

if TYPE_CHECKING:
    from exporter import *  # noqa: F403 - type checkers read the names here; at run time `__getattr__` returns them

__all__ = exporter.__all__


def __getattr__(name: str) -> Any:
    if name not in exporter.__all__:
        raise AttributeError(f"module 'korsbert' has no attribute {name!r}")
    return getattr(exporter, name)


def __dir__() -> list[str]:
    return dir(exporter)
