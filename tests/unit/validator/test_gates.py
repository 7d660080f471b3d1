from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest

from exporter.recipe import Gate, Gates
from exporter.validator.format_loss import FormatLoss
from exporter.validator.gates import Verdict, judge, significant
from exporter.validator.junit import junit_of
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
    max_mean_error=0.005,
    max_norm_error=0.004,
    max_norm_bias=0.002,
    mean_neighbor_overlap=0.9,
    min_neighbor_overlap=0.6,
    max_similarity_drift=0.01,
    max_batch_deviation=0.01,
)
SCORE = StsScore("set.tsv", 100, 80.0, 79.95, 80.0, 79.9)


def report_of(
    candidate: np.ndarray,
    deviation: float = 0.0,
    score: StsScore = SCORE,
    *,
    reference: np.ndarray = REFERENCE,
) -> ParityReport:
    parity = compare(reference, candidate, [[row] for row in range(len(reference))])
    verdicts = judge(parity, deviation, (score,), EVERY_BOUND)
    probes = tuple(Probe(f"문장 {row}", "test") for row in range(len(reference)))
    return ParityReport(
        "demo", "CPU", probes, "0" * 64, (3,) * len(probes), parity, deviation, (score,), verdicts, "a guess"
    )


def failed(report: ParityReport) -> set[str]:
    return {verdict.name for verdict in report.verdicts if not verdict.passed}


def test_a_sound_candidate_passes_every_bound() -> None:
    report = report_of(REFERENCE)
    assert report.passed
    assert len(report.verdicts) == 15


def test_each_bound_can_fail() -> None:
    turned = REFERENCE.copy()
    turned[4] = -turned[4]
    assert failed(report_of(turned)) >= {
        "min cosine",
        "1st percentile of cosine",
        "mean cosine",
        "min centered cosine",
        "max relative error",
        "similarity drift",
        "neighbor identity",
    }
    assert failed(report_of(REFERENCE, deviation=0.02)) == {"batch deviation"}
    assert failed(report_of(REFERENCE, score=StsScore("set.tsv", 100, 80.0, 79.85, 80, 80))) == {
        "Spearman drop on set.tsv"
    }


def test_only_the_norm_shows_a_factor() -> None:
    assert failed(report_of(REFERENCE * 1.003)) == failed(report_of(REFERENCE * 0.997)) == {"norm bias"}
    assert failed(report_of(REFERENCE * 1.0015)) == set()


def test_only_the_norm_error_shows_one_vector_that_is_too_long() -> None:
    for factor in (1.0045, 0.9955):
        one = REFERENCE.copy()
        one[3] *= factor
        assert failed(report_of(one)) == {"norm error"}


def test_only_the_mean_shows_what_is_everywhere_and_nowhere_large() -> None:
    turned = REFERENCE @ _rotation(0.008)
    assert failed(report_of(turned)) == {"mean relative error"}
    one = REFERENCE.copy()
    one[0] = turned[0]
    assert failed(report_of(one)) == set()


def test_only_the_relative_error_shows_a_shorter_vector_with_a_turn() -> None:
    """Each of length, direction and mean is within its bound, and one row's error is not."""
    one = REFERENCE.copy()
    one[4] = REFERENCE[4] @ _rotation(0.0105)
    assert failed(report_of(one)) == {"max relative error"}


def _rotation(angle: float) -> np.ndarray:
    """Return a matrix that turns every vector of six numbers by ``angle``."""
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return np.kron(np.eye(3), turn)


# Two groups of texts that hardly differ from each other: whose neighbor is whose is decided by little.
CLUSTERS = np.concatenate([np.random.default_rng(2).normal(center, 1e-4, (20, 8)) for center in (1.0, -1.0)])
CLUSTERS[:, 0] += 3


def test_only_the_mean_overlap_shows_neighbors_that_are_shuffled() -> None:
    noise = np.random.default_rng(3).normal(0, 4e-5, CLUSTERS.shape)
    assert failed(report_of(CLUSTERS + noise, reference=CLUSTERS)) == {"mean neighbor overlap"}


def test_only_the_smallest_overlap_shows_one_text_with_other_neighbors() -> None:
    one = CLUSTERS.copy()
    one[7] += np.random.default_rng(9).normal(0, 8e-4, 8)
    assert failed(report_of(one, reference=CLUSTERS)) == {"min neighbor overlap"}


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
        suite = ET.fromstring(junit_of([report]))
        assert suite.get("tests") == "15"
        assert int(suite.get("failures", "")) == len(failed(report)) == len(suite.findall("testcase/failure"))


