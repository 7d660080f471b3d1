"""What a bundle means to Triton: names, extents, files, and which of its backends runs the engine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from exporter.bundle import TOKENIZER, Bundle
from exporter.errors import BundleError, InputError
from exporter.recipe import Range
from exporter.runtime.facts import EncoderFacts

TEXT = "text"
"""The ensemble's input; its output is the graph's own."""

# An engine of ours -> the backend of Triton that runs it, and the names it wants the files under, in their order.
NATIVE: dict[str, tuple[str, tuple[str, ...]]] = {
    "onnxruntime": ("onnxruntime", ("model.onnx", "model.onnx.data")),
    "tensorrt": ("tensorrt", ("model.plan",)),
}
# set_batch(max_batch_size), when it loads a model (triton-inference-server/openvino_backend, src/openvino.cc).
ONE_BATCH_SIZE = "Triton's openvino backend fixes the batch at max_batch_size and refuses every batch of another size"
# An engine of ours -> the Python packages that have its library.
_PACKAGES = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt",),
    "tensorrt-rtx": ("tensorrt-rtx-cu13",),
}
SHORTEST_BUCKET = 16
NAME_ALPHABET = "1 to 128 of a-z, A-Z, 0-9, '_', '-' and '.', and does not begin with '-' or '.'"
_PACKAGE_VERSION = re.compile(r"[0-9]+(\.[0-9]+)*[a-z0-9.+]{0,40}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True)
class Options:
    """How bundles are served.

    Attributes:
        runtime: ``"engine"``: Triton's own backend for the bundle's engine. ``"python"``: korsbert's encoder inside
            Triton's python backend, which runs every bundle and batches requests of unequal lengths.
        instances: Copies of each encoder, per GPU where there are any.
        gpus: GPUs the encoders run on. Without any, bundles validated on a CPU run on the CPU, others on all GPUs.
        accelerator: What runs an onnxruntime engine on a GPU: ``"cuda"``, or ``"tensorrt"``, which compiles it when the
            server starts, into something that no gate has seen: verify the server.
        response_cache: Answer what was asked before from the server's response cache.
        queue_delay_us: How long a request may wait for others to share its batch, in microseconds. By default 0 with
            the python runtime on a CPU, where a batch gains little, and 500 otherwise.
        max_text_bytes: A longer text is refused before it costs time, as UTF-8.
    """

    runtime: Literal["engine", "python"] = "engine"
    instances: int = 1
    gpus: tuple[int, ...] = ()
    accelerator: Literal["cuda", "tensorrt"] = "cuda"
    response_cache: bool = False
    queue_delay_us: int | None = None
    max_text_bytes: int = 256 * 1024

    def __post_init__(self) -> None:
        """Refuse numbers that no configuration can hold."""
        negative = min(self.queue_delay_us or 0, *self.gpus, 0) < 0
        if self.instances < 1 or self.max_text_bytes < 1 or negative:
            raise InputError("instances and bytes of text are 1 or more, GPUs and the queue delay 0 or more")


@dataclass(frozen=True)
class TextModel:
    """An ensemble that takes strings, and the tokenizer that it begins with.

    Attributes:
        kind: Of its texts: ``"text"`` for any, ``"query"`` or ``"document"``.
        ensemble: Name of the ensemble.
        tokenizer: Name of the tokenizer. Ensembles with the same prompt share one.
        prompt: What that tokenizer puts before a text whose request names no other prompt.
    """

    kind: Literal["text", "query", "document"]
    ensemble: str
    tokenizer: str
    prompt: str


def text_models(encoder: str, facts: EncoderFacts) -> tuple[TextModel, ...]:
    """Return the ensembles of an encoder: for texts, and where their prompts differ, for queries and documents."""
    default = TextModel("text", f"{encoder}_text", f"{encoder}_tokenizer", facts.prompt)
    if facts.query_prompt == facts.document_prompt == facts.prompt:
        return (default,)
    found = [default]
    kinds: tuple[tuple[Literal["query", "document"], str], ...] = (
        ("query", facts.query_prompt),
        ("document", facts.document_prompt),
    )
    for kind, prompt in kinds:
        same = (one.tokenizer for one in found if one.prompt == prompt)
        found.append(TextModel(kind, f"{encoder}_{kind}", next(same, f"{encoder}_{kind}_tokenizer"), prompt))
    return tuple(found)


@dataclass(frozen=True)
class Served:
    """A bundle as Triton sees it.

    Attributes:
        bundle: What is served.
        name: Of the encoder; tokenizers and ensembles are named after it.
        backend: Triton's name of the backend that runs the encoder.
        files: Name in the bundle -> name in the version folder, of what that backend opens. Empty for ``"python"``.
        on_gpu: Whether the encoder runs on GPUs.
        batch: Rows per batch.
        sequence: Tokens per row, special tokens included.
    """

    bundle: Bundle
    name: str
    backend: str
    files: dict[str, str]
    on_gpu: bool
    batch: Range
    sequence: Range

    @property
    def texts(self) -> tuple[TextModel, ...]:
        """The models that turn strings into vectors; the first is for texts of any kind."""
        return text_models(self.name, self.bundle.manifest.encoder)

    @property
    def names(self) -> dict[str, str]:
        """Every model of the bundle by name, and what it is: ``"encoder"``, ``"tokenizer"`` or ``"ensemble"``."""
        parts = {self.name: "encoder"}
        for text in self.texts:
            parts |= {text.tokenizer: "tokenizer", text.ensemble: "ensemble"}
        return parts

    @property
    def one_prompt(self) -> bool:
        """Whether all prompts of the model are the same text, so that no request can ask for another vector."""
        facts = self.bundle.manifest.encoder
        return {facts.prompt, *facts.prompts.values()} == {facts.prompt}

    @property
    def buckets(self) -> tuple[int, ...]:
        """Widths that requests are padded to, so that their shapes can be equal; none where that is not needed."""
        if self.backend == "python":
            return ()
        powers = (SHORTEST_BUCKET << step for step in range(16))
        widths = {width for width in (*powers, self.sequence.opt) if self.sequence.min <= width < self.sequence.max}
        return (*sorted(widths), self.sequence.max)

    @property
    def least_onnxruntime(self) -> str | None:
        """The oldest ONNX Runtime that Triton's backend must have; None where another backend runs the encoder."""
        return self.bundle.manifest.engine.least_runtime if self.backend == "onnxruntime" else None

    @property
    def engine_package(self) -> str | None:
        """The package of its engine's library at the version that passed the gate, ``"onnxruntime==1.31.1"``."""
        bundle = self.bundle
        tools = bundle.manifest.tools if bundle.record is None else bundle.record.tools
        packages = _PACKAGES[bundle.manifest.engine.backend][:: -1 if self.on_gpu else 1]
        pinned = (f"{package}=={tools[package]}" for package in packages if package in tools)
        return next((package for package in pinned if is_pinned_package(package)), None)

    @property
    def tokenizer_sha256(self) -> str:
        """Hash of the bundle's tokenizer."""
        return self.bundle.manifest.files[TOKENIZER].sha256


