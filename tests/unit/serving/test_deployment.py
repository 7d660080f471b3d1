"""Deployment files: valid for Kubernetes, true of what was shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from exporter.serving.triton.config import encoder_config, ensemble_config
from exporter.serving.triton.deployment import (
    QUEUE_METRIC,
    Deployed,
    compose,
    deployed,
    dockerfile,
    kubernetes,
    server_arguments,
)
from exporter.serving.triton.facts import Options, served
from exporter.serving.triton.images import Image
from exporter.serving.triton.readme import readme
from tests.support.served_bundles import bundle_of

CPU = Options(runtime="python")
IMAGE = Image("25.12")
GPU = Options(gpus=(0,), response_cache=True)


def model(backend: str = "onnxruntime", options: Options = CPU) -> Deployed:
    one = served(bundle_of(backend), options)
    return Deployed(ensemble_config(one, options, 1), encoder_config(one, options))


def documents(options: Options) -> dict[str, dict[str, Any]]:
    return {one["kind"]: one for one in yaml.safe_load_all(kubernetes([model(options=options)], IMAGE))}


@pytest.mark.parametrize("options", [CPU, GPU], ids=["cpu", "gpu"])
@pytest.mark.parametrize("version", ["1.31", "1.34"])
def test_kubernetes_accepts_the_manifest(options: Options, version: str) -> None:
    found = documents(options)
    assert found.keys() == {
        "PersistentVolumeClaim",
        "Deployment",
        "Service",
        "HorizontalPodAutoscaler",
        "ConfigMap",
    }
    for document in found.values():
        kubernetes_validate.validate(document, version, strict=True)


def test_the_schema_would_refuse_a_misspelt_field() -> None:
    deployment = documents(CPU)["Deployment"]
    deployment["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, "1.34", strict=True)


def test_probes_ask_triton_and_the_autoscaler_its_queues() -> None:
    found = documents(CPU)
    (container,) = found["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/v2/health/live"
    (metric,) = found["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == QUEUE_METRIC
    (rule,) = yaml.safe_load(found["ConfigMap"]["data"]["prometheus-adapter-rules.yaml"])["rules"]["custom"]
    assert rule["name"]["as"] == QUEUE_METRIC
    assert "nv_inference_queue_duration_us" in rule["metricsQuery"]
    names = {found["Deployment"]["metadata"]["name"], found["Service"]["metadata"]["name"]}
    assert {found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"]} == names


def test_a_gpu_is_asked_for_where_a_model_needs_one() -> None:
    def limits(options: Options) -> dict[str, Any]:
        (container,) = documents(options)["Deployment"]["spec"]["template"]["spec"]["containers"]
        return dict(container["resources"]["limits"])

    assert "nvidia.com/gpu" not in limits(CPU)
    assert limits(GPU)["nvidia.com/gpu"] == 1
    assert "deploy" not in yaml.safe_load(compose([model()]))["services"]["triton"]
    devices = yaml.safe_load(compose([model(options=GPU)]))["services"]["triton"]["deploy"]["resources"]
    assert devices["reservations"]["devices"][0]["capabilities"] == ["gpu"]


def test_the_image_is_everywhere_the_one_asked_for() -> None:
    image = Image("26.03", "sha256:" + "0" * 64)
    assert f"ARG TRITON_IMAGE={image.reference}\n" in dockerfile([model()], image)
    assert "korsbert-triton:26.03" in kubernetes([model()], image)
    assert "Triton 26.03" in readme([model()], image)


def test_the_image_installs_what_the_models_import() -> None:
    assert "korsbert[cpu]==" in dockerfile([model()], IMAGE)
    native = dockerfile([model(options=Options())], IMAGE)
    assert "korsbert[" not in native
    assert "tokenizers==" in native
    assert "korsbert[openvino]==" in dockerfile([model("openvino")], IMAGE)


def test_a_response_cache_is_switched_on_at_the_server_too() -> None:
    assert not any("cache" in argument for argument in server_arguments([model()]))
    assert any(argument.startswith("--cache-config=local,size=") for argument in server_arguments([model(options=GPU)]))


def test_models_of_others_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "theirs" / "1").mkdir(parents=True)
    (tmp_path / "theirs" / "config.pbtxt").write_text('backend: "python"')
    (tmp_path / "broken").mkdir()
    assert deployed(tmp_path) == []
