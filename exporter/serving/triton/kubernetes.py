"""``kubernetes.yaml`` for a repository: a Deployment that meets the restricted Pod Security Standard, and its network.

The models come in an image of their own. An init container copies them into the pod and checks every file against the
hashes of its bundle; the server reads the copy and cannot write to it. A new version is a new image and a rollout.
Sources: https://kubernetes.io/docs/concepts/security/pod-security-standards/, NVIDIA's guide (see ``deployment.py``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from exporter.serving.triton.config import to_text
from exporter.serving.triton.deployment import (
    ADMIN_VARIABLE,
    HEADER,
    PORTS,
    SHARED_MEMORY_GIB,
    USER,
    Deployed,
    probe_command,
    probe_timeout_s,
    server_arguments,
    to_yaml,
)
from exporter.serving.triton.images import Image

NAMESPACE = "korsbert"
NAME = "korsbert-triton"
REGISTRY = "registry.example.com"
"""Of a domain that nobody can own (RFC 2606): users put their own in its place."""
MODELS_IMAGE = "korsbert-models"
CLIENT_LABEL = {"korsbert-triton-client": "true"}
"""Of the pods that may send requests."""
QUEUE_METRIC = "triton_queue_time_per_request_us"
QUEUE_TARGET_US = 50_000
"""Mean time in queues per request beyond which Kubernetes adds a pod."""
_LABELS = {"app": NAME}
_MODELS, _SCRATCH = "/models", "/tmp"  # noqa: S108 - in the container
_GIB = 2**30
# What checkov's rules want and this does not have, with the reason; checkov reads it.
_POLICY_EXCEPTIONS = {
    "checkov.io/skip1": "CKV_K8S_11=a CPU limit throttles engines, which start a thread per core of the node",
    "checkov.io/skip2": "CKV_K8S_35=tritonserver takes the secret in its arguments, not from a file",
    "checkov.io/skip3": f"CKV_K8S_40={USER} is the user that NVIDIA's image has",
    "checkov.io/skip4": "CKV_K8S_43=whoever pushes the images to a registry knows their digests",
}
PROBE_PERIOD_S, PROBE_FAILURES = 5, 3
"""Kubernetes restarts a server whose models have not answered that often."""
SERVER_GIB = 2
"""Memory of the server, its Python processes and one batch in flight."""
MEMORY_NOTE = "korsbert-memory"
"""Annotation of the Deployment: which of the figures in its memory limit were measured."""


def kubernetes(models: Iterable[Deployed], image: Image, stored_bytes: int) -> str:
    """Return ``kubernetes.yaml``.

    Args:
        models: What the server serves.
        image: NVIDIA's.
        stored_bytes: Size of the whole repository, which the image with the models has and the init container copies.
    """
    models = list(models)
    return HEADER + to_yaml(
        [
            _namespace(),
            _object("v1", "ServiceAccount", automountServiceAccountToken=False),
            _deployment(models, image, stored_bytes),
            _service(),
            _network_policy(),
            _object(
                "policy/v1", "PodDisruptionBudget", spec={"maxUnavailable": 1, "selector": {"matchLabels": _LABELS}}
            ),
            _autoscaler(),
        ]
    )


def prometheus_adapter() -> str:
    """Return the values of prometheus-adapter's chart that make the autoscaler's metric of Triton's counters."""
    selector, by = "{<<.LabelMatchers>>}[1m]", "by (<<.GroupBy>>)"
    queued = f"sum(rate(nv_inference_queue_duration_us{selector})) {by}"
    answered = f"sum(rate(nv_inference_request_success{selector})) {by}"
    rule = {
        "seriesQuery": 'nv_inference_queue_duration_us{namespace!="",pod!=""}',
        "resources": {"overrides": {"namespace": {"resource": "namespace"}, "pod": {"resource": "pod"}}},
        "name": {"as": QUEUE_METRIC},
        "metricsQuery": f"{queued} / clamp_min({answered}, 0.001)",
    }
    return HEADER + to_yaml([{"rules": {"custom": [rule]}}])


def models_tag(models: Iterable[Deployed]) -> str:
    """Return the tag of the image with the models: another one whenever a model, a version or an option changes."""
    texts = sorted(to_text(config) for model in models for config in (*model.ensembles, model.encoder))
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


def memory_notes(models: Iterable[Deployed]) -> list[str]:
    """Say for every version that is loaded whether its memory was measured or computed."""
    return [f"{model.encoder.name}: {one.describe()}" for model in models for one in model.loaded]


def _object(api: str, kind: str, **content: Any) -> dict[str, Any]:
    metadata = {"name": NAME, "namespace": NAMESPACE, "labels": _LABELS}
    return {"apiVersion": api, "kind": kind, "metadata": metadata, **content}


def _namespace() -> dict[str, Any]:
    enforced = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": enforced}}


def _deployment(models: list[Deployed], image: Image, stored_bytes: int) -> dict[str, Any]:
    scraped = {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(PORTS["metrics"]),
        "prometheus.io/path": "/metrics",
    }
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    template = {"metadata": {"labels": _LABELS, "annotations": scraped}, "spec": _pod(models, image, stored_bytes)}
    spec = {"selector": {"matchLabels": _LABELS}, "strategy": strategy, "template": template}
    deployment = _object("apps/v1", "Deployment", spec=spec)
    annotations = {MEMORY_NOTE: "; ".join(memory_notes(models)), **_POLICY_EXCEPTIONS}
    return {**deployment, "metadata": {**deployment["metadata"], "annotations": annotations}}


