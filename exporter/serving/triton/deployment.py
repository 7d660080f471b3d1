"""Deployment files for a repository: an image, docker compose. ``kubernetes.py`` has those of a cluster.

Everything is rendered from the ``config.pbtxt`` files that are there, so it is true of all that was shipped so far.
What restricts the server follows NVIDIA's guide to secure deployment (triton-inference-server/server,
docs/customization_guide/deploy.md).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from exporter.dependencies import release_of
from exporter.errors import ExportError, InputError
from exporter.serving.triton.config import (
    ENGINE_PACKAGE,
    FILE,
    KEPT_VERSIONS,
    LEAST_ONNXRUNTIME,
    parameter,
    read_config,
)
from exporter.serving.triton.facts import is_pinned_package
from exporter.serving.triton.images import Image
from exporter.serving.triton.memory import Loaded, read_peak
from exporter.serving.triton.repository import MARK, model_folders, versions

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}
POLL_S = 15
USER = 1000
"""``triton-server`` in NVIDIA's images."""
ADMIN_HEADER = "triton-admin"
"""Header that the restricted APIs want, with the value of ``ADMIN_VARIABLE``; gRPC puts a prefix of its own first."""
ADMIN_VARIABLE = "TRITON_ADMIN_VALUE"
# What neither inference nor `korsbert verify` needs: it loads models, maps memory of the host, writes files.
_RESTRICTED = "model-repository,shared-memory,trace,logging"
HEADER = f"# {MARK}, which replaces it unless this line is taken out.\n"
SHARED_MEMORY_GIB = 1
PROBE_S = 30
"""The longest that a probe waits for an answer, in seconds: a server may be busy."""
_CACHE_BYTES = 256 * 1024 * 1024
# What the python runtime installs, by the engine of the bundle, as extras of korsbert.
_EXTRAS = {"onnxruntime": "cpu", "openvino": "openvino", "tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt-rtx"}


@dataclass(frozen=True)
class Deployed:
    """An encoder of a repository with the ensembles that end in it.

    Attributes:
        ensembles: Their configurations, that for texts of any kind first.
        encoder: The configuration of the encoder.
        loaded: The versions of the encoder that the server loads.
    """

    ensembles: tuple[ModelConfig, ...]
    encoder: ModelConfig
    loaded: tuple[Loaded, ...] = ()

    @property
    def ensemble(self) -> ModelConfig:
        """The ensemble for texts of any kind."""
        return self.ensembles[0]

    @property
    def memory_bytes(self) -> int:
        """Memory of all instances of the encoder: each loads every version."""
        instances: int = sum(group.count for group in self.encoder.instance_group)
        return instances * sum(one.memory_bytes for one in self.loaded)

    @property
    def on_gpu(self) -> bool:
        """Whether the encoder runs on GPUs."""
        return any(group.kind == group.Kind.KIND_GPU for group in self.encoder.instance_group)

    @property
    def least_onnxruntime(self) -> str | None:
        """The oldest ONNX Runtime that Triton's backend must have; None where another backend runs the encoder."""
        return parameter(self.encoder, LEAST_ONNXRUNTIME)

    @property
    def engine(self) -> str:
        """The engine of the bundle, ``"onnxruntime"`` for example."""
        return (parameter(self.encoder, "korsbert_engine") or "").rpartition(" ")[2]

    @property
    def extra(self) -> str | None:
        """The extra of korsbert that has the library of the engine; None where no Python code needs it."""
        if self.encoder.backend == "python":
            return "gpu" if self.on_gpu and self.engine == "onnxruntime" else _EXTRAS.get(self.engine, "cpu")
        return "cpu" if self.engine == "onnxruntime" else None  # with which `korsbert check` reads the graph