def is_pinned_package(package: str) -> bool:
    """Return whether this is a package of an engine's library at a version: a shell command will hold it."""
    name, _, version = package.partition("==")
    return any(name in names for names in _PACKAGES.values()) and _PACKAGE_VERSION.fullmatch(version) is not None


def is_name(name: str) -> bool:
    """Return whether a model may have this name: it is the name of a folder, and a part of the server's URLs."""
    return _NAME.fullmatch(name) is not None


def served(bundle: Bundle, options: Options, name: str | None = None) -> Served:
    """Return a bundle as Triton sees it; ``name`` takes the place of its recipe's.

    Raises:
        BundleError: No backend of Triton runs this engine, or the gate was never passed.
        InputError: GPUs are asked for, and the engine runs on the CPU only; or the name is not valid (``is_name``).
    """
    manifest = bundle.manifest
    engine = manifest.engine
    name = _name(bundle, name)
    if not bundle.validated:
        raise BundleError(
            f"{bundle.folder}: no machine has validated it yet, so it is not shipped",
            next_step="validate it on a machine that can run it",
        )
    names: tuple[str, ...] = ()
    if options.runtime == "python":
        backend = "python"
    elif engine.backend in NATIVE:
        backend, names = NATIVE[engine.backend]
    else:
        reason = (
            ONE_BATCH_SIZE if engine.backend == "openvino" else f"Triton has no backend for {engine.backend} engines"
        )
        raise BundleError(f"{bundle.folder}: {reason}", next_step="use `runtime=python`")
    on_gpu = bool(options.gpus) or manifest.validation.device == "cuda" or engine.backend.needs_gpu
    if on_gpu and engine.backend == "openvino":
        raise InputError(f"{bundle.folder}: openvino engines run on the CPU", next_step="leave out `gpus`")
    if options.accelerator == "tensorrt" and (backend != "onnxruntime" or not on_gpu):
        raise InputError(
            f"{bundle.folder}: `accelerator` is for onnxruntime engines on a GPU",
            next_step="leave it out, or run on a GPU with `gpus=0`",
        )
    _refuse_what_would_answer_otherwise(bundle, options, on_gpu=on_gpu)
    if (dimensions := manifest.encoder.truncate_dim) not in (None, manifest.encoder.dimension):
        raise BundleError(
            f"{bundle.folder}: the checkpoint truncates vectors to {dimensions} dimensions, which Triton does not do",
            next_step="remove truncate_dim from config_sentence_transformers.json, export it again, and let clients "
            "truncate",
        )
    shapes, longest = manifest.recipe.shapes, manifest.encoder.max_seq_length
    found = Served(
        bundle=bundle,
        name=name,
        backend=backend,
        files=dict(zip(engine.files, names, strict=False)),
        on_gpu=on_gpu,
        batch=shapes.batch,
        sequence=shapes.sequence or Range(min=1, opt=min(SHORTEST_BUCKET * 2, longest), max=longest),
    )
    if options.response_cache and on_gpu and backend != "python" and not found.one_prompt:
        raise InputError(
            f"{bundle.folder}: the model has several prompts, so only its encoder could be cached, and Triton caches "
            "nothing that lies on a GPU",
            next_step="leave out `response_cache`, or use `runtime=python`",
        )
    return found