RELATIVE = Gate(
    min_cosine=0.9999,
    min_centered_cosine=0.9999,
    max_relative_error=0.1,
    max_mean_format_ratio=1.5,
    max_format_ratio=1.5,
)
WIDENED = RELATIVE.model_copy(update={"max_widening": 2.0})


def format_loss(*angles: float) -> FormatLoss:
    """Return the loss of a format that turns row after row by ``angles``, and the others by none."""
    vectors = REFERENCE.copy()
    for row, angle in enumerate(angles):
        vectors[row] = REFERENCE[row] @ _rotation(angle)
    return FormatLoss("PyTorch in bfloat16", compare(REFERENCE, vectors, IDS))


def verdicts_on(angles: dict[int, float], gate: Gate, loss: FormatLoss | None) -> dict[str, Verdict]:
    candidate = REFERENCE.copy()
    for row, angle in angles.items():
        candidate[row] = REFERENCE[row] @ _rotation(angle)
    return {verdict.name: verdict for verdict in judge(compare(REFERENCE, candidate, IDS), 0.0, (), gate, loss)}


def test_a_candidate_may_lose_so_many_times_what_the_format_loses() -> None:
    loss = format_loss(*[0.004] * 12)
    sound = verdicts_on(dict.fromkeys(range(12), 0.0055), RELATIVE, loss)
    assert all(verdict.passed for verdict in sound.values())
    faulty = verdicts_on(dict.fromkeys(range(12), 0.0065), RELATIVE, loss)
    assert {name for name, verdict in faulty.items() if not verdict.passed} == {
        "mean relative error against the format",
        "max relative error against the format",
    }
    (said,) = {verdict.relative_to for verdict in faulty.values() if not verdict.passed}
    assert said == "1.5 times what PyTorch in bfloat16 loses"
    one = verdicts_on({3: 0.0065}, RELATIVE, loss)
    assert [name for name, verdict in one.items() if not verdict.passed] == ["max relative error against the format"]


def test_without_a_format_s_loss_only_the_fixed_bounds_are_judged() -> None:
    assert set(verdicts_on({}, WIDENED, None)) == set(verdicts_on({}, WIDENED, format_loss(*[float("nan")] * 12)))
    assert "mean relative error against the format" not in verdicts_on({}, WIDENED, None)
    assert not verdicts_on({2: 0.02}, WIDENED, format_loss(*[float("nan")] * 12))["min cosine"].passed


def test_a_format_that_loses_nothing_leaves_float32_s_own_rounding() -> None:
    exact = format_loss()
    assert all(verdict.passed for verdict in verdicts_on({1: 1e-5}, RELATIVE, exact).values())
    assert not verdicts_on({1: 3e-5}, RELATIVE, exact)["max relative error against the format"].passed


def test_only_the_emulator_shows_a_fault_that_is_smaller_than_int8_s_own_loss() -> None:
    """The candidate is no farther from the reference than the emulator is, and somewhere else."""
    gate = Gate(min_cosine=0.97, max_relative_error=0.2, max_mean_error=0.1, max_emulator_ratio=0.6)
    emulated = REFERENCE @ _rotation(0.05)
    loss = FormatLoss("the emulator", compare(REFERENCE, emulated, IDS), emulated.astype(np.float32))

    def failures(candidate: np.ndarray) -> set[str]:
        parity, error = compare(REFERENCE, candidate, IDS), loss.emulator_error(candidate.astype(np.float32))
        return {verdict.name for verdict in judge(parity, 0.0, (), gate, loss, error) if not verdict.passed}

    assert failures(emulated) == failures(REFERENCE @ _rotation(0.025)) == set()
    assert failures(REFERENCE @ _rotation(-0.05)) == {"difference from the emulator"}