def deployed(folder: Path) -> list[Deployed]:
    """Return the encoders that came from bundles. Models that others wrote are passed over."""
    configs: dict[str, ModelConfig] = {}
    for model in model_folders(folder):
        try:
            configs[model.name] = read_config(model / FILE)
        except ExportError:
            continue  # the linter says what is wrong with it
    ensembles: dict[str, list[ModelConfig]] = {}
    for config in configs.values():
        if _is_ours(config):
            ensembles.setdefault(config.ensemble_scheduling.step[-1].model_name, []).append(config)
    return [
        Deployed(tuple(_text_first(found, encoder)), configs[encoder], _loaded(folder / encoder))
        for encoder, found in ensembles.items()
        if encoder in configs
    ]


def _is_ours(config: ModelConfig) -> bool:
    """Whether this is an ensemble of a bundle, with steps and vectors."""
    ours = config.platform == "ensemble" and parameter(config, "korsbert_bundle") is not None
    return ours and len(config.ensemble_scheduling.step) > 0 and [len(out.dims) for out in config.output] == [1]


def _text_first(ensembles: list[ModelConfig], encoder: str) -> list[ModelConfig]:
    return sorted(ensembles, key=lambda config: (config.name != f"{encoder}_text", config.name))


def stored_bytes(folder: Path) -> int:
    """Return the size of all files of a repository: every version of every model, whether it is loaded or not."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def wheel() -> str:
    """Return the name of the wheel that the image installs, which lies beside the Dockerfile."""
    return f"korsbert-{version('korsbert')}-py3-none-any.whl"


def dockerfile(models: Iterable[Deployed], image: Image) -> str:
    """Return a Dockerfile of two images: ``server``, and ``models``, which adds the repository to it.

    The library of each engine has the version that passed the gate. ``korsbert`` comes from a wheel and from no index.
    """
    models = list(models)
    extras = sorted({"triton", *(model.extra for model in models if model.extra)})
    packages = [f"/tmp/{wheel()}[{','.join(extras)}]", f"tokenizers=={version('tokenizers')}", *_pinned(models)]  # noqa: S108 - in the image
    names = " \\\n    ".join(f"'{package}'" for package in packages)
    return f"""{HEADER}# checkov:skip=CKV_DOCKER_7:TRITON_IMAGE has the tag
ARG TRITON_IMAGE={image.reference}

FROM ${{TRITON_IMAGE}} AS server
# From a checkout of korsbert: pip wheel --no-deps --wheel-dir THIS_FOLDER .
COPY {wheel()} /tmp/
RUN pip install --no-cache-dir \\
    {names}
USER {USER}
HEALTHCHECK --interval=10s --timeout={probe_timeout_s(models)}s --start-period=120s --retries=3 \\
    CMD {json.dumps(["sh", "-c", probe_command(models)])}

