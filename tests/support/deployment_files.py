"""What ``ship`` writes to deploy a repository with, of every kind: ``python -m tests.support.deployment_files FOLDER``.

The bundles exist as manifests only, so nothing is exported. ``make policies`` gives the files to a policy checker.
"""

from __future__ import annotations

import sys
from pathlib import Path

from exporter.serving.triton import Options, deployment_files
from exporter.serving.triton.config import encoder_config, ensemble_config
from exporter.serving.triton.deployment import Deployed
from exporter.serving.triton.facts import served
from exporter.serving.triton.images import Image
from exporter.serving.triton.memory import Loaded, Peak
from exporter.targets import Device
from tests.support.served_bundles import bundle_of

__all__ = ["KINDS", "files_of", "models_of", "peak"]

KINDS: dict[str, tuple[str, Options]] = {
    "cpu-engine": ("onnxruntime", Options()),
    "cpu-python": ("onnxruntime", Options(runtime="python")),
    "cpu-openvino": ("openvino", Options(runtime="python", instances=2)),
    "gpu-engine": ("tensorrt", Options(gpus=(0,), response_cache=True)),
    "gpu-python": ("onnxruntime", Options(runtime="python", gpus=(0, 1))),
}
"""Kind of a repository -> the engine of its bundle, and how the bundle is served."""


def peak(peak_bytes: int) -> Peak:
    """Return a figure as it is kept beside a version."""
    return Peak(seal="3" * 64, device=Device.CPU, rows=64, tokens=256, peak_bytes=peak_bytes)


def models_of(kind: str) -> list[Deployed]:
    """Return what a repository of a kind serves."""
    backend, options = KINDS[kind]
    one = served(bundle_of(backend), options)
    one.bundle.manifest.tools.update({"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.31.1", "openvino": "2026.4.1"})
    loaded = (Loaded(1, 10**9), Loaded(2, 10**9, peak(10**9)))
    return [Deployed((ensemble_config(one, options, 1, one.texts[0]),), encoder_config(one, options), loaded)]


def files_of(kind: str) -> dict[str, str]:
    """Return the deployment files of a kind, by name."""
    return deployment_files(models_of(kind), Image("26.07"), stored_bytes=10**9)


def main(folder: Path) -> None:
    """Write the files of every kind into a folder of its own."""
    for kind in KINDS:
        (folder / kind).mkdir(parents=True)
        for name, content in files_of(kind).items():
            (folder / kind / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
