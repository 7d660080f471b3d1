"""Bundles that exist as manifests only, for what reads nothing else: every engine, with the demo's facts."""

from __future__ import annotations

from pathlib import Path

from exporter.bundle import TOKENIZER, Bundle, FileFacts, GraphFacts, Manifest, RangesFacts, Validation
from exporter.engines import Engine
from exporter.engines.facts import EngineFacts
from exporter.engines.tensorrt.profiles import Profile
from exporter.recipe import Recipe, Source, load_recipe, recipes_folder
from exporter.runtime.facts import EncoderFacts
from exporter.runtime.vector_types import RANGES
from exporter.targets import Backend, Device, Padding, Precision

__all__ = ["ENGINES", "bundle_of"]

ENGINES: dict[str, tuple[tuple[str, ...], EngineFacts]] = {
    "onnxruntime": (("model.onnx",), EngineFacts()),
    "openvino": (("openvino_model.xml", "openvino_model.bin"), EngineFacts()),
    "tensorrt": (
        ("model.engine", "builder.log"),
        EngineFacts(
            version="10.13.3.9",
            compute_capability="9.0",
            profiles=(Profile((1, 32, 128), (1, 32, 64)), Profile((1, 32, 128), (1, 128, 256))),
        ),
    ),
    "tensorrt-rtx": (("model.engine", "builder.log"), EngineFacts()),
}


def bundle_of(
    backend: str,
    precision: str = "fp32",
    device: str = "cpu",
    recipe: Recipe | None = None,
    padding: str = "any",
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
        engine=Engine(
            backend=Backend(backend),
            precision=Precision(precision),
            files=files,
            facts=facts.model_copy(update={"padding": Padding(padding), "lengths": padding == "right"}),
        ),
        ranges=RangesFacts(source="none", sha256="4" * 64, sentences=0, prompts=("",)),
        decisions=(),
        validation=Validation(
            device=Device(device), execution="", probes_sha256="", min_cosine=1.0, gates=(), note="never built"
        ),
        tools={},
        machine={},
        created="2026-01-01T00:00:00+00:00",
        files=dict.fromkeys((*files, TOKENIZER, RANGES), nothing),
        seal="3" * 64,
    )
    return Bundle(Path("/nowhere") / backend, manifest)
