"""A RayJob: what makes KubeRay start a cluster for one bulk embedding, run it and remove the cluster again.

Source of the fields: KubeRay's custom resource ``rayjobs.ray.io``, version v1.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from typing import Any

import yaml

from exporter.bundle import Bundle
from exporter.corpus.options import EmbedOptions
from exporter.errors import InputError
from exporter.targets import Device

NAME = "korsbert-embed"
SECRET = "korsbert-embed"  # noqa: S105 - a name
RAY = "2.60.0"
TRIES = 3
_GIB = 2**30
_HEAD = {"cpu": "1", "memory": "4Gi"}
_HEADER = """\
# Run it with `kubectl create -f`. KubeRay starts a cluster, runs the command on it and removes the cluster. If the
# command fails, it is run again, and goes on. If it was killed and the output is on an object store, it first waits for
# five minutes, until the lock of the one before has expired.
#
# The image has korsbert with the extra `ray` and that of the engine. Bundle, input and output are paths in it, on a
# volume that you add to every pod, or URLs. Credentials of an object store go into the secret korsbert-embed
# (AWS_ACCESS_KEY_ID, ...).
"""


def rayjob(command: Sequence[str], image: str, bundle: Bundle, options: EmbedOptions) -> str:
    """Return the manifest of a job, as YAML.

    Args:
        command: What runs on the cluster.
        image: Image of head and workers.
        bundle: Whose size and device decide what a worker asks for.
        options: For the number of workers and of their threads.

    Raises:
        InputError: There is no number of workers or of threads, for which the cluster is made; or the job is not to go
            on where it ended.
    """
    for name in ("workers", "threads"):
        if getattr(options, name) is None:
            raise InputError(f"a RayJob needs `{name}`", next_step=f"give `{name}`")
    if not options.resume:
        raise InputError("a RayJob goes on where it ended, and `resume` is off", next_step="choose another `out`")
    if not re.fullmatch(r"\S+", image):
        raise InputError(f"{image!r} is no name of an image", next_step="give one like registry.example.com/korsbert:1")
    worker = {"cpu": str(options.threads), "memory": f"{_memory_gib(bundle)}Gi"}
    if bundle.manifest.validation.device is Device.CUDA:
        worker["nvidia.com/gpu"] = "1"
    job = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"generateName": f"{NAME}-", "labels": {"app": NAME}},
        "spec": {
            "entrypoint": shlex.join(command),
            "shutdownAfterJobFinishes": True,
            "backoffLimit": TRIES - 1,
            "rayClusterSpec": {
                "rayVersion": RAY,
                "headGroupSpec": {
                    "rayStartParams": {"num-cpus": "0"},
                    "template": _pod("ray-head", image, _HEAD),
                },
                "workerGroupSpecs": [
                    {
                        "groupName": "workers",
                        "replicas": options.workers,
                        "minReplicas": options.workers,
                        "maxReplicas": options.workers,
                        "rayStartParams": {},
                        "template": _pod("ray-worker", image, worker),
                    }
                ],
            },
        },
    }
    return _HEADER + yaml.safe_dump(job, sort_keys=False, width=10_000)


def _pod(name: str, image: str, resources: dict[str, str]) -> dict[str, Any]:
    """Return a pod that asks for what it may use, so that it is not among the first to be ended."""
    container = {
        "name": name,
        "image": image,
        "envFrom": [{"secretRef": {"name": SECRET, "optional": True}}],
        "resources": {"requests": dict(resources), "limits": dict(resources)},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    return {"metadata": {"labels": {"app": NAME}}, "spec": {"containers": [container]}}


def _memory_gib(bundle: Bundle) -> int:
    """Return the memory of a worker: the files, what an engine makes of them, and what Ray and Python need."""
    stored = sum(facts.size for facts in bundle.manifest.files.values())
    return math.ceil(3 * stored / _GIB) + 3
