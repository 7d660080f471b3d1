"""The README.md of a model repository: what is served, how to start a server, and clients that run as they stand."""

from __future__ import annotations

from collections.abc import Sequence

from exporter.runtime.contract import OUTPUT
from exporter.serving.triton.config import PADDING, parameter
from exporter.serving.triton.deployment import PORTS, Deployed, server_arguments
from exporter.serving.triton.facts import TEXT
from exporter.serving.triton.images import Image
from exporter.serving.triton.repository import MARK
from exporter.targets import Padding

SENTENCES = ("안녕하세요?", "오늘은 날씨가 좋네요.")


def readme(models: Sequence[Deployed], image: Image) -> str:
    """Return the README as Markdown. Its code blocks are run by the tests."""
    rows = "\n".join(_row(model) for model in models)
    contracts = "".join(_contract(model) for model in models)
    clients = "\n".join(_clients(model) for model in models[:1])
    arguments = " ".join(argument.replace("=/models", "=.") for argument in server_arguments(models))
    return f"""# Model repository

{MARK}. Every `_text` model takes strings and returns sentence vectors.

| model | input | output | rows a request | bundle | encoder runs on |
|---|---|---|---|---|---|
{rows}

## Start a server

    docker compose up --build                 # Triton {image.release}
    kubectl apply -f kubernetes.yaml          # after `docker build -t korsbert-triton:{image.release} .`

or, where `tritonserver` is installed, in this folder:

    tritonserver {arguments}

A server that polls this folder loads the versions that `korsbert ship` adds. It serves the latest two versions of the
encoder and of the tokenizer; older folders are not loaded and may be removed. `korsbert check .` checks this folder for
mistakes. `korsbert verify http://localhost:{PORTS["http"]} BUNDLE` compares a running server with the checkpoint.
The HPA in `kubernetes.yaml` needs prometheus-adapter with the rule in its ConfigMap.
{contracts}{clients}"""


def _contract(model: Deployed) -> str:
    """Say what callers of the encoder itself must keep to; nothing where there is nothing to say."""
    if parameter(model.encoder, PADDING) != Padding.RIGHT:
        return ""
    runtime = f" Its ONNX Runtime must be {model.least_onnxruntime} or newer." if model.least_onnxruntime else ""
    return (
        f"\n`{model.encoder.name}` reads the number of ones in each row of `attention_mask`: pad on the right only, as "
        f"`{model.encoder.name}_tokenizer` does; nothing refuses other masks here.{runtime}\n"
    )


def _row(model: Deployed) -> str:
    dimension = model.ensemble.output[0].dims[0]
    bundle = f"{parameter(model.ensemble, 'korsbert_recipe')}, {parameter(model.ensemble, 'korsbert_engine')}"
    seal = (parameter(model.ensemble, "korsbert_bundle") or "")[:12]
    where = f"{model.encoder.backend}, {'GPU' if model.on_gpu else 'CPU'}"
    most = model.ensemble.max_batch_size
    return (
        f"| `{model.ensemble.name}` | `{TEXT}` BYTES (rows, 1) | `{OUTPUT}` FP32 (rows, {dimension}) | {most} | "
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
"""
