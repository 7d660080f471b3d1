"""NVIDIA's images of Triton: which one serves a repository, by the ONNX Runtime that it has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from exporter.dependencies import release_of
from exporter.errors import InputError

DEFAULT_RELEASE = "25.12"
OLDEST_RELEASE = "24.11"
"""The first image whose Python (3.12) is new enough for korsbert; 24.10 has 3.10."""
ONNXRUNTIME = {
    "24.11": "1.19.2",
    "24.12": "1.20.1",
    "25.01": "1.20.1",
    "25.02": "1.20.1",
    "25.03": "1.21.0",
    "25.04": "1.21.0",
    "25.05": "1.22.0",
    "25.06": "1.22.0",
    "25.07": "1.22.0",
    "25.09": "1.23.0",
    "25.10": "1.23.1",
    "25.11": "1.23.2",
    "25.12": "1.23.2",
    "26.01": "1.23.2",
    "26.02": "1.24.1",
    "26.03": "1.24.2",
    "26.04": "1.24.4",
    "26.05": "1.24.4",
    "26.06": "1.24.4",
    "26.07": "1.27.0",
    "26.08": "1.28.0",
}
"""Release of the image -> the version of ONNX Runtime in its onnxruntime backend, oldest first.

Source: ``build.py`` of each release branch of triton-inference-server/server. 25.08 is left out, so it counts as 25.07:
its ``build.py`` names 1.23.0, which was published after that image.
"""
_VERSION = re.compile(r"(?P<release>\d\d\.(0[1-9]|1[0-2]))(@(?P<digest>sha256:[0-9a-f]{64}))?")
_REPOSITORY = "nvcr.io/nvidia/tritonserver"
_REFERENCE = re.compile(rf"{re.escape(_REPOSITORY)}:(\d\d\.(?:0[1-9]|1[0-2]))-py3")


@dataclass(frozen=True)
class Image:
    """An image of Triton.

    Attributes:
        release: ``"26.07"`` for example.
        digest: ``"sha256:..."``, which no registry can give other content to; None: whatever the release's tag is.
    """

    release: str
    digest: str | None = None

    @classmethod
    def parse(cls, version: str) -> Self:
        """Read a release, with or without a digest: ``"26.07"``, ``"26.07@sha256:..."``.

        Raises:
            InputError: It is neither.
        """
        found = _VERSION.fullmatch(version)
        if found is None:
            raise InputError(
                f"`image_version` {version!r}: not a release of Triton's image",
                next_step="give YY.MM, 26.07 for example, or YY.MM@sha256: and the digest of that image",
            )
        return cls(found["release"], found["digest"])

    @property
    def reference(self) -> str:
        """What a registry knows it by."""
        tag = f"{_REPOSITORY}:{self.release}-py3"
        return f"{tag}@{self.digest}" if self.digest else tag

    @property
    def onnxruntime(self) -> str | None:
        """The version of ONNX Runtime that it has, at least; None for releases older than the table."""
        known = [release for release in ONNXRUNTIME if release <= self.release]
        return ONNXRUNTIME[known[-1]] if known else None

    def has_onnxruntime(self, least: str) -> bool:
        """Whether its ONNX Runtime is ``least`` or newer."""
        return self.onnxruntime is not None and release_of(self.onnxruntime) >= release_of(least)


def image_for(needs: Mapping[str, str], version: str | None) -> Image:
    """Return the image that is asked for, or one that is new enough.

    Args:
        needs: Bundle or model -> the oldest ONNX Runtime that is right for it, of those that Triton's own backend runs.
        version: The image that is asked for (see ``Image.parse``).

    Raises:
        InputError: The image that is asked for is too old, or is no image.
    """
    if version is None:
        wanted = (Image(release) for release in (DEFAULT_RELEASE, *ONNXRUNTIME))
        return next(image for image in wanted if all(map(image.has_onnxruntime, needs.values())))
    image = Image.parse(version)
    if image.release < OLDEST_RELEASE:
        raise InputError(
            f"`image_version` {version}: Triton's image {image.release} has Python 3.10 or older, "
            "and korsbert needs 3.11",
            next_step=f"use `image_version={OLDEST_RELEASE}` or newer",
        )
    for name, least in needs.items():
        if not image.has_onnxruntime(least):
            raise InputError(
                f"{name} needs ONNX Runtime {least} or newer, and Triton's image {image.release} has "
                f"ONNX Runtime {image.onnxruntime}",
                next_step=f"use `image_version={oldest_release(least)}` or newer, or `runtime=python`",
            )
    return image


def oldest_release(least: str) -> str:
    """Return the oldest release of the image whose ONNX Runtime is ``least`` or newer."""
    return next(release for release in ONNXRUNTIME if Image(release).has_onnxruntime(least))


def release_in(dockerfile: str) -> str | None:
    """Return the release of the first image of Triton that a Dockerfile names; None where it names none."""
    found = _REFERENCE.search(dockerfile)
    return found[1] if found else None
