"""The README.md of a model repository: what is served, how to start a server, and clients that run as they stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from exporter.runtime.contract import OUTPUT
from exporter.serving.triton.config import PADDING, parameter
from exporter.serving.triton.deployment import (
    ADMIN_HEADER,
    ADMIN_VARIABLE,
    PORTS,
    SHARED_MEMORY_GIB,
    Deployed,
    server_arguments,
    wheel,
)
from exporter.serving.triton.facts import TEXT
from exporter.serving.triton.images import Image
from exporter.serving.triton.kubernetes import (
    CLIENT_LABEL,
    MODELS_IMAGE,
    NAME,
    NAMESPACE,
    REGISTRY,
    SERVER_GIB,
    memory_notes,
    models_tag,
)
from exporter.serving.triton.repository import MARK
from exporter.targets import Padding

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

SENTENCES = ("안녕하세요?", "오늘은 날씨가 좋네요.")


def readme(models: Sequence[Deployed], image: Image) -> str:
    """Return the README as Markdown. Its code blocks are run by the tests."""
    rows = "\n".join(_row(model, ensemble) for model in models for ensemble in model.ensembles)
    contracts = "".join(_contract(model) for model in models)
    clients = "\n".join(_clients(model) for model in models[:1])
    fixed_gib = SERVER_GIB + SHARED_MEMORY_GIB
    memory = "\n".join(f"  - {note}" for note in memory_notes(models))
    client = ": ".join((*CLIENT_LABEL, *CLIENT_LABEL.values()))
    arguments = " ".join(
        argument.replace("=/models", "=.")
        for argument in server_arguments(models, polls=True)
        if ADMIN_VARIABLE not in argument
    )
    return f"""# Model repository

{MARK}. Every model in this table takes strings and returns sentence vectors. A `_query` or
`_document` model puts the prompt of queries or documents before each string, a `_text` model the default prompt.
A request to any of them may name another prompt of the model in its parameter `prompt_name`.

| model | input | output | rows a request | bundle | encoder runs on |
|---|---|---|---|---|---|
{rows}

## Start a server

The image installs korsbert from a wheel, because no package index has it. Put the wheel into this folder, in a checkout
of korsbert:

    pip wheel --no-deps --wheel-dir FOLDER .  # {wheel()}

