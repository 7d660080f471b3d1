"""Speed, memory and size of bundles, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
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
    """A bundle that passed its gate, and what was measured of it.

    Attributes:
        bundle: The bundle.
        speed: Throughput and latency, string to vector.
        peak_bytes: The most memory of a process that opens it and encodes one batch of the longest sentences; None
            where it was not measured.
        min_cosine: The worst cosine to the checkpoint over all probes.
        neighbors: The share of the nearest neighbors that are the checkpoint's, mean over the probes.
    """

    bundle: Bundle
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
            "size_bytes": self.bundle.size_bytes,
            "min_cosine": self.min_cosine,
            "mean_neighbor_overlap": self.neighbors,
        }


def measure_bundles(
    bundles: Mapping[str, Bundle], text: Sequence[str], tuning: TuneOptions, device: str, stages: Stages
) -> tuple[tuple[Measured, ...], dict[str, Any]]:
    """Measure bundles of one checkpoint on one device: memory one by one, then speed in turns.

    Args:
        bundles: By the name that tables give them; ratios are relative to the first.
        text: What is encoded; ``tuning`` says how many sentences of it.
        tuning: Threads, batch size and rounds.
        device: ``"cpu"`` or ``"cuda"``.
        stages: Who is told about progress.

    Returns:
        What was measured, in the order of ``bundles``, and the conditions as JSON data.
    """
    sentences = evenly_spread(text, tuning.sentences)
    threads = tuning.threads or cores()
    with next(iter(bundles.values())).encoder(threads=threads) as encoder:
        tokens = encoder.count_tokens(sentences)
    load = Load(device, threads, tuning.batch_size, max(tokens))
    with stages("measure memory") as stage:
        peaks = _peaks(bundles, load, stages)
        stage.result = f"one batch of {load.rows} sentences of {load.tokens} tokens, in a process of its own each"
    _refuse_without_memory(peaks)
    with ExitStack() as stack:
        encoders = {name: stack.enter_context(bundle.encoder(threads=threads)) for name, bundle in bundles.items()}
        with stages("measure speed") as stage:
            encodes: dict[str, Encode] = {name: encode_of(encoder) for name, encoder in encoders.items()}
            subjects = measure(encodes, sentences, batch_size=tuning.batch_size, rounds=tuning.rounds)
            stage.result = f"{len(sentences)} sentences, {tuning.rounds} rounds, in turns"
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
    facts["sentence"] = conditions(facts)
    return tuple(_measured(bundles[one.name], one, peaks[one.name]) for one in subjects), facts


def _peaks(bundles: Mapping[str, Bundle], load: Load, stages: Stages) -> dict[str, int | None]:
    found: dict[str, int | None] = dict.fromkeys(bundles)
    for name, bundle in bundles.items():
        stages.progress(f"measure memory: {name}")
        with suppress(EngineError):  # it did not run in the time or the memory that there is
            found[name] = peak_bytes(bundle.folder, load)
    return found


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
    return Measured(bundle, speed, peak, report["min_cosine"], report["mean_neighbor_overlap"])
