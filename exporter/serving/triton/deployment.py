"""Deployment files for a repository: an image, docker compose, Kubernetes. Scaling out is theirs and Triton's work.

Everything is rendered from the ``config.pbtxt`` files that are there, so it is true of all that was shipped so far.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from exporter.errors import ExportError
from exporter.serving.triton.config import FILE, LEAST_ONNXRUNTIME, parameter, read_config
from exporter.serving.triton.images import Image
from exporter.serving.triton.repository import MARK, model_folders

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}
POLL_S = 15
QUEUE_METRIC = "triton_queue_time_per_request_us"
QUEUE_TARGET_US = 50_000
"""Mean time in queues per request beyond which Kubernetes adds a pod."""
_HEADER = f"# {MARK}, which replaces it unless this line is taken out.\n"
_SHARED_MEMORY = "1Gi"
_CACHE_BYTES = 256 * 1024 * 1024
# What the python runtime installs, by the engine of the bundle, as extras of korsbert.
_EXTRAS = {"onnxruntime": "cpu", "openvino": "openvino", "tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt-rtx"}


@dataclass(frozen=True)
class Deployed:
    """An ensemble of a repository with the encoder it ends in."""

    ensemble: ModelConfig
    encoder: ModelConfig

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


def deployed(folder: Path) -> list[Deployed]:
    """Return the ensembles that came from bundles. Models that others wrote are passed over."""
    configs: dict[str, ModelConfig] = {}
    for model in model_folders(folder):
        try:
            configs[model.name] = read_config(model / FILE)
        except ExportError:
            continue  # the linter says what is wrong with it
    return [
        Deployed(config, configs[config.ensemble_scheduling.step[-1].model_name])
        for config in configs.values()
        if config.platform == "ensemble"
        and parameter(config, "korsbert_bundle")
        and config.ensemble_scheduling.step
        and config.ensemble_scheduling.step[-1].model_name in configs
    ]


def dockerfile(models: Iterable[Deployed], image: Image) -> str:
    """Return a Dockerfile: Triton's image and what the python backend imports."""
    packages = {f"tokenizers=={version('tokenizers')}"}
    for model in models:
        if model.encoder.backend == "python":
            extra = "gpu" if model.on_gpu and model.engine == "onnxruntime" else _EXTRAS.get(model.engine, "cpu")
            packages.add(f"korsbert[{extra}]=={version('korsbert')}")
    names = " ".join(f"'{package}'" for package in sorted(packages))
    return f"""{_HEADER}ARG TRITON_IMAGE={image.reference}
FROM ${{TRITON_IMAGE}}
RUN pip install --no-cache-dir {names}
"""


def server_arguments(models: Iterable[Deployed]) -> list[str]:
    """Return the arguments ``tritonserver`` is started with in a container."""
    models = list(models)
    cached = any(model.ensemble.response_cache.enable for model in models)
    return [
        "--model-repository=/models",
        "--model-control-mode=poll",
        f"--repository-poll-secs={POLL_S}",
        *([f"--cache-config=local,size={_CACHE_BYTES}"] if cached else []),
    ]


