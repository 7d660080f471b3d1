"""Bundles that exist as manifests only, for what reads nothing else: every engine, with the demo's facts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from exporter.bundle import TOKENIZER, Bundle, EncoderFacts, FileFacts, GraphFacts, Manifest, Validation
from exporter.engines import Engine
from exporter.recipe import Recipe, Source, load_recipe, recipes_folder

__all__ = ["ENGINES", "bundle_of"]

ENGINES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "onnxruntime": (("model.onnx",), {}),
    "openvino": (("openvino_model.xml", "openvino_model.bin"), {}),
    "tensorrt": (
        ("model.engine", "builder.log"),
        {
            "version": "10.13.3.9",
            "compute_capability": "9.0",
            "profiles": [
                {"batch": [1, 32, 128], "sequence": [1, 32, 64]},
                {"batch": [1, 32, 128], "sequence": [1, 128, 256]},
            ],
        },
    ),
    "tensorrt-rtx": (("model.engine", "builder.log"), {}),
}


def bundle_of(
    backend: str,
    precision: str = "fp32",
    device: Literal["cpu", "cuda"] = "cpu",
    recipe: Recipe | None = None,
    padding: Literal["any", "right"] = "any",
) -> Bundle:
    """Return a bundle of the demo, or of another recipe of its shape, that was never built."""
    files, facts = ENGINES[backend]
    nothing = FileFacts(size=0, sha256="0" * 64)
    manifest = Manifest(
        recipe=recipe or load_recipe(recipes_folder() / "demo.yaml"),
        source=Source(checkpoint="demo/checkpoint", commit=None, weights_sha256="1" * 64, files={}),
        encoder=EncoderFacts(
            architecture="AlbertModel",
            modules=("Transformer", "Pooling"),
            pooling=("cls",),
            dimension=256,
            max_seq_length=256,
            do_lower_case=True,
            layers=4,
            heads=4,
            hidden_size=256,
        ),
        graph=GraphFacts(sha256="2" * 64, nodes={}, weight_bytes=0),
        engine=Engine(backend=backend, precision=precision, files=files, facts={**facts, "padding": padding}),
        decisions=(),
        validation=Validation(
            device=device, execution="", probes_sha256="", min_cosine=1.0, gates=(), note="never built"
        ),
        tools={},
        machine={},
        created="2026-01-01T00:00:00+00:00",
        files=dict.fromkeys((*files, TOKENIZER), nothing),
        seal="3" * 64,
    )
    return Bundle(Path("/nowhere") / backend, manifest)
