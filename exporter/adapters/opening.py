"""The encoders that adapters use: one for each bundle, however many adapters of a process use it."""

from __future__ import annotations

import threading
from pathlib import Path
from weakref import WeakValueDictionary

from exporter.api import load
from exporter.bundle.manifest import MANIFEST
from exporter.runtime.encoder import Encoder

_OPENED: WeakValueDictionary[object, Encoder] = WeakValueDictionary()
_TURN = threading.Lock()


def opened(bundle: str | Path) -> Encoder:
    """Return the open encoder of a bundle, the same one as long as somebody holds it.

    Haystack has one component for queries and another for documents, and Chroma and scikit-learn build their objects
    again from what is stored of them: without this, each would hold the weights once more.

    Args:
        bundle: What ``load`` takes: a folder, ``owner/name``, or ``owner/name@revision``.

    Raises:
        ExportError: ``load`` refuses it; see there.
    """
    with _TURN:
        key = _identity(bundle)
        encoder = _OPENED.get(key)
        if encoder is None:
            encoder = _OPENED[key] = load(bundle)
        return encoder


def _identity(bundle: str | Path) -> object:
    """Return what tells a bundle from another that was published in its place: one has another file of that name."""
    try:
        found = Path(bundle, MANIFEST).stat()
    except (OSError, ValueError):
        return str(bundle)  # on the hub, or nowhere
    return found.st_dev, found.st_ino, found.st_mtime_ns
