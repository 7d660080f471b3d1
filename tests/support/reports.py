"""Parity reports, bench results and files of bundles, made in milliseconds: what a page shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from exporter.recipe import Gate
from exporter.report import PageData
from exporter.validator.check import Check
from exporter.validator.gates import judge
from exporter.validator.parity import compare
from exporter.validator.probes import Probe
from exporter.validator.report import ParityReport
from exporter.validator.sts import StsScore
from tests.support.served_bundles import bundle_of

ROWS = 80
REFERENCE = np.random.default_rng(5).standard_normal((ROWS, 24))
GATE = Gate(
    min_cosine=0.9999,
    mean_cosine=0.99995,
    max_relative_error=0.02,
    max_mean_error=0.005,
    max_similarity_drift=0.01,
    mean_neighbor_overlap=0.9,
)
TOKENIZER = Check("tokenizer", "80 texts and 100 vocabulary entries", ("truncation is 4, the files say 128",))
SWEEP = Check("sweep", "256 widths were compared")
SKIPPED = Check.skipped("weights", "a golden file has no weights")


def parity_report(*checks: Check, worst: float = 1e-4, **changes: Any) -> ParityReport:
    """Return a report about vectors with noise.

    Args:
        checks: What was checked.
        worst: How large the noise of the last ten probes is; above 0.02 the gate fails.
        changes: Other fields of the report.
    """
    noise = np.random.default_rng(6).standard_normal(REFERENCE.shape) * 1e-4
    noise[-10:] *= worst / 1e-4
    kinds = ("law", "weather", "edge: emoji", "edge: empty")
    probes = tuple(Probe(f"문장 {row} of 말뭉치", kinds[row % 4]) for row in range(ROWS))
    parity = compare(REFERENCE, REFERENCE + noise, [[row] for row in range(ROWS)])
    score = StsScore("kor-sts.tsv", 7, 80.125, 80.1, 81.0, 80.0)
    report = ParityReport(
        subject="demo fp16 on onnxruntime",
        execution="CPUExecutionProvider",
        probes=probes,
        probes_sha256="ab" * 32,
        tokens=tuple(2 + row * row // 8 for row in range(ROWS)),
        parity=parity,
        batch_deviation=0.0,
        sts=(score,),
        verdicts=judge(parity, 0.0, (score,), GATE),
        cause="the vectors of long texts differ" if worst > 0.02 else None,
    )
    return replace(report, **changes).with_checks(*checks)


def manifest() -> dict[str, Any]:
    """Return the manifest of an int8 bundle as JSON data."""
    return bundle_of("onnxruntime", "int8").manifest.sealed().model_dump(mode="json")


def int8_json() -> dict[str, Any]:
    """Return what a page reads of ``int8.json``: A was refused by the emulator, B by its engine, and C was chosen."""

    def candidate(label: str, time: float, loss: float, result: str, reason: str, engine: float | None) -> Any:
        def told(lost: float) -> dict[str, Any]:
            return {"min_cosine": 1 - lost, "mean_cosine": 1 - lost / 3, "budget_used": lost / 0.03, "tightest": "x"}

        return {
            "label": label,
            "share_excluded": time / 2,
            "relative_time": time,
            "emulated": told(loss),
            "engine": None if engine is None else told(engine),
            "result": result,
            "reason": reason,
        }

    return {
        "scheme": {"fallback_dtype": "fp32"},
        "text": "120 held-out sentences (calibration: the sentences that ship)",
        "gate": {"min_cosine": 0.97, "mean_cosine": 0.99, "margin": 0.8},
        "candidates": [
            candidate("A", 0.35, 0.05, "rejected", "emulated, it uses 167% of what the gate allows", None),
            candidate("B", 0.4, 0.02, "rejected", "its engine uses 93% of what the gate allows", 0.028),
            candidate("C", 0.5, 0.01, "chosen", "the fastest that passes", 0.011),
            candidate("D", 0.6, 0.008, "not needed", "slower than the chosen one", None),
        ],
    }


def fp16_json() -> dict[str, Any]:
    """Return what a page reads of ``fp16.json``."""
    return {
        "limit": 65504.0,
        "headroom": 4.0,
        "sentences": 582,
        "nodes": 200,
        "kept_in_float32": 1,
        "largest": [
            {"node": "layer.3/MatMul", "value": 30123.4, "float32": True},
            {"node": "layer.2/Add", "value": 117.6, "float32": False},
        ],
    }


def throughput() -> dict[str, Any]:
    """Return a result of ``korsbert bench`` as JSON data."""
    fields = ("name", "sentences_per_s", "p50_ms", "p99_ms", "ratio", "round_s")
    rows = (
        ("sentence-transformers fp32", 33.0, 22.4, 716.1, 1.0, [15.7, 17.9]),
        ("demo int8 on onnxruntime", 228.0, 0.81, 33.9, 6.85, [2.4, 2.5]),
    )
    return {
        "subjects": [dict(zip(fields, row, strict=True)) for row in rows],
        "conditions": "560 sentences, batch 32, CPU threads 2",
        "facts": {},
        "verdict": None,
    }


def comparison(*, worst: float = 1e-4, vectors_only: bool = False) -> dict[str, Any]:
    """Return a result of ``korsbert compare`` as JSON data.

    Args:
        worst: As in ``parity_report``.
        vectors_only: Whether two files of vectors were compared: without texts, lengths and speed.
    """
    report = parity_report(worst=worst).to_dict()
    side = {
        "kind": "vectors" if vectors_only else "bundle",
        "checkpoint": None,
        "bundle": None,
        "precision": None if vectors_only else "fp16",
        "judged_as": "fp16",
        "dimension": 24,
        "dtype": "float32",
        "norm": {"min": 4.0, "mean": 5.0, "max": 6.0},
        "size_bytes": None if vectors_only else 5_025_097,
        "execution": None,
    }
    told = "yes" if report["passed"] else "no"
    return {
        "passed": report["passed"],
        "sentence": f"vectors stored with A can be searched with B: {told}, top-10 overlap 0.998 (at least 0.979)",
        "a": {**side, "given": "old", "told": "a bundle"},
        "b": {**side, "given": "new", "told": "another one"},
        "text": {"source": "my.txt", "rows": ROWS, "rows_a": ROWS, "rows_b": ROWS, "matched_by": "text"},
        "search": {
            "k": 10,
            "queries": 20,
            "corpus": 60,
            "similarity": "cosine",
            "a_searched_with_b": {"mean": 0.998, "min": 0.9},
            "b_searched_with_a": None,
            "within": {"mean": 0.997, "min": 0.8},
        },
        "statistics": report["statistics"],
        "verdicts": report["verdicts"],
        "checks": [SWEEP.to_dict()],
        "sts": report["sts"],
        "speed": None if vectors_only else {key: throughput()[key] for key in ("subjects", "conditions", "facts")},
        "notes": ["A and B were made from one checkpoint."],
        "worst": [
            {"label": one["text"], "cosine": one["cosine"], "relative_error": one["relative_error"]}
            for one in report["worst_sentences"][:5]
        ],
        "rows": [
            {
                "cosine": row["cosine"],
                "relative_error": row["relative_error"],
                "tokens": None if vectors_only else row["tokens"],
            }
            for row in report["rows"]
        ],
    }


def split(text: str) -> list[str]:
    """Return the tokens of a text, as a tokenizer that splits at spaces would."""
    return ["[CLS]", *text.split(), "[SEP]"]


def data(*reports: ParityReport, **changes: Any) -> PageData:
    """Return what a page shows: everything that there is, unless ``changes`` say otherwise."""
    made = PageData(
        reports=[report.to_dict() for report in reports],
        manifest=manifest(),
        machine={"processor": "a processor", "cores": 2, "system": "Linux x86_64"},
        tools={"korsbert": "0.1.0", "numpy": "2.4.6"},
        command="korsbert validate demo --report page.html",
        date="2026-11-28T00:00:00+00:00",
        split=split,
    )
    return replace(made, **changes)


def tuning() -> dict[str, Any]:
    """Return a result of ``korsbert tune`` as JSON data."""
    rows: tuple[tuple[str, str, float, float, float, list[str], bool], ...] = (
        ("fp32", "onnxruntime", 0.9999999999998, 96.0, 10.5, ["latency"], True),
        ("fp16", "onnxruntime", 0.99999986, 89.0, 10.6, [], False),
        ("bf16", "openvino", 0.99983, 205.0, 5.6, [], True),
        ("int8", "openvino", 0.9926, 232.0, 3.4, ["throughput", "size"], True),
    )
    candidates = [
        {
            "precision": precision, "backend": backend, "device": "cpu", "verdict": "passed", "reason": None,
            "best_at": best_at, "on_front": on_front,
            "measured": {
                "speed": {"sentences_per_s": speed, "p50_ms": 8.0, "p99_ms": 40.0},
                "peak_bytes": 300_000_000, "size_bytes": int(size * 1e6), "min_cosine": cosine,
                "mean_neighbor_overlap": 0.99,
            },
        }
        for precision, backend, cosine, speed, size, best_at, on_front in rows
    ]  # fmt: skip
    refused = {"precision": "bf16", "backend": "onnxruntime", "device": "cpu", "verdict": "not available"}
    candidates.append(
        {**refused, "reason": "the CPU provider cannot", "best_at": [], "on_front": False, "measured": None}
    )
    return {
        "bundle": "artifacts/demo/int8-openvino",
        "winner": "int8 on openvino",
        "goal": "throughput",
        "candidates": candidates,
        "sentence": "int8 on openvino has 1.13 times the throughput of bf16 on openvino: int8 is worth it here",
        "conditions": "256 sentences, batch 32, CPU threads 2",
        "facts": {},
    }