def test_a_difference_from_the_emulator_that_rounding_alone_makes_is_no_fault() -> None:
    """What is measured of rounding widens the bound, by the gate's ratio and no more."""
    gate = Gate(min_cosine=0.97, max_emulator_ratio=0.6, max_rounding_ratio=1.5)
    emulated = REFERENCE @ _rotation(0.05)
    loss = FormatLoss("the emulator", compare(REFERENCE, emulated, IDS), emulated.astype(np.float32))

    def verdict_on(error: float, rounding: float | None, gate: Gate = gate) -> Verdict:
        return judge(compare(REFERENCE, emulated, IDS), 0.0, (), gate, loss, error, rounding)[-1]

    limit = 0.6 * loss.mean_relative_error
    assert verdict_on(limit * 0.99, None).passed
    assert not verdict_on(limit * 1.01, None).passed
    widened = verdict_on(limit * 1.49, limit)
    assert widened.passed
    assert widened.name == "difference from the emulator, widened"
    assert widened.bound == pytest.approx(1.5 * limit)
    assert widened.relative_to == "1.5 times what rounding alone changes in the emulator"
    assert not verdict_on(limit * 1.51, limit).passed
    assert not verdict_on(limit * 1.01, 0.0).passed
    assert not verdict_on(limit * 1.01, limit, gate.model_copy(update={"max_rounding_ratio": 0.0})).passed
    assert not verdict_on(float("nan"), limit).passed
    assert not verdict_on(limit * 1.01, float("nan")).passed


ANGLE = np.arccos(0.9999)  # what the fixed bound allows
LIMIT = np.arccos(0.9998)  # what twice the loss is


def test_a_bound_is_widened_on_the_probe_where_the_format_itself_loses_more() -> None:
    loss = format_loss(ANGLE * 0.8)
    found = verdicts_on({0: ANGLE * 1.1}, WIDENED, loss)
    assert all(verdict.passed for verdict in found.values())
    widened = found["min cosine, widened for 1 probes"]
    assert widened.relative_to == "1.5 times the distance PyTorch in bfloat16 loses on that probe"
    assert 0.9998 < widened.bound < 0.9999
    assert widened.bound == pytest.approx(1 - 1.5**2 * (1 - np.cos(ANGLE * 0.8)))
    assert not verdicts_on({0: ANGLE * 1.1}, RELATIVE, loss)["min cosine"].passed  # where no widening is allowed


def test_another_probe_is_not_widened_with_it() -> None:
    loss = format_loss(ANGLE * 1.05)
    assert not verdicts_on({0: ANGLE, 5: ANGLE * 1.05}, WIDENED, loss)["min cosine"].passed


def test_no_format_s_loss_widens_a_bound_by_more_than_the_gate_says() -> None:
    for lost in (LIMIT, 0.5, np.pi):
        loss = format_loss(*[lost] * 12)
        assert verdicts_on({4: LIMIT * 0.99}, WIDENED, loss)["min cosine, widened for 12 probes"].passed
        assert not verdicts_on({4: LIMIT * 1.01}, WIDENED, loss)["min cosine, widened for 12 probes"].passed


def test_nothing_is_widened_for_a_candidate_that_is_no_number() -> None:
    loss = format_loss(LIMIT)
    found = verdicts_on({0: float("nan")}, WIDENED, loss)
    assert not found["min cosine, widened for 1 probes"].passed
    assert not found["NaN or Inf rows"].passed


def test_the_report_says_what_bounds_were_relative_to() -> None:
    loss = format_loss(ANGLE * 1.05)
    parity = compare(REFERENCE, REFERENCE, IDS)
    plain = report_of(REFERENCE)
    report = replace(plain, verdicts=judge(parity, 0.0, (), WIDENED, loss), format_loss=loss, emulator_error=0.25)
    content = json.loads(report.to_json())
    assert content["format"]["source"] == "PyTorch in bfloat16"
    assert content["format"]["probes"] == 12
    assert content["format"]["min_cosine"] == pytest.approx(np.cos(ANGLE * 1.05))
    assert content["statistics"]["emulator_error"] == 0.25
    assert "1.5 times what PyTorch in bfloat16 loses" in {verdict["relative_to"] for verdict in content["verdicts"]}
    assert json.loads(plain.to_json())["format"] is None


@pytest.mark.parametrize(
    ("value", "text"), [(0.99999987, "0.99999987"), (1.0, "1"), (0.5, "0.5"), (0.995, "0.9950"), (float("nan"), "nan")]
)
def test_figures_show_their_distance_from_one(value: float, text: str) -> None:
    assert significant(value) == text


def test_a_bundle_that_knows_no_widening_by_rounding_is_not_weaker_than_one_that_does() -> None:
    stated = Gates().int8.model_dump()
    del stated["max_rounding_ratio"]
    older = Gate.model_validate(stated)
    assert older.weaker_bounds(Gates().int8) == ()
    assert older.tightened(Gates().int8).max_rounding_ratio == 0
    assert Gates().int8.weaker_bounds(older) == ("max_rounding_ratio",)
