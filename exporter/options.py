"""Options, of an export and of tuning: one description for the command line, the Python functions and the pipeline."""

from __future__ import annotations

import difflib
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from exporter.errors import InputError
from exporter.recipe import NAME, PoolingMode
from exporter.targets import FOLDED_OPSET, OLDEST_OPSET, Backend, Device, Precision, Target


class Options(BaseModel):
    """Frozen options. ``of`` raises an ``InputError`` instead of pydantic's error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def of(cls, **options: Any) -> Self:
        """Return the options.

        Raises:
            InputError: An unknown option, with the nearest legal name, or an illegal value, with the legal ones.
        """
        unknown = [name for name in options if name not in cls.model_fields]
        if unknown:
            nearest = difflib.get_close_matches(unknown[0], cls.model_fields, n=1)
            raise InputError(
                f"there is no option {unknown[0]!r}",
                next_step=f"did you mean {nearest[0]!r}?" if nearest else f"use one of {', '.join(cls.model_fields)}",
            )
        try:
            return cls(**options)
        except ValidationError as error:
            raise _input_error(error) from error


class ExportOptions(Options):
    """How to export. Build it with ``ExportOptions.of`` to get an ``InputError`` instead of pydantic's error."""

    precision: Precision = Field(
        default=Precision.FP32, description="Number format of the graph. The output is float32 in every one."
    )
    backend: Backend = Field(default=Backend.ONNXRUNTIME, description="Library that runs the bundle.")
    out: Path = Field(
        default=Path("artifacts"),
        description="Folder of bundles. The bundle is written to OUT/NAME/PRECISION-BACKEND.",
        json_schema_extra={"metavar": "FOLDER"},
    )
    name: str | None = Field(
        default=None,
        max_length=100,
        pattern=NAME,
        description="Name of the bundle: of its folder, on its card, and of the model that `korsbert ship` writes "
        "(default: the name of the recipe, of the checkpoint's folder, or what follows the owner in a hub id).",
    )
    device: Device = Field(
        default=Device.CPU,
        description="Device of the reference and of the engine. TensorRT engines always run on the GPU.",
    )
    opset: int = Field(
        default=FOLDED_OPSET,
        ge=OLDEST_OPSET,
        le=FOLDED_OPSET,
        description=f"ONNX operator set of the graph, from {OLDEST_OPSET} to {FOLDED_OPSET}. A lower one runs on older "
        "versions of ONNX Runtime, on the CPU: `korsbert show` says from which one on.",
    )
    checkpoint: Path | None = Field(
        default=None,
        description="Local copy of the checkpoint, used instead of the source.",
        json_schema_extra={"metavar": "FOLDER"},
    )
    revision: str | None = Field(
        default=None,
        description="Branch, tag or commit on the hub.",
        json_schema_extra={"metavar": "REV"},
    )
    pooling: tuple[PoolingMode, ...] | None = Field(
        default=None,
        min_length=1,
        description="Pooling mode (cls, mean, max, ...) of a checkpoint without modules.json, which does not state "
        "one. Several modes are concatenated.",
        json_schema_extra={"metavar": "MODE"},
    )
    max_seq_length: int | None = Field(
        default=None,
        ge=1,
        description="Maximum tokens per sentence, special tokens included (default: the checkpoint's own limit). "
        "Longer sentences are truncated. With a lower limit, a model for long texts is exported and served faster.",
        json_schema_extra={"metavar": "TOKENS"},
    )
    calibration: Path | None = Field(
        default=None,
        description="File of your own sentences (text, one per line, or JSONL with a text field). int8 is calibrated "
        "on them instead of the shipped ones; fp16 is audited on them in addition to the probes.",
        json_schema_extra={"metavar": "FILE"},
    )
    sts: tuple[Path, ...] = Field(
        default=(),
        description="STS data set to score the reference and the engine on: TSV like KorSTS, JSON like KLUE-STS, or "
        "CSV like stsb_multi_mt.",
        json_schema_extra={"metavar": "FILE"},
    )
    force: bool = Field(default=False, description="Replace an existing bundle, once the new one has passed.")
    unvalidated: bool = Field(
        default=False,
        description="Publish an engine that this machine cannot run, marked as not validated.",
    )
    workspace_mib: int | None = Field(
        default=None,
        ge=1,
        description="Maximum scratch memory of a TensorRT kernel, in MiB (default: all GPU memory).",
        json_schema_extra={"metavar": "MIB"},
    )
    version_compatible: bool = Field(
        default=False, description="Build a TensorRT engine that newer TensorRT versions can open. It may be slower."
    )
    hardware_compatible: bool = Field(
        default=False,
        description="Build a TensorRT engine for all GPUs from Ampere on, not only for this GPU. It may be slower.",
    )

    @field_validator("pooling", mode="before")
    @classmethod
    def _one_mode_is_a_list_of_one(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @property
    def target(self) -> Target:
        """What the engine is built for."""
        return Target(self.precision, self.backend, self.backend.device(self.device), self.opset)


class Goal(StrEnum):
    """What the best engine is best at."""

    THROUGHPUT = "throughput"
    LATENCY = "latency"
    SIZE = "size"


class TuneOptions(Options):
    """What is compared, how it is measured, and what is chosen."""

    goal: Goal = Field(
        default=Goal.THROUGHPUT,
        description="What the published engine is to be best at: sentences per second in batches, the median latency "
        "of a single sentence, or the size of its files.",
    )
    min_cosine: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Publish only an engine whose worst cosine to the checkpoint, over all probes, is at least this. "
        "It comes on top of the gates.",
    )
    keep: bool = Field(default=False, description="Publish every engine that passes its gate, not only the best one.")
    precisions: tuple[Precision, ...] = Field(
        default=tuple(Precision), min_length=1, description="Precisions to compare (default: all)."
    )
    backends: tuple[Backend, ...] = Field(
        default=tuple(Backend), min_length=1, description="Backends to compare (default: all)."
    )
    text: Path | None = Field(
        default=None,
        description="Text to measure with: one sentence per line, or JSONL with a text field (default: the calibration "
        "sentences that ship).",
        json_schema_extra={"metavar": "FILE"},
    )
    sentences: int = Field(
        default=256, ge=1, description="Sentences of the text that are encoded in each round, evenly spread."
    )
    threads: int | None = Field(default=None, ge=1, description="CPU threads of each engine (default: all cores).")
    batch_size: int = Field(default=32, ge=1, description="Sentences in a batch.")
    rounds: int = Field(default=5, ge=1, description="Timed rounds. Each round times every engine.")


def _input_error(error: ValidationError) -> InputError:
    first = error.errors()[0]
    option, value = str(first["loc"][0]), first["input"]
    expected = str(first.get("ctx", {}).get("expected", "")).replace("'", "").replace(" or ", ", ")
    shown = "empty" if value in ((), [], "") else repr(value)
    if first["type"] == "string_pattern_mismatch":
        return InputError(
            f"`{option}` is {shown}",
            next_step="use letters, digits, '.', '_' and '-', beginning with a letter or a digit",
        )
    return InputError(f"`{option}` is {shown}", next_step=f"use one of {expected}" if expected else str(first["msg"]))
