"""What Python users call: load a bundle, export one, validate one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from exporter.bundle import Bundle
from exporter.bundle.minimum_gate import minimum_gate_of
from exporter.dependencies import require
from exporter.engines import BACKENDS, DEFAULTS, BuildOptions
from exporter.errors import InputError
from exporter.recipe import Gates, PoolingMode, Recipe, find_recipe, pooling_modes
from exporter.runtime.encoder import Encoder

if TYPE_CHECKING:
    from exporter.validator import ParityReport

DEVICES = ("cpu", "cuda")


def load(
    path: str | Path,
    *,
    device: Literal["cpu", "cuda"] | None = None,
    threads: int | None = None,
    require_signature: str | Path | None = None,
) -> Encoder:
    """Open a bundle for encoding, after comparing its files with their hashes.

    Needs neither torch nor transformers: numpy, tokenizers and the bundle's engine.

    Args:
        path: Folder of the bundle.
        device: ``"cpu"`` or ``"cuda"``; by default where the bundle was validated.
        threads: CPU threads; by default the engine decides.
        require_signature: Refuse the bundle unless it is signed by this: a PEM file with a public key, or with
            certificates that the signer's certificate must lead to. Needs ``korsbert[sign]``.

    Raises:
        BundleError: No bundle there, a file of it is missing, altered or not listed, or a signature is required and is
            not there or not valid.
        InputError: ``require_signature`` is not a file of keys or certificates.
        MissingDependencyError: The engine is not installed, or the device is not there.
    """
    if device is not None:
        _one_of("device", device, DEVICES)
    bundle = Bundle.open(Path(path), require_signature=_path(require_signature), for_encoding=True)
    return bundle.encoder(device=device, threads=threads)


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
        checkpoint=_path(checkpoint),
        revision=revision,
        pooling=modes,
        calibration=_path(calibration),
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
    gates: Gates | Recipe | str | Path | None = None,
    require_signature: str | Path | None = None,
) -> ParityReport:
    """Repeat a bundle's gate on this machine, and return the report, passed or not.

    Args:
        bundle: A bundle or its folder.
        checkpoint: A local copy of the checkpoint; by default the source in the manifest, at its commit.
        sts: Task sets to score both sides on.
        device: Where the bundle runs; by default where it was validated.
        gates: The least that the bundle must reach, whatever gate it states itself: a recipe, or a YAML file with a
            ``gates`` key; by default korsbert's own bounds. The bundle's own bounds count where they are stricter.
        require_signature: Refuse the bundle unless it is signed by this (PEM): a public key or certificates.

    Raises:
        BundleError: No bundle there, a file of it is missing, altered or not listed, or a signature is required and is
            not there or not valid.
        RecipeError: The gates cannot be read.
        CheckpointError: The checkpoint cannot be loaded, or holds other weights than the bundle was made from.
    """
    if device is not None:
        _one_of("device", device, DEVICES)
    for package in ("torch", "sentence_transformers", "optimum"):
        require(package)
    from exporter import pipeline  # noqa: PLC0415 - brings in torch

    trusted = _path(require_signature)
    if isinstance(bundle, Bundle):
        if trusted is not None:
            bundle.verify_signature(trusted)
    else:
        bundle = Bundle.open(Path(bundle), require_signature=trusted, for_encoding=True)
    return pipeline.validate_bundle(
        bundle,
        checkpoint=_path(checkpoint),
        sts=[Path(file) for file in sts],
        device=device,
        minimum_gate=minimum_gate_of(gates),
    )


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _one_of(option: str, value: str, legal: Iterable[str]) -> None:
    """Refuse what the annotations do not allow before any work is done; nothing else holds a caller to them."""
    if value not in legal:
        raise InputError(f"{option} is {value!r}", next_step=f"one of {', '.join(legal)}")
