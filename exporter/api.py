"""What Python users call: load a bundle, export one, validate one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from exporter.backends import BACKENDS, DEFAULTS, BuildOptions
from exporter.bundle import Bundle
from exporter.dependencies import require
from exporter.encoder import Encoder
from exporter.errors import InputError
from exporter.recipe import Gates, PoolingMode, Recipe, find_recipe, pooling_modes

if TYPE_CHECKING:
    from exporter.validator import ParityReport

DEVICES = ("cpu", "cuda")


def load(path: str | Path, *, device: Literal["cpu", "cuda"] | None = None, threads: int | None = None) -> Encoder:
    """Open a bundle for encoding, after holding its files against their hashes.

    Needs neither torch nor transformers: numpy, tokenizers and the bundle's engine.

    Args:
        path: Folder of the bundle.
        device: ``"cpu"`` or ``"cuda"``; by default where the bundle was validated.
        threads: CPU threads; by default the engine decides.

    Raises:
        BundleError: No bundle there, or a file of it is missing or altered.
        MissingDependencyError: The engine is not installed, or the device is not there.
    """
    if device is not None:
        _one_of("device", device, DEVICES)
    return Bundle.open(Path(path)).encoder(device=device, threads=threads)


def export(
    model: str | Recipe,
    *,
    precision: Literal["fp32", "fp16", "bf16", "int8", "int8_dynamic"] = "fp32",
    backend: Literal["onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"] = "onnxruntime",
    out: str | Path = "artifacts",
    device: Literal["cpu", "cuda"] = "cpu",
    checkpoint: str | Path | None = None,
    revision: str | None = None,
    pooling: PoolingMode | Sequence[PoolingMode] | None = None,
    calibration: str | Path | None = None,
    sts: Sequence[str | Path] = (),
    force: bool = False,
    unvalidated: bool = False,
    build: BuildOptions = DEFAULTS,
) -> Bundle:
    """Export a checkpoint, prove the result equal to it, and publish it.

    Args:
        model: Name of a recipe, a local folder, a hub id (``owner/name``), or a recipe.
        precision: Number format of the graph; the output is float32 in any case.
        backend: What serves the bundle.
        out: Folder of bundles; this one lands in ``out/<recipe>/<precision>-<backend>``.
        device: Where reference and candidate compute.
        checkpoint: A local copy that takes the place of the recipe's source.
        revision: Branch, tag or commit on the hub.
        pooling: How token vectors become a sentence vector, for a checkpoint without ``modules.json``, which does not
            say. Several modes are concatenated.
        calibration: Your own sentences (text, one a line, or JSONL with ``text``): audited beside the probes, and what
            int8 takes its scales from instead of those that ship.
        sts: Task sets (TSV as KorSTS, JSON as KLUE-STS, CSV as stsb_multi_mt) to score both sides on.
        force: Replace an existing bundle, once the new one has passed.
        unvalidated: Where this machine cannot run the engine, publish it all the same, marked as such.
        build: What is decided about an engine of TensorRT besides graph and shapes.

    Raises:
        GateError: The result differs by more than the recipe's gates allow; nothing was published.
        ExportError: Anything else that stops it; see ``exporter.errors``.
    """
    _one_of("precision", precision, Gates.model_fields)
    _one_of("backend", backend, BACKENDS)
    _one_of("device", device, DEVICES)
    modes = None if pooling is None else pooling_modes([pooling] if isinstance(pooling, str) else pooling)
    for package in ("torch", "sentence_transformers", "optimum", "onnxscript", "onnxruntime"):
        require(package)
    from exporter import pipeline  # noqa: PLC0415 - brings in torch

    options = pipeline.Options(
        precision=precision,
        backend=backend,
        out=Path(out),
        device=device,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        revision=revision,
        pooling=modes,
        calibration=None if calibration is None else Path(calibration),
        sts=tuple(Path(file) for file in sts),
        force=force,
        unvalidated=unvalidated,
        build=build,
    )
    return pipeline.export(model if isinstance(model, Recipe) else find_recipe(model), options)


def validate(
    bundle: str | Path | Bundle,
    *,
    checkpoint: str | Path | None = None,
    sts: Sequence[str | Path] = (),
    device: Literal["cpu", "cuda"] | None = None,
) -> ParityReport:
    """Repeat a bundle's gate on this machine, and return the report, passed or not.

    Args:
        bundle: A bundle or its folder.
        checkpoint: A local copy of the checkpoint; by default the source in the manifest, at its commit.
        sts: Task sets to score both sides on.
        device: Where the bundle runs; by default where it was validated.

    Raises:
        BundleError: No bundle there, or a file of it is missing or altered.
        CheckpointError: The checkpoint cannot be loaded, or holds other weights than the bundle was made from.
    """
    if device is not None:
        _one_of("device", device, DEVICES)
    for package in ("torch", "sentence_transformers", "optimum"):
        require(package)
    from exporter import pipeline  # noqa: PLC0415 - brings in torch

    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(Path(bundle))
    folder = None if checkpoint is None else Path(checkpoint)
    return pipeline.validate_bundle(opened, checkpoint=folder, sts=[Path(file) for file in sts], device=device)


def _one_of(option: str, value: str, legal: Iterable[str]) -> None:
    """Refuse what the annotations do not allow before any work is done; nothing else holds a caller to them."""
    if value not in legal:
        raise InputError(f"{option} is {value!r}", next_step=f"one of {', '.join(legal)}")