def _pod(models: list[Deployed], image: Image, stored_bytes: int) -> dict[str, Any]:
    models_gib = _gib(stored_bytes) + 1
    volumes: dict[str, dict[str, Any]] = {
        "models": {"emptyDir": {"sizeLimit": f"{models_gib}Gi"}},
        "scratch": {"emptyDir": {"sizeLimit": f"{models_gib}Gi"}},
        "shared-memory": {"emptyDir": {"medium": "Memory", "sizeLimit": f"{SHARED_MEMORY_GIB}Gi"}},
    }
    apart = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": _LABELS}}
    preferred = [{"weight": 100, "podAffinityTerm": apart}]
    return {
        "serviceAccountName": NAME,
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}},
        # Triton ends what is in flight within 30 s of SIGTERM (--exit-timeout-secs).
        "terminationGracePeriodSeconds": 45,
        "initContainers": [_bring_models(models)],
        "containers": [_server(models, image)],
        "volumes": [{"name": name, **source} for name, source in volumes.items()],
    }


def _bring_models(models: list[Deployed]) -> dict[str, Any]:
    """Return the init container that copies the models into the pod, and ends in an error if the copy is not sound."""
    return {
        "name": "models",
        "image": f"{REGISTRY}/{MODELS_IMAGE}:{models_tag(models)}",
        "imagePullPolicy": "Always",
        "command": ["sh", "-ec", f"cp -r /source/. {_MODELS} && korsbert check {_MODELS}"],
        "env": _environment(),
        "resources": _resources(models),
        "securityContext": _confined(),
        "volumeMounts": [{"name": "models", "mountPath": _MODELS}, {"name": "scratch", "mountPath": _SCRATCH}],
    }


def _server(models: list[Deployed], image: Image) -> dict[str, Any]:
    resources = _resources(models)
    if any(model.on_gpu for model in models):
        resources["limits"]["nvidia.com/gpu"] = 1
    secret = {"name": NAME, "key": ADMIN_VARIABLE}
    ready = {"httpGet": {"path": "/v2/health/ready", "port": "http"}}
    asked = {
        "exec": {"command": ["sh", "-c", probe_command(models)]},
        "periodSeconds": PROBE_PERIOD_S,
        "timeoutSeconds": probe_timeout_s(models),
        "failureThreshold": PROBE_FAILURES,
    }
    return {
        "name": "triton",
        "image": f"{REGISTRY}/{NAME}:{image.release}",
        "imagePullPolicy": "Always",
        "command": ["tritonserver"],
        "args": server_arguments(models, polls=False),
        "env": [*_environment(), {"name": ADMIN_VARIABLE, "valueFrom": {"secretKeyRef": secret}}],
        "ports": [{"name": port, "containerPort": number} for port, number in PORTS.items()],
        "resources": resources,
        "securityContext": _confined(),
        # Loading and warming up takes a while: until then nobody asks whether it lives.
        "startupProbe": {**ready, "periodSeconds": 5, "timeoutSeconds": 3, "failureThreshold": 60},
        "readinessProbe": asked,
        "livenessProbe": asked,
        "volumeMounts": [
            {"name": "models", "mountPath": _MODELS, "readOnly": True},
            {"name": "scratch", "mountPath": _SCRATCH},
            {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108 - where the python backend's lies
        ],
    }


def _environment() -> list[dict[str, Any]]:
    return [{"name": "HOME", "value": _SCRATCH}, {"name": "PYTHONDONTWRITEBYTECODE", "value": "1"}]


def _resources(models: list[Deployed]) -> dict[str, Any]:
    """Return requests and limits: memory for the server and for every instance of every version that it loads."""
    encoders_gib = _gib(sum(model.memory_bytes for model in models))
    memory = f"{SERVER_GIB + SHARED_MEMORY_GIB + encoders_gib}Gi"
    return {"requests": {"cpu": "2", "memory": memory}, "limits": {"memory": memory}}


def _confined() -> dict[str, Any]:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
    }


def _service() -> dict[str, Any]:
    ports = [{"name": port, "port": number, "targetPort": port} for port, number in PORTS.items()]
    return _object("v1", "Service", spec={"selector": _LABELS, "ports": ports})


def _network_policy() -> dict[str, Any]:
    """Return a policy: requests from labelled pods, metrics for the namespace ``monitoring``, and no way out."""
    monitoring = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    clients = {"namespaceSelector": {}, "podSelector": {"matchLabels": CLIENT_LABEL}}
    ingress = [
        {"from": [clients], "ports": [{"port": PORTS["http"]}, {"port": PORTS["grpc"]}]},
        {"from": [monitoring], "ports": [{"port": PORTS["metrics"]}]},
    ]
    spec = {
        "podSelector": {"matchLabels": _LABELS},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": ingress,
        "egress": [],
    }
    return _object("networking.k8s.io/v1", "NetworkPolicy", spec=spec)


def _autoscaler() -> dict[str, Any]:
    target = {"type": "AverageValue", "averageValue": str(QUEUE_TARGET_US)}
    metric = {"type": "Pods", "pods": {"metric": {"name": QUEUE_METRIC}, "target": target}}
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": NAME},
        "minReplicas": 2,  # one may be away, for a node that is drained
        "maxReplicas": 8,
        "metrics": [metric],
    }
    return _object("autoscaling/v2", "HorizontalPodAutoscaler", spec=spec)


def _gib(size_bytes: int) -> int:
    """Return a size in GiB, rounded up."""
    return -(-size_bytes // _GIB)
