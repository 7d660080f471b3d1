"""Tables and targets of `benchmarks.peers`: every class and model, and where a peer is ahead, by how much and why."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.operations import FORMULA
from benchmarks.peer_contenders import CLASSES, REFERENCE, engine_of, is_korsbert
from benchmarks.peer_texts import LONG, SHORT
from benchmarks.peer_turns import Times
from benchmarks.results import Target, publish, table

AHEAD = 1.2
JUDGED = ("klue-sroberta", "xlm-roberta-large")
_RATE_OF = {"fp32": "fp32", "16 bit": "bf16", "int8": "int8"}
_HEADER = (
    "class", "engine", "sentences/s", "ratio", "within rounds", "p50 ms", "p50 ratio", "min cosine", "of the ceiling"
)  # fmt: skip
_TEXTS = {SHORT: "Sentences", LONG: "Long texts"}
_TIMES = {"ratio": "batches_s", "p50_ratio": "alone_s"}
"""Ratios to the reference, and the seconds by round that they are from."""


def summarized(times: Times, reference: Times, sentences: int, operations: float) -> dict[str, Any]:
    """Return the figures of one contender on one text.

    Args:
        times: Its own.
        reference: Those of the first contender, of the same rounds.
        sentences: In a round's batches.
        operations: Of the matrix products of these sentences.
    """
    own, first = np.array(times.batches_s), np.array(reference.batches_s)
    alone, first_alone = np.array(times.alone_s), np.array(reference.alone_s)
    alone_s = np.median(alone, axis=1)
    seconds = float(np.median(own))
    return {
        "sentences_per_s": sentences / seconds,
        "ratio": float(np.median(first / own)),
        "ratios": [float((first / own).min()), float((first / own).max())],
        "p50_ms": 1000 * float(np.median(alone)),
        "p99_ms": 1000 * float(np.percentile(alone, 99)),
        "p50_ratio": float(np.median(np.median(first_alone, axis=1) / alone_s)),
        "operations_per_s": operations / seconds,
        "batches_s": [round(value, 6) for value in times.batches_s],
        "alone_s": [round(float(value), 7) for value in alone_s],
    }


def publish_models(folder: Path, name: str, found: dict[str, Any], order: Iterable[str]) -> None:
    """Write ``peers`` with one model's results and those of other models that were there."""
    file = folder / "peers.json"
    before: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["models"] if file.is_file() else {}
    both = {**before, name: found}
    models = {one: both[one] for one in order if one in both}
    targets = [target for one, data in models.items() for target in targets_of(one, data)]
    sections = [
        "# Peers on a CPU",
        _conditions(),
        *(text for one, data in models.items() for text in _model(one, data)),
    ]
    publish("peers", folder, {"models": models}, sections, targets)


def targets_of(name: str, data: Mapping[str, Any]) -> list[Target]:
    """Return the promise of each class, for models and sizes of which it is one.

    An engine in int8 whose search found nothing that passes is no engine that an export would publish.
    """
    if name not in JUDGED or data["size"] != "full" or data["not_chosen"]:
        return []
    passed = [row for row in data["rows"] if row["facts"].get("passed", True)]
    return [
        Target(
            f"{name}, {_TEXTS[kind].lower()}, {precision}: times the throughput of the best peer ({peer['name']})",
            advantage(ours, peer, kind, "ratio"),
            AHEAD,
            at_least=True,
        )
        for kind, precision, ours, peer in _pairs({**data, "rows": passed}, "ratio")
    ]


def advantage(row: Mapping[str, Any], other: Mapping[str, Any], kind: str, figure: str) -> float:
    """Return how many times faster a row is than another one.

    Args:
        row: The first.
        other: The second.
        kind: Of the texts.
        figure: ``ratio`` (batches) or ``p50_ratio`` (texts alone).

    Returns:
        The median over the rounds of the quotient of their times within a round. Rows of different groups have no
        round in common: there it is the quotient of their ratios to the reference.
    """
    if row["group"] != other["group"]:
        return float(row[kind][figure] / other[kind][figure])
    times = _TIMES[figure]
    return float(np.median(np.array(other[kind][times]) / np.array(row[kind][times])))


