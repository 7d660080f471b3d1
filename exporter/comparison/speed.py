"""The speed of two bundles, in turns in one run."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from exporter.benchmark import Throughput, encode_of, evenly_spread, measure
from exporter.benchmark.bundles import conditions
from exporter.comparison.sides import BundleSide
from exporter.machine import cores, machine, tool_versions

SENTENCES = 128
"""Texts that are encoded in each round, evenly spread, at most."""
_ROUNDS, _BATCH = 5, 32
_TOOLS = ("korsbert", "numpy", "tokenizers")


def measured_speed(
    a: BundleSide, b: BundleSide, texts: Sequence[str], source: str, threads: int | None
) -> tuple[Throughput | None, str | None]:
    """Measure two bundles on the same texts.

    Args:
        a: What the other is relative to.
        b: The other.
        texts: What they encode.
        source: Where the texts are from.
        threads: CPU threads of the engines; None for as many as there are cores.

    Returns:
        What was measured; or None and why it was not.
    """
    if a.encoder.device != b.encoder.device:
        return None, f"speed was not measured: A runs on {a.encoder.device}, and B on {b.encoder.device}"
    engines = dict.fromkeys(str(side.bundle.manifest.engine.backend) for side in (a, b))
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    chosen = evenly_spread(texts, SENTENCES)
    encoders = {"A": encode_of(a.encoder), "B": encode_of(b.encoder)}
    subjects = measure(encoders, chosen, batch_size=_BATCH, rounds=_ROUNDS, singles=32)
    facts = {
        "text": source,
        "sentences": len(chosen),
        "tokens_per_sentence": round(float(np.mean(a.encoder.count_tokens(chosen))), 1),
        "batch_size": _BATCH,
        "threads": threads or cores(),
        "rounds": _ROUNDS,
        "device": a.encoder.device,
        "execution": a.encoder.execution,
        "machine": machine(),
        "tools": tool_versions((*_TOOLS, *engines, *(f"{engine}-gpu" for engine in engines))),
        "load": None if load is None else round(load, 2),
    }
    told = "" if load is None else f"; load of the machine before: {load:.1f}"
    return Throughput(subjects, conditions(facts) + told, facts), None
