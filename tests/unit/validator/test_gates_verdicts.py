"""How verdicts read, and in which direction each bound holds."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.recipe import Gate
from exporter.validator.format_loss import FormatLoss
from exporter.validator.gates import Verdict, judge, norm_bias, norm_error, not_compared
from exporter.validator.parity import compare
from exporter.validator.sts import StsScore

REFERENCE = np.random.default_rng(5).standard_normal((20, 8))
IDS = [[row] for row in range(20)]
GATE = Gate(
    min_cosine=0.9,
    p01_cosine=0.9,
    mean_cosine=0.9,
    min_centered_cosine=0.9,
    max_relative_error=0.5,
    max_mean_error=0.5,
    max_norm_error=0.5,
    max_norm_bias=0.5,
    mean_neighbor_overlap=0.5,
    min_neighbor_overlap=0.5,
    max_similarity_drift=0.5,
    max_batch_deviation=0.5,
    max_spearman_drop=0.5,
)
AT_LEAST = {
    "min cosine",
    "min centered cosine",
    "1st percentile of cosine",
    "mean cosine",
    "mean neighbor overlap",
    "min neighbor overlap",
    "neighbor identity",
}
AT_MOST = {
    "max relative error",
    "NaN or Inf rows",
    "mean relative error",
    "norm error",
    "norm bias",
    "similarity drift",
    "batch deviation",
    "Spearman drop on set.tsv",
}


@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        (Verdict("a", 0.5, 0.25, ">="), "a 0.5 >= 0.25"),
        (Verdict("a", 0.25, 0.5, ">="), "a 0.25 < 0.5"),
        (Verdict("a", 0.25, 0.5, "<="), "a 0.25 <= 0.5"),
        (Verdict("a", 0.5, 0.25, "<="), "a 0.5 > 0.25"),
        (Verdict("a", 0.99999987, 0.999, ">=", relative_to="twice b"), "a 0.99999987 >= 0.9990 (twice b)"),
        (Verdict("a", float("nan"), 0.5, ">="), "a nan < 0.5"),
    ],
)
def test_a_verdict_reads_as_it_is(verdict: Verdict, text: str) -> None:
    assert str(verdict) == text


def test_a_verdict_is_of_a_fixed_bound_unless_it_says_otherwise() -> None:
    assert Verdict("a", 0.5, 0.25, ">=").relative_to is None


def test_every_bound_of_the_gate_has_a_verdict_in_its_direction() -> None:
    verdicts = judge(compare(REFERENCE, REFERENCE, IDS), 0.25, (StsScore("set.tsv", 3, 80, 79.75, 0, 0),), GATE)
    assert {verdict.name for verdict in verdicts if verdict.relation == ">="} == AT_LEAST
    assert {verdict.name for verdict in verdicts if verdict.relation == "<="} == AT_MOST
    values = {verdict.name: verdict.value for verdict in verdicts}
    assert values["batch deviation"] == values["Spearman drop on set.tsv"] == 0.25
    assert values["NaN or Inf rows"] == values["max relative error"] == values["norm error"] == 0
    assert values["mean neighbor overlap"] == values["min neighbor overlap"] == values["neighbor identity"] == 1
    bounds = {verdict.name: verdict.bound for verdict in verdicts}
    assert bounds.pop("NaN or Inf rows") == 0
    assert bounds.pop("neighbor identity") == 1
    assert set(bounds.values()) == {0.9, 0.5}


def test_a_bound_that_the_gate_does_not_state_has_no_verdict() -> None:
    verdicts = judge(
        compare(REFERENCE, REFERENCE, IDS), 9.0, (StsScore("set.tsv", 3, 80, 0, 0, 0),), Gate(min_cosine=0.9)
    )
    assert {verdict.name for verdict in verdicts} >= {"min cosine", "NaN or Inf rows", "neighbor identity"}
    assert not {"batch deviation", "mean cosine", "norm error"} & {verdict.name for verdict in verdicts}


def test_identity_says_of_how_many_probes_it_is() -> None:
    parity = compare(REFERENCE, REFERENCE, IDS)
    (identity,) = (one for one in judge(parity, 0.0, (), GATE) if one.name == "neighbor identity")
    assert identity.relative_to == (
        "the 20 probes whose nearest other is farther than the bound of the cosine lets a vector move"
    )
    equal = compare(np.ones((4, 3)), np.ones((4, 3)), [[row] for row in range(4)])
    coarse = GATE.model_copy(update={"rounding_distance": 0.1})
    assert "neighbor identity" not in {verdict.name for verdict in judge(equal, 0.0, (), coarse)}


def test_what_has_no_verdict_is_said_with_its_reason() -> None:
    sound, lost = compare(REFERENCE, REFERENCE, IDS), compare(REFERENCE, REFERENCE * np.nan, IDS)
    assert not_compared(sound, GATE, FormatLoss("PyTorch in float16", sound)) == ()
    assert not_compared(sound, GATE, None) == ()
    (overflow,) = not_compared(sound, GATE, FormatLoss("PyTorch in float16", lost))
    assert (overflow.name, overflow.passed) == ("format", True)
    assert overflow.coverage == "not compared: PyTorch in float16 gives NaN or Inf for every probe"
    alike = compare(np.ones((4, 3)), np.ones((4, 3)), [[row] for row in range(4)])
    (swapped,) = not_compared(alike, GATE, None)
    assert (swapped.name, swapped.passed) == ("neighbor identity", True)
    assert swapped.coverage == (
        "not compared: no probe is farther from all others than rounding may move a vector (0.45)"
    )


def test_norms() -> None:
    factors = np.ones((20, 1))
    factors[0], factors[1] = 1.2, 0.9
    parity = compare(REFERENCE, REFERENCE * factors, IDS)
    assert norm_error(parity) == pytest.approx(0.2)
    assert norm_bias(parity) == pytest.approx(0.005)
    shorter = compare(REFERENCE, REFERENCE * 0.75, IDS)
    assert (norm_error(shorter), norm_bias(shorter)) == pytest.approx((0.25, 0.25))
    broken = REFERENCE.copy()
    broken[3] = np.nan
    assert np.isnan([norm_error(compare(REFERENCE, broken, IDS)), norm_bias(compare(REFERENCE, broken, IDS))]).all()


class TestWidened:
    """Rows 0 and 1 lose in the format; row 2 is unknown there, and the others lose nothing."""

    gate = Gate(min_cosine=0.5, max_relative_error=0.1, max_format_ratio=2.0, max_widening=3.0)

    def judged(self, **errors: float) -> dict[str, Verdict]:
        lost, found = np.ones((20, 1)), np.ones((20, 1))
        lost[0], lost[1], lost[2] = 1.08, 1.4, np.nan
        for row, error in errors.items():
            found[int(row[1:])] = 1 + error
        own = FormatLoss("PyTorch in bfloat16", compare(REFERENCE, REFERENCE * lost, IDS))
        verdicts = judge(compare(REFERENCE, REFERENCE * found, IDS), 0.0, (), self.gate, own)
        return {verdict.name: verdict for verdict in verdicts}

    def test_by_twice_what_the_format_loses_on_the_probe(self) -> None:
        verdict = self.judged(r0=0.15)["max relative error, widened for 2 probes"]
        assert (verdict.value, verdict.bound) == pytest.approx((0.15, 0.16))
        assert verdict.passed
        assert verdict.relative_to == "2 times the distance PyTorch in bfloat16 loses on that probe"
        assert not self.judged(r0=0.17)["max relative error, widened for 2 probes"].passed

    def test_by_three_times_the_fixed_bound_at_most(self) -> None:
        assert self.judged(r1=0.29)["max relative error, widened for 2 probes"].passed
        verdict = self.judged(r1=0.31)["max relative error, widened for 2 probes"]
        assert not verdict.passed
        assert verdict.bound == pytest.approx(0.3)

    def test_for_no_other_probe_and_for_none_that_is_unknown(self) -> None:
        for row in ("r2", "r3"):
            judged = self.judged(**{row: 0.11})
            assert not judged["max relative error"].passed
            assert judged["max relative error, widened for 2 probes"].passed

    def test_the_probe_that_uses_up_most_is_shown(self) -> None:
        verdict = self.judged(r0=0.15, r1=0.2)["max relative error, widened for 2 probes"]
        assert (verdict.value, verdict.bound) == pytest.approx((0.15, 0.16))
        assert np.isnan(self.judged(r0=0.15, r1=np.nan)["max relative error, widened for 2 probes"].value)