def _pairs(data: Mapping[str, Any], figure: str) -> Iterator[tuple[str, str, Mapping[str, Any], Mapping[str, Any]]]:
    """Yield text, class, the row of korsbert's fastest engine, and that of the fastest peer beside it."""
    for kind in _TEXTS:
        for precision in CLASSES:
            rows = [row for row in data["rows"] if row["class"] == precision]
            ours = [row for row in rows if is_korsbert(row["name"])]
            peers = [row for row in rows if not is_korsbert(row["name"])]
            if ours and peers:
                best = max(ours, key=lambda row: float(row[kind][figure]))
                peer = min((advantage(best, row, kind, figure), place) for place, row in enumerate(peers))[1]
                yield kind, precision, best, peers[peer]


def _conditions() -> str:
    return (
        "Each engine is a process of its own, with the same number of threads, from string to vector. In each "
        "round, all of them encode the same texts in batches of 32, then some texts alone; the order rotates, and "
        "the first round is not counted. `sentences/s` is from the median time of a round's batches. `ratio` is the "
        f"median over the rounds of the ratio to {REFERENCE} within a round, `within rounds` the smallest and the "
        "largest of these ratios. `p50 ms` is the median latency of texts alone, `p50 ratio` the median over the "
        "rounds of the ratio of a round's median latency to that engine's. `min cosine` is the smallest to that "
        "engine. `of the ceiling` is the share of the largest rate that a library reached in the same run with one "
        "large matrix product in that class of precision (bf16 for 16 bit); counted are " + FORMULA + "\n\n"
        "`batch 32` and `alone` compare korsbert's fastest engine with the fastest peer, and so do the promises: the "
        "median over the rounds of the peer's time divided by korsbert's time in the same round. Where both are in "
        "different groups, they have no round in common, and it is the quotient of their `ratio` or `p50 ratio`.\n\n"
        "fastembed, light-embed and optimum-onnx run the graphs that sentence-transformers exported. transformers' "
        "exporters and optimum-onnx have no sentence encoder: their texts are sorted by length and pooled as "
        "SentenceTransformer does. light-embed and korsbert sort by length too; fastembed encodes texts in the order "
        "given, so its batches of texts of different lengths have more padding. What remains in floating point in "
        "peers' int8 is what they choose. The best of each class is bold.\n\n"
        "No gate judged korsbert's built engines here. Its int8 is not a bundle as `korsbert` would publish it: it is "
        "the first assignment of the search, calibrated with less text than an export reads. Below the tables is "
        "whether that assignment passed the gate with a margin on held-out calibration text. Where it did not, "
        "nothing is promised of it."
    )


def _model(name: str, data: Mapping[str, Any]) -> Iterator[str]:
    """Yield the sections of one model."""
    weights = f"{data['parameters'] / 1e6:.0f} M parameters, {data['linear_weights'] / 1e6:.0f} M in linear layers"
    yield f"## {name}"
    loads = [load for row in data["rows"] for kind in _TEXTS for load in row[kind]["loads"]]
    parts = len(data["groups"])
    yield (
        f"{data['like']} ({data['size']} size; {weights}). Text: {data['text']}. "
        f"{data['threads']} threads, batch {data['batch_size']}; load average at the end of rounds {min(loads)} to "
        f"{max(loads)}; {data['prepared_s'] / 60:.0f} minutes of exports and {data['measured_s'] / 60:.0f} of measuring"
        + (f", in {parts} groups that fit into memory" if parts > 1 else "")
        + f". {data['processor']}, revision {data['revision']}."
    )
    yield _ceilings(data["ceilings"])
    for kind, title in _TEXTS.items():
        facts = data["texts"][kind]
        counts = sorted({len(row[kind]["batches_s"]) for row in data["rows"]})
        rounds = " or ".join(map(str, counts))
        yield f"**{title}**: {facts['sentences']} in a round, {facts['tokens']} tokens each; {rounds} rounds."
        yield table(_HEADER, _rows(data, kind))
    if comparison := list(_comparison(data)):
        yield table(("texts", "class", "korsbert's best", "the best peer", "batch 32", "alone"), comparison)
    yield from _ahead(data)
    yield from _searches(data)
    versions = {row["name"]: row["versions"] for row in data["rows"]}
    tools = sorted({f"{tool} {version}" for found in versions.values() for tool, version in found.items()})
    yield f"Versions: {', '.join(tools)}."
    if data["refused"]:
        yield "Not measured:\n\n" + "\n".join(f"- {one}: {_short(why)}" for one, why in data["refused"].items())
    if data["not_chosen"]:
        yield f"Not asked for in this run: {', '.join(data['not_chosen'])}."


def _short(why: str) -> str:
    return why if len(why) <= 300 else f"{why[:300]}..."


