"""What a report writes down: every figure in its place, in a form that others can read."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from exporter.validator.check import Check
from exporter.validator.gates import Verdict
from exporter.validator.parity import compare
from exporter.validator.probes import Probe
from exporter.validator.report import ParityReport
from exporter.validator.sts import StsScore

ROWS = 30
REFERENCE = np.random.default_rng(11).standard_normal((ROWS, 16))
HELD = Verdict("mean cosine", 0.75, 0.5, ">=")
MISSED = Verdict("min cosine", 0.25, 0.5, ">=")
NO_NUMBER = Verdict("similarity drift", float("nan"), 0.1, "<=")
SCORE = StsScore("set.tsv", 7, 80.125, 79.5, 81.0, float("nan"))
SWEEP = Check("sweep", "256 widths were compared", figures={"widths": 256})
WEIGHTS = Check("weights", "10 of 12 weights are accounted for", ("one differs", "one is missing"))


def report_of(candidate: np.ndarray | None = None, *verdicts: Verdict, **changes: Any) -> ParityReport:
    parity = compare(REFERENCE, REFERENCE if candidate is None else candidate, [[row] for row in range(ROWS)])
    probes = tuple(Probe(f"문장 {row}", f"kind {row}") for row in range(ROWS))
    tokens = tuple(range(3, 3 + ROWS))
    report = ParityReport("demo", "CPU", probes, "ab" * 32, tokens, parity, 0.125, (SCORE,), verdicts or (HELD,), None)
    return replace(report, **changes)


def spoiled() -> np.ndarray:
    """Return vectors of which row 4 points the other way, and row 9 is half as long."""
    candidate = REFERENCE.copy()
    candidate[4] *= -1
    candidate[9] /= 2
    return candidate


def test_it_passes_where_every_bound_and_every_check_holds() -> None:
    assert report_of().passed
    assert report_of().with_checks(SWEEP).passed
    assert not report_of().with_checks(SWEEP, WEIGHTS).passed
    assert not report_of(None, HELD, MISSED).passed
    assert not report_of(None, HELD, NO_NUMBER).passed


def test_checks_are_added_to_those_that_are_there() -> None:
    report = report_of().with_checks(SWEEP).with_checks(WEIGHTS)
    assert report.checks == (SWEEP, WEIGHTS)


def test_statistics_are_of_the_rows() -> None:
    report = report_of(spoiled())
    parity, found = report.parity, report.statistics
    assert found["min_cosine"] == parity.cosine.min() == pytest.approx(-1)
    assert found["p01_cosine"] == np.percentile(parity.cosine, 1)
    assert found["mean_cosine"] == pytest.approx((ROWS - 2) / ROWS)
    assert found["min_centered_cosine"] == parity.centered_cosine.min()
    assert found["max_relative_error"] == pytest.approx(2)
    assert found["mean_relative_error"] == pytest.approx(2.5 / ROWS)
    assert found["min_norm_ratio"] == pytest.approx(0.5)
    assert found["max_norm_ratio"] == pytest.approx(1)
    assert found["neighbor_identity"] == (ROWS - 1) / ROWS
    assert found["max_similarity_drift"] == parity.similarity_drift > 0
    assert found["max_batch_deviation"] == 0.125
    assert found["non_finite_rows"] == 0
    assert found["min_neighbor_overlap"] == parity.neighbor_overlap.min() < found["mean_neighbor_overlap"] < 1
    assert found["mean_neighbor_overlap"] == pytest.approx(parity.neighbor_overlap.mean())
    assert "emulator_error" not in found
    assert report_of(emulator_error=0.25).statistics["emulator_error"] == 0.25


def test_the_worst_row_is_that_of_the_smallest_cosine_or_the_first_without_a_number() -> None:
    assert report_of(spoiled()).worst == 4
    broken = spoiled()
    broken[[7, 20]] = np.inf
    assert report_of(broken).worst == 7


def test_a_failure_names_what_was_missed_the_worst_sentence_and_the_cause() -> None:
    report = report_of(spoiled(), HELD, MISSED, NO_NUMBER, cause="a guess").with_checks(WEIGHTS)
    assert report.failure().split("\n") == [
        f"demo: min cosine 0.25 < 0.5; similarity drift nan > 0.1 over {ROWS} probes",
        "  worst: “문장 4” (7 tokens, kind 4)",
        "  likely cause: a guess",
        "  weights: one differs",
        "  weights: one is missing",
    ]
    assert "likely cause" not in report_of(spoiled(), MISSED).failure()


def test_a_failure_of_checks_alone_names_them() -> None:
    report = report_of().with_checks(SWEEP, WEIGHTS)
    assert report.failure().split("\n") == ["demo: weights: one differs", "  weights: one is missing"]


def test_a_long_sentence_is_written_down_by_its_beginning() -> None:
    report = report_of(spoiled())
    probes = (*report.probes[:4], Probe("가" * 5000, "kind"), *report.probes[5:])
    assert replace(report, probes=probes).to_dict()["worst_sentences"][0]["text"] == "가" * 1000


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("가" * 60, "“" + "가" * 60 + "”"),
        ("가" * 61, "“" + "가" * 60 + "…”"),
        ("  두\n줄 ", "“두 줄”"),
        ("종\x07소리\u200b", "“종\\x07소리\\u200b”"),
    ],
)
def test_the_worst_sentence_is_shown_in_one_line_without_control_characters(text: str, shown: str) -> None:
    report = report_of(spoiled(), MISSED)
    probes = (*report.probes[:4], Probe(text, "kind"), *report.probes[5:])
    assert f"worst: {shown} (7 tokens" in replace(report, probes=probes).failure()


def test_as_json_everything_is_there_and_what_is_no_number_is_null() -> None:
    candidate = spoiled()
    candidate[20] = np.nan
    report = report_of(candidate, HELD, NO_NUMBER, cause="a guess").with_checks(SWEEP)
    found = json.loads(report.to_json())
    assert list(found) == [
        "subject", "execution", "passed", "golden", "probes", "probes_sha256", "statistics", "verdicts", "format",
        "stored", "checks", "sts", "worst", "worst_sentences", "pairwise_drift", "cause", "rows",
    ]  # fmt: skip
    assert (found["subject"], found["execution"], found["passed"]) == ("demo", "CPU", False)
    assert (found["probes_sha256"], found["cause"], found["format"]) == ("ab" * 32, "a guess", None)
    assert found["statistics"].keys() == report.statistics.keys()
    assert found["statistics"]["min_cosine"] is None
    assert found["statistics"]["non_finite_rows"] == 1
    assert found["verdicts"] == [
        {"name": "mean cosine", "value": 0.75, "bound": 0.5, "relation": ">=", "relative_to": None, "passed": True},
        {
            "name": "similarity drift",
            "value": None,
            "bound": 0.1,
            "relation": "<=",
            "relative_to": None,
            "passed": False,
        },
    ]
    assert found["checks"] == [
        {
            "name": "sweep",
            "passed": True,
            "compared": True,
            "coverage": SWEEP.coverage,
            "failures": [],
            "figures": {"widths": 256},
        }
    ]
    assert found["sts"] == [
        {
            "name": "set.tsv",
            "pairs": 7,
            "reference_spearman": 80.125,
            "candidate_spearman": 79.5,
            "reference_pearson": 81.0,
            "candidate_pearson": None,
        }
    ]
    assert found["worst"] == {"row": 20, "text": "문장 20", **found["rows"][20]}
    assert [one["row"] for one in found["worst_sentences"]][:2] == [20, 4]
    assert found["worst_sentences"][1] == {"row": 4, "text": "문장 4", **found["rows"][4]}
    assert len(found["worst_sentences"]) == 10
    assert found["pairwise_drift"]["pairs"] == report.parity.drift_counts.tolist()
    assert len(found["pairwise_drift"]["edges"]) == len(found["pairwise_drift"]["pairs"]) + 1
    assert found["rows"][20] == {"kind": "kind 20", "tokens": 23, "cosine": None, "relative_error": None}
    assert found["rows"][9]["relative_error"] == pytest.approx(0.5)
    assert found["rows"][9]["cosine"] == pytest.approx(1)
    assert len(found["rows"]) == ROWS
    assert '\n "subject": "demo",\n' in report.to_json()  # a line each, to be read and compared
    assert "문장" in report.to_json()  # as it is, not escaped


def test_the_summary_is_one_line() -> None:
    assert report_of(spoiled()).summary() == (
        f"min cosine -1, mean {(ROWS - 2) / ROWS:.3f}, neighbors {(ROWS - 1) / ROWS:.2%}, "
        "set.tsv Spearman 80.12 -> 79.50"
    )
