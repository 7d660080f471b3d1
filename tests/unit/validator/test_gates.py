from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from exporter.recipe import Gate
from exporter.validator.gates import Verdict, judge, significant
from exporter.validator.parity import compare
from exporter.validator.probes import Probe
from exporter.validator.report import ParityReport
from exporter.validator.sts import StsScore

REFERENCE = np.random.default_rng(1).standard_normal((12, 6))
IDS = [[row] for row in range(12)]
EVERY_BOUND = Gate(
    min_cosine=0.999,
    p01_cosine=0.999,
    mean_cosine=0.999,
    min_centered_cosine=0.999,
    max_relative_error=0.01,
    max_similarity_drift=0.01,
    max_batch_deviation=0.01,
)
SCORE = StsScore("set.tsv", 100, 80.0, 79.95, 80.0, 79.9)


def report_of(candidate: np.ndarray, deviation: float = 0.0, score: StsScore = SCORE) -> ParityReport:
    parity = compare(REFERENCE, candidate, IDS)
    verdicts = judge(parity, deviation, (score,), EVERY_BOUND)
    probes = tuple(Probe(f"문장 {row}", "test") for row in range(12))
    return ParityReport("demo", "CPU", probes, "0" * 64, (3,) * 12, parity, deviation, (score,), verdicts, "a guess")


def failed(report: ParityReport) -> set[str]:
    return {verdict.name for verdict in report.verdicts if not verdict.passed}


def test_a_sound_candidate_passes_every_bound() -> None:
    report = report_of(REFERENCE)
    assert report.passed
    assert len(report.verdicts) == 10


def test_each_bound_can_fail() -> None:
    turned = REFERENCE.copy()
    turned[4] = -turned[4]
    assert failed(report_of(turned)) >= {
        "min cosine",
        "1st percentile of cosine",
        "mean cosine",
        "min centred cosine",
        "max relative error",
        "similarity drift",
        "neighbour identity",
    }
    assert failed(report_of(REFERENCE * 1.02)) == {"max relative error"}
    assert failed(report_of(REFERENCE, deviation=0.02)) == {"batch deviation"}
    assert failed(report_of(REFERENCE, score=StsScore("set.tsv", 100, 80.0, 79.85, 80, 80))) == {
        "Spearman drop on set.tsv"
    }


def test_what_is_no_number_fails() -> None:
    broken = REFERENCE.copy()
    broken[2, 2] = np.nan
    report = report_of(broken)
    assert failed(report) >= {"NaN or Inf rows", "min cosine", "mean cosine", "similarity drift"}
    assert report.worst == 2
    assert not report_of(REFERENCE, deviation=float("nan")).passed
    nan = StsScore("set.tsv", 100, 80.0, float("nan"), 80, 80)
    assert not report_of(REFERENCE, score=nan).passed


def test_a_bound_holds_at_its_very_value() -> None:
    assert Verdict("x", 0.5, 0.5, ">=").passed
    assert Verdict("x", 0.5, 0.5, "<=").passed
    assert not Verdict("x", 0.4999, 0.5, ">=").passed


def test_the_failure_names_the_worst_sentence_its_length_and_the_cause() -> None:
    turned = REFERENCE.copy()
    turned[4] = -turned[4]
    text = report_of(turned).failure()
    assert "demo: min cosine -1" in text
    assert "“문장 4” (3 tokens, test)" in text
    assert "likely cause: a guess" in text


def test_the_report_is_json_and_junit_also_with_nan() -> None:
    broken = REFERENCE.copy()
    broken[2, 2] = np.nan
    for report in (report_of(REFERENCE), report_of(broken)):
        assert len(json.loads(report.to_json())["rows"]) == 12
        suite = ET.fromstring(report.to_junit())
        assert suite.get("tests") == "10"
        assert int(suite.get("failures", "")) == len(failed(report)) == len(suite.findall("testcase/failure"))


@pytest.mark.parametrize(
    ("value", "text"), [(0.99999987, "0.99999987"), (1.0, "1"), (0.5, "0.5"), (0.995, "0.9950"), (float("nan"), "nan")]
)
def test_figures_show_their_distance_from_one(value: float, text: str) -> None:
    assert significant(value) == text