# The repository itself, which Kubernetes copies into its pods. `docker build --target models`.
FROM server AS models
COPY . /source
"""


def dockerignore() -> str:
    """Return ``.dockerignore``: the image gets the models and the wheel, and none of the files that deploy them."""
    return f"{HEADER}.*\nDockerfile\n*.yaml\n*.md\n*.whl\n!{wheel()}\n"


def server_arguments(models: Iterable[Deployed], *, polls: bool) -> list[str]:
    """Return the arguments ``tritonserver`` is started with in a container.

    Args:
        models: What it serves.
        polls: Whether it loads versions that are shipped while it runs. Only for a repository that it cannot write to.
    """
    cached = any(config.response_cache.enable for model in models for config in (model.encoder, *model.ensembles))
    restricted = f"{_RESTRICTED}:{ADMIN_HEADER}=$({ADMIN_VARIABLE})"
    return [
        "--model-repository=/models",
        *(
            ("--model-control-mode=poll", f"--repository-poll-secs={POLL_S}")
            if polls
            else ("--model-control-mode=none",)
        ),
        "--disable-auto-complete-config",
        f"--http-restricted-api={restricted}",
        f"--grpc-restricted-protocol={restricted}",
        *([f"--cache-config=local,size={_CACHE_BYTES}"] if cached else []),
    ]


def probe_command(models: Iterable[Deployed], port: int = PORTS["http"]) -> str:
    """Return a shell command that fails unless every ensemble answers a text with a vector.

    Triton does not start a process of the python backend again that was killed or has crashed (since 24.06). From 26.01
    on it reports that the model is not ready, whatever its load; before, only a request shows it. The text is the time,
    because a response cache would answer one that was asked before.
    """
    models = list(models)
    ensembles = [ensemble for model in models for ensemble in model.ensembles]
    members = dict.fromkeys(step.model_name for ensemble in ensembles for step in ensemble.ensemble_scheduling.step)
    asked = shlex.join(ensemble.name for ensemble in ensembles)
    curl, url = f"curl -sf -m {PROBE_S} -o /dev/null", f"http://localhost:{port}/v2/models/$model"
    text = '{"name":"text","shape":[1,1],"datatype":"BYTES","data":["\'$(date +%s)\'"]}'
    return (
        f'for model in {shlex.join(members)}; do {curl} "{url}/ready" || exit 1; done; '
        f'for model in {asked}; do {curl} -d \'{{"inputs":[{text}]}}\' "{url}/infer" || exit 1; done'
    )


def probe_timeout_s(models: Iterable[Deployed]) -> int:
    """Return the seconds that a probe of every model may take."""
    return PROBE_S * (1 + sum(len(model.ensembles) for model in models))


def compose(models: Iterable[Deployed]) -> str:
    """Return ``compose.yaml``: one server on this folder, which it cannot write to, for this machine alone."""
    models = list(models)
    arguments = [
        argument.replace(f"$({ADMIN_VARIABLE})", f"${{{ADMIN_VARIABLE}:?set it to a secret of your own}}")
        for argument in server_arguments(models, polls=True)
    ]
    service: dict[str, Any] = {
        "build": {"context": ".", "target": "server"},
        "command": ["tritonserver", *arguments],
        "user": f"{USER}:{USER}",
        "environment": {"HOME": "/tmp"},  # noqa: S108 - in the container
        "read_only": True,
        "tmpfs": ["/tmp"],  # noqa: S108
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "volumes": [".:/models:ro"],
        "ports": [f"127.0.0.1:{port}:{port}" for port in PORTS.values()],
        "shm_size": f"{SHARED_MEMORY_GIB}gb",
        "restart": "unless-stopped",
        "healthcheck": {
            "test": ["CMD-SHELL", probe_command(models).replace("$", "$$")],  # Compose replaces variables
            "interval": "10s",
            "timeout": f"{probe_timeout_s(models)}s",
            "start_period": "120s",
            "retries": 3,
        },
    }
    if any(model.on_gpu for model in models):
        gpus = {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
        service["deploy"] = {"resources": {"reservations": {"devices": [gpus]}}}
    return HEADER + to_yaml([{"services": {"triton": service}}])


def to_yaml(documents: list[dict[str, Any]]) -> str:
    """Write YAML without the anchors that PyYAML makes of shared objects, and in the order given."""

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
            return True

    return "---\n".join(
        yaml.dump(document, Dumper=Plain, sort_keys=False, allow_unicode=True, width=120) for document in documents
    )


def _pinned(models: list[Deployed]) -> list[str]:
    """Return the libraries of the engines at the versions that passed the gates; of two versions the newer one."""
    newest: dict[str, str] = {}
    for model in models:
        pinned = parameter(model.encoder, ENGINE_PACKAGE)
        if pinned is None or model.extra is None:
            continue
        if not is_pinned_package(pinned):
            raise InputError(
                f"{model.encoder.name}/{FILE}: {ENGINE_PACKAGE} is {pinned!r}, which is no package at a version",
                next_step="ship the bundle of this model again",
            )
        package, _, number = pinned.partition("==")
        if package not in newest or release_of(number) > release_of(newest[package]):
            newest[package] = number
    return [f"{package}=={number}" for package, number in sorted(newest.items())]


def _loaded(encoder: Path) -> tuple[Loaded, ...]:
    folders = {number: encoder / str(number) for number in versions(encoder)[-KEPT_VERSIONS:]}
    return tuple(Loaded(number, stored_bytes(folder), read_peak(folder)) for number, folder in folders.items())