Two images come from one Dockerfile: `server`, and `models`, which adds the models to it. They are NVIDIA's image for
GPUs, about 10 GB, also where no GPU is used: NVIDIA publishes no image for CPUs alone. `build.py` of Triton's sources
builds one; give it as `--build-arg TRITON_IMAGE=...`. To pin NVIDIA's image, ship with `--image-version
{image.release}@sha256:...`, and the digest that `docker buildx imagetools inspect {image.reference}` prints.

On this machine:

    export {ADMIN_VARIABLE}="$(openssl rand -hex 32)"
    docker compose up --build

In Kubernetes, with your registry in place of `{REGISTRY}`, here and in `kubernetes.yaml`:

    docker build --target server -t {REGISTRY}/{NAME}:{image.release} .
    docker build --target models -t {REGISTRY}/{MODELS_IMAGE}:{models_tag(models)} .
    docker push {REGISTRY}/{NAME}:{image.release}
    docker push {REGISTRY}/{MODELS_IMAGE}:{models_tag(models)}
    kubectl create namespace {NAMESPACE}
    kubectl -n {NAMESPACE} create secret generic {NAME} --from-literal={ADMIN_VARIABLE}="$(openssl rand -hex 32)"
    kubectl apply -f kubernetes.yaml

or, where `tritonserver` is installed, in this folder:

    tritonserver {arguments}

## What the files do

- Compose serves this folder to this machine alone (127.0.0.1). The server polls it and loads the versions that
  `korsbert ship` adds. The folder is mounted read-only, because whoever can write to it can run code in the server.
- In Kubernetes, an init container copies the models into the pod and runs `korsbert check`: a file that is not what its
  bundle says keeps the pod from starting. The server loads no other models: for a new version, ship, build, push and
  apply again. Kubernetes replaces one pod after the other.
- The memory limit is {fixed_gib} GiB for the server and its shared memory, and the figures below for each instance. A
  measured figure is the peak of a process that encoded the largest batch that the server lets through, on the machine
  where the bundle was shipped. A computed one is a guess: measure your own load, then lower or raise the limit.
{memory}
- The volume has room for every version in this folder.
- Only pods with the label `{client}` reach the server, and the namespace `monitoring` its metrics. The server reaches
  nothing. It has no TLS of its own: put a gateway in front, and let it pass on inference for the models of the table
  alone. In Triton's own backends, one request to the encoder itself with a token id out of range fails its whole batch.
- The probes ask every model for a vector: Triton does not start a Python process again that was killed or has crashed.
  Kubernetes then restarts the server; Docker shows the container as unhealthy, and you restart it.
- Loading models, shared memory, tracing and logging want the header `{ADMIN_HEADER}` (gRPC:
  `triton-grpc-protocol-{ADMIN_HEADER}`) with the secret as its value. `korsbert verify` needs none of them.
- The HPA needs prometheus-adapter with the rule in `prometheus-adapter.yaml`:
  `helm upgrade --install prometheus-adapter prometheus-community/prometheus-adapter --values prometheus-adapter.yaml`.

It serves the latest two versions of the encoder and of the tokenizer. `korsbert ship` deletes no version: those below
the latest two are not loaded, and you may delete their folders in all models of that name, while nobody ships.
`korsbert check .` checks this folder for mistakes. `korsbert verify http://localhost:{PORTS["http"]} BUNDLE` compares a
running server with the checkpoint.
{contracts}{clients}"""


def _contract(model: Deployed) -> str:
    """Say what callers of the encoder itself must keep to; nothing where there is nothing to say."""
    if parameter(model.encoder, PADDING) != Padding.RIGHT:
        return ""
    runtime = f" Its ONNX Runtime must be {model.least_onnxruntime} or newer." if model.least_onnxruntime else ""
    return (
        f"\n`{model.encoder.name}` relies on padding on the right: pad there only, as "
        f"`{model.encoder.name}_tokenizer` does; nothing refuses other masks here.{runtime}\n"
    )


def _row(model: Deployed, ensemble: ModelConfig) -> str:
    dimension = ensemble.output[0].dims[0]
    bundle = f"{parameter(ensemble, 'korsbert_recipe')}, {parameter(ensemble, 'korsbert_engine')}"
    seal = (parameter(ensemble, "korsbert_bundle") or "")[:12]
    where = f"{model.encoder.backend}, {'GPU' if model.on_gpu else 'CPU'}"
    most = ensemble.max_batch_size
    return (
        f"| `{ensemble.name}` | `{TEXT}` BYTES (rows, 1) | `{OUTPUT}` FP32 (rows, {dimension}) | {most} | "
        f"{bundle} (`{seal}`) | {where} |"
    )


def _clients(model: Deployed) -> str:
    name, dimension = model.ensemble.name, model.ensemble.output[0].dims[0]
    sentences = ", ".join(f'"{sentence}"' for sentence in SENTENCES)
    return f"""
## Ask it

Python over HTTP (`pip install 'tritonclient[http]'`):

```python
import numpy as np
import tritonclient.http as triton

sentences = [{sentences}]
client = triton.InferenceServerClient("localhost:{PORTS["http"]}")
text = triton.InferInput("{TEXT}", [len(sentences), 1], "BYTES")
text.set_data_from_numpy(np.array([[sentence.encode()] for sentence in sentences], dtype=object))
vectors = client.infer("{name}", [text]).as_numpy("{OUTPUT}")
print(vectors.shape)  # ({len(SENTENCES)}, {dimension})
```

Python over gRPC (`pip install 'tritonclient[grpc]'`):

```python
import numpy as np
import tritonclient.grpc as triton

sentences = [{sentences}]
client = triton.InferenceServerClient("localhost:{PORTS["grpc"]}")
text = triton.InferInput("{TEXT}", [len(sentences), 1], "BYTES")
text.set_data_from_numpy(np.array([[sentence.encode()] for sentence in sentences], dtype=object))
vectors = client.infer("{name}", [text]).as_numpy("{OUTPUT}")
print(vectors.shape)  # ({len(SENTENCES)}, {dimension})
```

Shell:

```bash
curl -sf localhost:{PORTS["http"]}/v2/models/{name}/infer -d '{{
  "inputs": [{{"name": "{TEXT}", "shape": [{len(SENTENCES)}, 1], "datatype": "BYTES", "data": [{sentences}]}}]
}}'
```

Throughput and latency of 32 clients with one sentence a request, with `perf_analyzer`, which is in NVIDIA's image for
clients (`tritonserver:YY.MM-py3-sdk`):

    perf_analyzer -m {name} -i grpc -u localhost:{PORTS["grpc"]} \\
        --shape {TEXT}:1 --string-data "{SENTENCES[1]}" --concurrency-range 32
"""
