"""The GPU benchmark's figures as Markdown. Reads nothing but the JSON that was written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.results import Target, table, targets_table

FP16 = "sentence-transformers fp16"
# The promises, for a full-size BERT-base on one GPU of Hopper's class.
PROMISED_OF = "ko-sbert-sts"
THROUGHPUT, LATENCY, FLOOR = 2.0, 1 / 3, 0.5


def render(data: dict[str, Any]) -> str:
    """Return the whole report."""
    return "\n\n".join(_sections(data)) + "\n"


def promises(data: dict[str, Any]) -> list[Target]:
    """Return what was promised beside what was measured; nothing where it was no measurement on a GPU."""
    model = data["models"].get(PROMISED_OF, {})
    if data["device"] != "cuda" or data["size"] != "full" or not model.get("complete"):
        return []
    found = []
    many = _of(model, 256, "strings")
    if many and FP16 in many:
        best = max((s["ratio"] for name, s in many.items() if name.startswith("korsbert")), default=0.0)
        found.append(Target(f"batch 256: times the sentences/s of {FP16}", best, THROUGHPUT, at_least=True))
    alone = _of(model, 1, "strings")
    if alone and FP16 in alone:
        best = min((s["p50_ms"] for name, s in alone.items() if name.startswith("korsbert")), default=float("inf"))
        found.append(Target(f"batch 1: p50 relative to {FP16}", best / alone[FP16]["p50_ms"], LATENCY))
    for cell in model["grid"]:
        if (cell["rows"], cell["tokens"]) == (128, 128):
            best = max(
                (s.get("of_floor", 0.0) for n, s in cell["subjects"].items() if n.startswith("korsbert")), default=0
            )
            found.append(Target("128 rows of 128 tokens: share of the floor", best, FLOOR, at_least=True))
    return found


def _of(model: dict[str, Any], batch_size: int, origin: str) -> dict[str, dict[str, Any]]:
    for measured in model.get("sentences_measured", ()):
        if (measured["batch_size"], measured["from"]) == (batch_size, origin):
            return {subject["name"]: subject for subject in measured["subjects"]}
    return {}


def _sections(data: dict[str, Any]) -> Iterator[str]:
    yield "# On one GPU" if data["device"] == "cuda" else "# A dry run on the CPU: no figure of a GPU is in here"
    if data["gpu"] is not None:
        gpu = data["gpu"]
        yield (
            f"{gpu['name']}, compute capability {gpu['compute_capability']}, "
            f"{gpu['memory_bytes'] / 2**30:.0f} GiB, driver {gpu['driver']} (CUDA {gpu['cuda']})."
        )
    rates = ", ".join(f"{name} {rate / 1e12:.4g}" for name, rate in data["ceilings"]["operations_per_s"].items())
    yield (
        f"Measured in this run: matrix multiplications at {rates} TFLOP/s; copies at "
        f"{data['ceilings']['bytes_per_s'] / 1e9:.4g} GB/s, read and written. The floor of a batch is the larger of "
        "its operations over the one and its bytes over the other."
    )
    targets = promises(data)
    if targets:
        yield targets_table(targets)
    for name, model in data["models"].items():
        yield from _model(name, model, data["size"])
    tools = ", ".join(f"{tool} {version}" for tool, version in data["tools"].items())
    yield "{processor}, {cores} cores, {system}".format(**data["machine"]) + f"; {tools}."


def _model(name: str, model: dict[str, Any], size: str) -> Iterator[str]:
    yield f"## {name} (a {size} twin)" + ("" if model.get("complete") else f", {model.get('status', 'cut off')}")
    if "text" not in model:
        return
    shares = ", ".join(
        f"{share:.1%} at batch {rows} ({model['padding_share_unsorted'][rows]:.1%} unsorted)"
        for rows, share in model["padding_share"].items()
    )
    yield (
        f"{model['sentences']} sentences of {model['text']}, {model['tokens_per_sentence']} tokens each, "
        f"{model['longest']} at most. Padding among the tokens computed, sorted by length: {shares}."
    )
    rows = [
        (
            label,
            "; ".join([facts.get("status", "cut off"), *(f"{k} {v}" for k, v in facts.items() if k[:8] == "at batch")]),
            facts.get("gate", ""),
            f"{facts['min_cosine']:.6f}" if "min_cosine" in facts else "",
            f"{facts['memory_mib']:.0f}" if facts.get("memory_mib") is not None else "",
            facts.get("execution", ""),
        )
        for label, facts in model["subjects"].items()
    ]
    yield table(("", "", "gate", "min cosine", "MiB", "execution"), rows)
    for measured in model.get("sentences_measured", ()):
        yield _sentences(measured)
    if model["grid"]:
        yield (
            "Fixed lengths, full rows: device time of a batch (p50, p99), the same by the clock on the wall, and the "
            "share of the floor."
        )
        yield _grid(model["grid"])


def _sentences(measured: dict[str, Any]) -> str:
    header = (
        f"batch {measured['batch_size']}, from {measured['from']}",
        "sentences/s",
        "tokens/s",
        f"vs {measured['subjects'][0]['name']}",
        *(("p50 ms", "p99 ms") if measured["batch_size"] == 1 else ()),
    )
    rows = []
    for subject in measured["subjects"]:
        latency = (f"{subject['p50_ms']:.2f}", f"{subject['p99_ms']:.2f}") if measured["batch_size"] == 1 else ()
        speed = (f"{subject['sentences_per_s']:.0f}", f"{subject['tokens_per_s']:.0f}", f"{subject['ratio']:.2f}x")
        rows.append((subject["name"], *speed, *latency))
    return table(header, rows)


def _grid(grid: list[dict[str, Any]]) -> str:
    rows = []
    for cell in grid:
        for label, figures in cell["subjects"].items():
            shape = f"{cell['rows']} x {cell['tokens']}"
            if "p50_ms" not in figures:
                rows.append((shape, label, figures["status"], "", "", "", ""))
                continue
            rows.append(
                (
                    shape,
                    label,
                    f"{figures['p50_ms']:.3f}",
                    f"{figures['p99_ms']:.3f}",
                    f"{figures['wall_p50_ms']:.3f}",
                    f"{figures['tokens_per_s']:.0f}",
                    f"{figures['of_floor']:.1%}",
                )
            )
    return table(("rows x tokens", "", "p50 ms", "p99 ms", "wall p50 ms", "tokens/s", "of the floor"), rows)
