"""Speed, memory and size of bundles, side by side."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from exporter.benchmark import Encode, Subject, encode_of, evenly_spread, measure
from exporter.benchmark.bundles import conditions
from exporter.bundle import Bundle
from exporter.bundle.manifest import PARITY, parse_report
from exporter.errors import EngineError
from exporter.machine import available_bytes, cores, machine, tool_versions
from exporter.options import TuneOptions
from exporter.serving.peak_memory import Load, peak_bytes
from exporter.stages import Stages
from exporter.targets import Precision

_TOOLS = (
    "korsbert",
    "numpy",
    "tokenizers",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx-cu13",
)


@dataclass(frozen=True)
class Measured:
    """An engine that passed its gate, and what was measured of it.

    Attributes:
        precision: Number format.
        size_bytes: Size of the files of its bundle.
        speed: Throughput and latency, string to vector.
        peak_bytes: The most memory of a process that opens it and encodes one batch of the longest sentences; None
            where it was not measured.
        min_cosine: The worst cosine to the checkpoint over all probes.
        neighbors: The share of the nearest neighbors that are the checkpoint's, mean over the probes.
    """

    precision: Precision
    size_bytes: int
    speed: Subject
    peak_bytes: int | None
    min_cosine: float
    neighbors: float

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return self.speed.name

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON data."""
        return {
            "speed": self.speed.to_dict(),
            "peak_bytes": self.peak_bytes,
            "size_bytes": self.size_bytes,
            "min_cosine": self.min_cosine,
            "mean_neighbor_overlap": self.neighbors,
        }


@dataclass(frozen=True)
class Measurement:
    """Engines measured side by side.

    Attributes:
        measured: Those that ran.
        failed: Why the others did not, by name.
        facts: Text, batch size, threads and machine, as JSON data.
    """

    measured: tuple[Measured, ...]
    failed: Mapping[str, str]
    facts: Mapping[str, Any]

    @property
    def conditions(self) -> str:
        """The facts in one sentence."""
        return conditions(self.facts)


def measure_bundles(
    bundles: Mapping[str, Bundle], text: Sequence[str], tuning: TuneOptions, device: str, stages: Stages
) -> Measurement:
    """Measure bundles of one checkpoint on one device: memory one by one, then speed in turns.

    Args:
        bundles: By the name that tables give them; ratios are relative to the first that runs.
        text: What is encoded; ``tuning`` says how many sentences of it.
        tuning: Threads, batch size and rounds.
        device: ``"cpu"`` or ``"cuda"``.
        stages: Who is told about progress.

    Raises:
        EngineError: No engine runs, or the machine has not the memory to open them side by side.
    """
    sentences = evenly_spread(text, tuning.sentences)
    threads = tuning.threads or cores()
    with next(iter(bundles.values())).encoder(threads=threads) as encoder:
        tokens = encoder.count_tokens(sentences)
    load = Load(device, threads, tuning.batch_size, max(tokens))
    with stages("measure memory") as stage:
        peaks, failed = _peaks(bundles, load, stages)
        stage.result = f"one batch of {load.rows} sentences of {load.tokens} tokens, in a process of its own each"
    if not peaks:
        raise EngineError(
            f"no engine encodes {load.rows} sentences of {load.tokens} tokens: {next(iter(failed.values()))}"
        )
    _refuse_without_memory(peaks)
    with ExitStack() as stack:
        encoders = {name: stack.enter_context(bundles[name].encoder(threads=threads)) for name in peaks}
        with stages("measure speed") as stage:
            encodes: dict[str, Encode] = {name: encode_of(encoder) for name, encoder in encoders.items()}
            size, rounds = tuning.batch_size, tuning.rounds
            subjects = measure(encodes, sentences, batch_size=size, rounds=rounds, progress=stages.progress)
            stage.result = f"{len(sentences)} sentences, {rounds} rounds, in turns"
    facts = {
        "text": tuning.text.name if tuning.text is not None else "the calibration sentences that ship",
        "sentences": len(sentences),
        "tokens_per_sentence": round(sum(tokens) / len(tokens), 1),
        "batch_size": tuning.batch_size,
        "threads": threads,
        "rounds": tuning.rounds,
        "device": device,
        "execution": "each engine's own",
        "memory": {"rows": load.rows, "tokens": load.tokens},
        "machine": machine(),
        "tools": tool_versions(_TOOLS),
    }
    measured = tuple(_measured(bundles[one.name], one, peaks[one.name]) for one in subjects)
    return Measurement(measured, failed, facts)


def _peaks(bundles: Mapping[str, Bundle], load: Load, stages: Stages) -> tuple[dict[str, int | None], dict[str, str]]:
    """Return the peak of each engine that encodes the batch, and why the others do not.

    Only Linux tells the peak of a process. Elsewhere it is None, and every engine counts as one that runs.
    """
    if sys.platform != "linux":
        return dict.fromkeys(bundles), {}
    peaks: dict[str, int | None] = {}
    failed: dict[str, str] = {}
    for name, bundle in bundles.items():
        stages.progress(f"memory of {name}")
        try:
            peaks[name] = peak_bytes(bundle.folder, load)
        except EngineError as error:
            failed[name] = error.message.splitlines()[0]
    return peaks, failed


def _refuse_without_memory(peaks: Mapping[str, int | None]) -> None:
    """Refuse to open all engines at once where the machine has not the memory: the system would end the process.

    Raises:
        EngineError: It has not. What was exported is kept.
    """
    needed, free = sum(peak or 0 for peak in peaks.values()), available_bytes()
    if free is not None and needed > free:
        raise EngineError(
            f"{len(peaks)} engines that are measured in turns need {needed / 1e9:.1f} GB of memory, and "
            f"{free / 1e9:.1f} GB are free",
            next_step="compare fewer at a time with `precisions` or `backends`; what was exported is kept",
        )


def _measured(bundle: Bundle, speed: Subject, peak: int | None) -> Measured:
    report = parse_report(bundle.folder / PARITY, bundle.read(PARITY))["statistics"]
    precision = bundle.manifest.engine.precision
    return Measured(precision, bundle.size_bytes, speed, peak, report["min_cosine"], report["mean_neighbor_overlap"])
