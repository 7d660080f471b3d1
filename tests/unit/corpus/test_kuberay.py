"""The manifest of a RayJob: what KubeRay and Kubernetes take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from exporter.bundle import Bundle
from exporter.corpus import EmbedOptions
from exporter.corpus.kuberay import rayjob
from exporter.errors import InputError
from exporter.targets import Device

# Fields of rayjobs.ray.io/v1 that a manifest may have, with their types; a pod is compared with Kubernetes' own
# definition. From KubeRay's ray-operator/config/crd/bases/ray.io_rayjobs.yaml of August 2026, which was too large
# to keep here; the whole manifest was valid by it.
GROUP = {"rayStartParams": dict, "template": dict}
KNOWN: dict[str, Any] = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"generateName": str, "labels": dict},
    "spec": {
        "entrypoint": str,
        "shutdownAfterJobFinishes": bool,
        "backoffLimit": int,
        "rayClusterSpec": {
            "rayVersion": str,
            "headGroupSpec": GROUP,
            "workerGroupSpecs": [{**GROUP, "groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int}],
        },
    },
}
OPTIONS = EmbedOptions.of(workers=8, threads=4)


@pytest.fixture
def bundle(twin_bundle: Path) -> Bundle:
    return Bundle.open_manifest(twin_bundle)


def refuse_unknown(found: Any, known: Any) -> None:
    if isinstance(known, dict):
        assert isinstance(found, dict)
        for name, value in found.items():
            assert name in known, name
            refuse_unknown(value, known[name])
    elif isinstance(known, list):
        for one in found:
            refuse_unknown(one, known[0])
    else:
        assert type(found) is known


def test_it_has_fields_that_kuberay_knows(bundle: Bundle) -> None:
    job = yaml.safe_load(rayjob(["korsbert", "embed"], "registry/image:1", bundle, OPTIONS))
    refuse_unknown(job, KNOWN)
    cluster = job["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    assert (workers["replicas"], workers["maxReplicas"]) == (8, 8)
    for group in (cluster["headGroupSpec"], workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = {"apiVersion": "v1", "kind": "Pod", **group["template"]}
        kubernetes_validate.validate(pod, "1.34", strict=True)


def test_a_field_that_nobody_knows_is_found(bundle: Bundle) -> None:
    job = yaml.safe_load(rayjob(["korsbert", "embed"], "registry/image:1", bundle, OPTIONS))
    job["spec"]["rayClusterSpec"]["autoscaling"] = True
    with pytest.raises(AssertionError, match="autoscaling"):
        refuse_unknown(job, KNOWN)


def test_a_worker_asks_for_what_it_needs(bundle: Bundle) -> None:
    def resources(of: Bundle) -> dict[str, str]:
        job = yaml.safe_load(rayjob(["korsbert"], "registry/image:1", of, OPTIONS))
        (workers,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        (container,) = workers["template"]["spec"]["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        found: dict[str, str] = container["resources"]["limits"]
        return found

    assert resources(bundle) == {"cpu": "4", "memory": "4Gi"}
    name, facts = next(iter(bundle.manifest.files.items()))
    manifest = bundle.manifest
    large = manifest.model_copy(
        update={
            "files": {**manifest.files, name: facts.model_copy(update={"size": 2 * 2**30})},
            "validation": manifest.validation.model_copy(update={"device": Device.CUDA}),
        }
    )
    assert resources(Bundle(bundle.folder, large)) == {"cpu": "4", "memory": "10Gi", "nvidia.com/gpu": "1"}


@pytest.mark.parametrize(
    ("options", "image", "said"),
    [
        (EmbedOptions.of(threads=4), "image", "a RayJob needs `workers`"),
        (EmbedOptions.of(workers=4), "image", "a RayJob needs `threads`"),
        (OPTIONS.model_copy(update={"resume": False}), "image", "`resume` is off"),
        (OPTIONS, "an image", "is no name of an image"),
        (OPTIONS, "", "is no name of an image"),
    ],
)
def test_refusals(options: EmbedOptions, image: str, said: str, bundle: Bundle) -> None:
    with pytest.raises(InputError, match=said):
        rayjob(["korsbert"], image, bundle, options)