def compose(models: Iterable[Deployed]) -> str:
    """Return ``compose.yaml``: one server on this folder, read-only, ready when Triton says so."""
    models = list(models)
    service: dict[str, Any] = {
        "build": ".",
        "command": ["tritonserver", *server_arguments(models)],
        "volumes": [".:/models:ro"],
        "ports": [f"{port}:{port}" for port in PORTS.values()],
        "shm_size": _SHARED_MEMORY.replace("Gi", "gb"),
        "restart": "unless-stopped",
        "healthcheck": {
            "test": ["CMD", "curl", "-sf", f"http://localhost:{PORTS['http']}/v2/health/ready"],
            "interval": "10s",
            "timeout": "5s",
            "retries": 3,
            "start_period": "120s",
        },
    }
    if any(model.on_gpu for model in models):
        gpus = {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
        service["deploy"] = {"resources": {"reservations": {"devices": [gpus]}}}
    return _HEADER + _yaml([{"services": {"triton": service}}])


def kubernetes(models: Iterable[Deployed], image: Image) -> str:
    """Return ``kubernetes.yaml``: volume claim, Deployment, Service, HPA, and the rule that makes the HPA's metric."""
    models = list(models)
    labels = {"app": "korsbert-triton"}
    name = {"name": labels["app"]}
    gpus = 1 if any(model.on_gpu for model in models) else 0
    resources: dict[str, Any] = {"requests": {"cpu": "2", "memory": "4Gi"}, "limits": {"memory": "8Gi"}}
    if gpus:
        resources["limits"]["nvidia.com/gpu"] = gpus
    container = {
        "name": "triton",
        "image": f"korsbert-triton:{image.release}",
        "command": ["tritonserver"],
        "args": server_arguments(models),
        "ports": [{"name": port, "containerPort": number} for port, number in PORTS.items()],
        "resources": resources,
        # Loading and warming up takes a while: until then nobody asks whether it lives.
        "startupProbe": {**_probe("/v2/health/ready"), "failureThreshold": 60},
        "readinessProbe": _probe("/v2/health/ready"),
        "livenessProbe": {**_probe("/v2/health/live"), "failureThreshold": 3},
        "volumeMounts": [
            {"name": "models", "mountPath": "/models", "readOnly": True},
            {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108 - where the python backend's lies
        ],
    }
    pod = {
        # Triton ends what is in flight within 30 s of SIGTERM (--exit-timeout-secs).
        "terminationGracePeriodSeconds": 45,
        "containers": [container],
        "volumes": [
            {"name": "models", "persistentVolumeClaim": {"claimName": "korsbert-models"}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": _SHARED_MEMORY}},
        ],
    }
    claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "10Gi"}}}
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    metric = {
        "type": "Pods",
        "pods": {
            "metric": {"name": QUEUE_METRIC},
            "target": {"type": "AverageValue", "averageValue": str(QUEUE_TARGET_US)},
        },
    }
    return _HEADER + _yaml(
        [
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": "korsbert-models", "labels": labels},
                "spec": claim,
            },
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {**name, "labels": labels},
                "spec": {
                    "selector": {"matchLabels": labels},
                    "strategy": strategy,
                    "template": {
                        "metadata": {
                            "labels": labels,
                            "annotations": {
                                "prometheus.io/scrape": "true",
                                "prometheus.io/port": str(PORTS["metrics"]),
                                "prometheus.io/path": "/metrics",
                            },
                        },
                        "spec": pod,
                    },
                },
            },
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {**name, "labels": labels},
                "spec": {
                    "selector": labels,
                    "ports": [{"name": port, "port": number, "targetPort": port} for port, number in PORTS.items()],
                },
            },
            {
                "apiVersion": "autoscaling/v2",
                "kind": "HorizontalPodAutoscaler",
                "metadata": {**name, "labels": labels},
                "spec": {
                    "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", **name},
                    "minReplicas": 1,
                    "maxReplicas": 8,
                    "metrics": [metric],
                },
            },
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": f"{labels['app']}-metric", "labels": labels},
                "data": {"prometheus-adapter-rules.yaml": _yaml([{"rules": {"custom": [_queue_rule()]}}])},
            },
        ]
    )


def _queue_rule() -> dict[str, Any]:
    """Return the rule of prometheus-adapter that makes the HPA's metric of Triton's own counters."""
    selector, by = "{<<.LabelMatchers>>}[1m]", "by (<<.GroupBy>>)"
    queued = f"sum(rate(nv_inference_queue_duration_us{selector})) {by}"
    answered = f"sum(rate(nv_inference_request_success{selector})) {by}"
    return {
        "seriesQuery": 'nv_inference_queue_duration_us{namespace!="",pod!=""}',
        "resources": {"overrides": {"namespace": {"resource": "namespace"}, "pod": {"resource": "pod"}}},
        "name": {"as": QUEUE_METRIC},
        "metricsQuery": f"{queued} / clamp_min({answered}, 0.001)",
    }


def _probe(path: str) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": "http"}, "periodSeconds": 5, "timeoutSeconds": 3}


def _yaml(documents: list[dict[str, Any]]) -> str:
    """Write YAML without the anchors that PyYAML makes of shared objects, and in the order given."""

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
            return True

    return "---\n".join(
        yaml.dump(document, Dumper=Plain, sort_keys=False, allow_unicode=True, width=120) for document in documents
    )
