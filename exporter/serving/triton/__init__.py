"""NVIDIA Triton Inference Server: bundles into a model repository, the repository checked, the running server verified.

::

    facts.py         a bundle -> what Triton needs to know of it
    config.py        facts -> config.pbtxt, through Triton's protobuf
    models/          the python backend's models, copied into repositories as they are
    memory.py        the memory of an encoder, measured and kept
    repository.py    versions, and how they come into a folder that a server watches
    images.py        NVIDIA's images, and the ONNX Runtime that each has
    deployment.py    Dockerfile, .dockerignore, compose.yaml
    kubernetes.py    kubernetes.yaml, prometheus-adapter.yaml
    readme.py        the repository's README, with clients
    engines.py       what an engine in a repository really has
    lint/            a repository -> its mistakes
    address.py       the URL of a server
    answers.py       what Triton answers, checked before it is used
    http_client.py   requests over HTTP, within the limits
    grpc_client.py   requests over gRPC, within the limits
    remote.py        a running server as an encoder, over HTTP or gRPC
    load.py          many clients at once
    verify.py        compare a running server with the checkpoint
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from exporter.bundle import Bundle
from exporter.bundle.minimum_gate import DEFAULT_MINIMUM_GATE, MinimumGate, refuse_weak_gate
from exporter.serving.triton import deployment, repository
from exporter.serving.triton.deployment import Deployed
from exporter.serving.triton.facts import Options
from exporter.serving.triton.images import Image, image_for
from exporter.serving.triton.kubernetes import kubernetes, prometheus_adapter
from exporter.serving.triton.readme import readme
from exporter.serving.triton.repository import Shipped

__all__ = ["Options", "Shipped", "ship"]


def ship(
    bundles: Sequence[Bundle],
    folder: Path,
    options: Options,
    *,
    name: str | None = None,
    version: int | None = None,
    image_version: str | None = None,
    minimum_gate: MinimumGate = DEFAULT_MINIMUM_GATE,
    measure: bool = False,
) -> list[Shipped]:
    """Put bundles into a model repository, and write what a team deploys it with beside them.

    Args:
        bundles: Opened.
        folder: The repository.
        options: How the bundles are served.
        name: See :func:`repository.ship`.
        version: See :func:`repository.ship`.
        image_version: Release of NVIDIA's Triton image, ``"26.07"`` for example, and its digest behind ``@`` where
            that is pinned. By default one whose ONNX Runtime is new enough for every model of the repository.
        minimum_gate: What the gate and the recorded statistics of every bundle must reach.
        measure: See :func:`repository.ship`.

    Raises:
        BundleError: A bundle is below the minimum gate. And see :func:`repository.ship`.
        InputError: The ONNX Runtime of the image is too old for a model. And see :func:`repository.ship`.
    """
    image = image_for({**_needs_of_models(folder), **_needs_of_bundles(bundles, options)}, image_version)
    for bundle in bundles:
        refuse_weak_gate(bundle, minimum_gate)
    shipped = repository.ship(bundles, folder, options, name=name, version=version, measure=measure)
    models, stored_bytes = deployment.deployed(folder), deployment.stored_bytes(folder)
    for file, content in deployment_files(models, image, stored_bytes).items():
        repository.write_file(folder, file, content)
    return shipped


def deployment_files(models: Sequence[Deployed], image: Image, stored_bytes: int) -> dict[str, str]:
    """Return the files with which a repository is deployed, by name.

    Args:
        models: What the repository serves.
        image: NVIDIA's image.
        stored_bytes: Size of the whole repository.
    """
    return {
        "README.md": readme(models, image),
        "Dockerfile": deployment.dockerfile(models, image),
        ".dockerignore": deployment.dockerignore(),
        "compose.yaml": deployment.compose(models),
        "kubernetes.yaml": kubernetes(models, image, stored_bytes),
        "prometheus-adapter.yaml": prometheus_adapter(),
    }


def _needs_of_bundles(bundles: Sequence[Bundle], options: Options) -> dict[str, str]:
    """Return the oldest ONNX Runtime that each bundle needs of Triton's onnxruntime backend, by its folder."""
    least = {str(bundle.folder): bundle.manifest.engine.least_runtime for bundle in bundles}
    return {} if options.runtime == "python" else {folder: needed for folder, needed in least.items() if needed}


def _needs_of_models(folder: Path) -> dict[str, str]:
    """Return the same of the models that a repository has, by name."""
    models = deployment.deployed(folder) if folder.is_dir() else []
    return {model.encoder.name: model.least_onnxruntime for model in models if model.least_onnxruntime}