def _ceilings(runs: Sequence[Mapping[str, Mapping[str, float]]]) -> str:
    """Return the rates of libraries before and after the rounds, in billions of operations per second."""
    rows = [
        (precision, library, *(f"{run[precision][library] / 1e9:.0f}" for run in runs))
        for precision, libraries in runs[0].items()
        for library in libraries
    ]
    return table(("a large product in", "library", "before, 10^9/s", "after, 10^9/s"), rows)


def ceiling_of(data: Mapping[str, Any], precision: str) -> float:
    """Return the largest rate that a library reached in a class of precision, in operations per second."""
    return max(float(rate) for run in data["ceilings"] for rate in run[_RATE_OF[precision]].values())


def _share(row: Mapping[str, Any], kind: str, data: Mapping[str, Any]) -> float:
    rate = float(row[kind]["operations_per_s"])
    return rate / ceiling_of(data, str(row["class"]))


def _rows(data: Mapping[str, Any], kind: str) -> list[tuple[str, ...]]:
    cells: list[tuple[str, ...]] = []
    for precision in CLASSES:
        rows = [row for row in data["rows"] if row["class"] == precision]
        for place, row in enumerate(sorted(rows, key=lambda row: -float(row[kind]["ratio"]))):
            found = row[kind]
            cells.append(
                (
                    precision,
                    f"**{row['name']}**" if place == 0 else row["name"],
                    f"{found['sentences_per_s']:.1f}",
                    f"{found['ratio']:.2f}x",
                    f"{found['ratios'][0]:.2f} to {found['ratios'][1]:.2f}",
                    f"{found['p50_ms']:.2f}",
                    f"{found['p50_ratio']:.2f}x",
                    f"{found['min_cosine']:.6f}",
                    f"{_share(row, kind, data):.0%}",
                )
            )
    return cells


def _comparison(data: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    alone = {(kind, precision): (ours, peer) for kind, precision, ours, peer in _pairs(data, "p50_ratio")}
    for kind, precision, ours, peer in _pairs(data, "ratio"):
        ours_alone, peer_alone = alone[kind, precision]
        faster = advantage(ours_alone, peer_alone, kind, "p50_ratio")
        yield (
            _TEXTS[kind].lower(),
            precision,
            engine_of(ours["name"]),
            peer["name"],
            f"{advantage(ours, peer, kind, 'ratio'):.2f}x",
            f"{faster:.2f}x ({engine_of(ours_alone['name'])} and {peer_alone['name']})",
        )


def _ahead(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield which peers are ahead of korsbert's fastest engine of their class, in throughput and in latency."""
    for figure, better in (("ratio", "a higher throughput"), ("p50_ratio", "a lower median latency (p50)")):
        pairs = list(_pairs(data, figure))
        lines = [
            _ahead_by(times, row, ours, kind, data)
            for kind, precision, ours, _ in pairs
            for row in data["rows"]
            if row["class"] == precision and not is_korsbert(row["name"])
            if (times := advantage(row, ours, kind, figure)) > 1
        ]
        if lines:
            yield f"Peers with {better}:\n\n" + "\n".join(lines)
        elif pairs:
            yield f"No peer has {better} than korsbert's best engine of its class."


def _ahead_by(times: float, row: Mapping[str, Any], ours: Mapping[str, Any], kind: str, data: Mapping[str, Any]) -> str:
    """Return by how much a peer is ahead, and what differs."""
    return (
        f"- {_TEXTS[kind].lower()}, {row['class']}: {row['name']} is {times:.2f} times as fast as {ours['name']}. It "
        f"reaches {_share(row, kind, data):.0%} of the ceiling, korsbert {_share(ours, kind, data):.0%}; its min "
        f"cosine is {row[kind]['min_cosine']:.6f}, korsbert's {ours[kind]['min_cosine']:.6f}; alone, a text takes "
        f"{row[kind]['p50_ms']:.2f} ms and {ours[kind]['p50_ms']:.2f} ms."
    )


def _searches(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the search of korsbert's engines in int8 found."""
    lines = [
        f"- {row['name']}: the assignment {'passed' if facts['passed'] else 'DID NOT PASS'} the gate on held-out text; "
        f"{facts['share']:.1%} of the work of all MatMuls is not in int8; {facts['sentences']} calibration sentences."
        for row in data["rows"]
        if "passed" in (facts := row["facts"])
    ]
    if lines:
        yield "korsbert's int8:\n\n" + "\n".join(lines)