def _name(bundle: Bundle, given: str | None) -> str:
    """Return the name of the encoder: the given one, or its recipe's."""
    name, where = (
        (bundle.manifest.recipe.name, f"{bundle.folder}: the recipe's name") if given is None else (given, "`name`")
    )
    if not is_name(name):
        raise InputError(
            f"{where} {name!r} cannot be a model's: a name has {NAME_ALPHABET}", next_step="give another `name`"
        )
    return name


def _refuse_what_would_answer_otherwise(bundle: Bundle, options: Options, *, on_gpu: bool) -> None:
    """Refuse what Triton would run in other numbers, or with another mask, than those that passed the gate.

    Raises:
        BundleError: With what does serve the bundle.
    """
    engine, proven_on = bundle.manifest.engine, bundle.manifest.validation.device
    if engine.precision.is_int8 and on_gpu != (proven_on == "cuda"):
        raise BundleError(
            f"{bundle.folder}: its int8 graph is for {proven_on} kernels, and Triton would run it on another device",
            next_step="leave out `gpus`, or export it again with `device=cuda`",
        )
    lengths = engine.facts.lengths
    if options.accelerator == "tensorrt" and (lengths or engine.precision not in ("fp32", "fp16")):
        reason = (
            "ignores the sequence lengths that its attention needs"
            if lengths
            else f"does not support {engine.precision}"
        )
        raise BundleError(
            f"{bundle.folder}: TensorRT in onnxruntime {reason}",
            next_step="leave out `accelerator`, or export it with `backend=tensorrt`",
        )
