"""Promises are judged on a whole measurement of a full-size twin on a GPU, and on nothing else."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from benchmarks.gpu import padding_share
from benchmarks.gpu_report import FP16, PROMISED_OF, promises, render

OURS = "korsbert onnxruntime fp16"


def subject(name: str, ratio: float, p50_ms: float) -> dict[str, Any]:
    return {
        "name": name,
        "ratio": ratio,
        "p50_ms": p50_ms,
        "p99_ms": 2 * p50_ms,
        "sentences_per_s": 1000.0,
        "tokens_per_s": 14000.0,
    }


DATA: dict[str, Any] = {
    "device": "cuda",
    "size": "full",
    "gpu": {
        "name": "Imagined GPU",
        "compute_capability": "9.0",
        "memory_bytes": 80 * 2**30,
        "driver": "1.2",
        "cuda": "13.0",
    },
    "machine": {"processor": "Imagined", "cores": 2, "system": "Linux"},
    "tools": {"torch": "2"},
    "ceilings": {"operations_per_s": {"fp16": 8e14}, "bytes_per_s": 3e12},
    "models": {
        PROMISED_OF: {
            "complete": True,
            "text": "korsts",
            "sentences": 10,
            "tokens_per_sentence": 14.0,
            "longest": 40,
            "padding_share": {"1": 0.0, "256": 0.1},
            "padding_share_unsorted": {"1": 0.0, "256": 0.5},
            "subjects": {
                FP16: {"status": "measured", "min_cosine": 0.9999, "memory_mib": 300.0, "execution": "torch"},
                "korsbert tensorrt fp16": {"status": "unavailable: tensorrt is not installed"},
            },
            "sentences_measured": [
                {"batch_size": 1, "from": "strings", "subjects": [subject(FP16, 1, 6.0), subject(OURS, 4, 1.5)]},
                {"batch_size": 256, "from": "strings", "subjects": [subject(FP16, 1, 6.0), subject(OURS, 2.5, 2)]},
            ],
            "grid": [
                {
                    "rows": 128,
                    "tokens": 128,
                    "subjects": {
                        OURS: {
                            "p50_ms": 7.0,
                            "p99_ms": 8.0,
                            "wall_p50_ms": 7.5,
                            "tokens_per_s": 2e6,
                            "of_floor": 0.45,
                        },
                        FP16: {"status": "failed: out of memory"},
                    },
                }
            ],
        }
    },
}


def test_promises_and_what_was_reached() -> None:
    found = {target.name: (target.value, target.met) for target in promises(DATA)}
    assert found == {
        f"batch 256: times the sentences/s of {FP16}": (2.5, True),
        f"batch 1: p50 relative to {FP16}": (0.25, True),
        "128 rows of 128 tokens: share of the floor": (0.45, False),
    }


@pytest.mark.parametrize("change", [{"device": "cpu"}, {"size": "small"}, {"models": {}}])
def test_nothing_is_promised_of_a_dry_run(change: dict[str, Any]) -> None:
    assert promises({**DATA, **change}) == []


def test_nor_of_a_model_that_was_cut_off() -> None:
    data = copy.deepcopy(DATA)
    data["models"][PROMISED_OF]["complete"] = False
    assert promises(data) == []
    assert "cut off" in render(data)


def test_the_report_says_what_was_not_there_and_what_failed() -> None:
    text = render(DATA)
    assert "unavailable: tensorrt is not installed" in text
    assert "| 128 x 128 | sentence-transformers fp16 | failed: out of memory |" in text
    assert "NOT MET" in text
    assert "Imagined GPU, compute capability 9.0, 80 GiB" in text


def test_a_dry_run_calls_itself_one() -> None:
    assert render({**DATA, "device": "cpu", "gpu": None}).startswith("# A dry run on the CPU: no figure of a GPU")


def test_padding_is_what_sorting_leaves() -> None:
    assert padding_share([4, 4, 4, 4], 2) == 0
    assert padding_share([1, 9, 1, 9], 2) == 0, "sorted, equal lengths meet"
    assert padding_share([1, 3], 2) == pytest.approx(1 / 3)
