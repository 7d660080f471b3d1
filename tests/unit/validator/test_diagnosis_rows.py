"""The likely cause, read off which rows failed: each guess at the edge of the next one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from exporter.recipe import Gate
from exporter.validator.diagnosis import likely_cause
from exporter.validator.format_loss import FormatLoss
from exporter.validator.parity import compare
from exporter.validator.probes import Probe

ROWS = 100
REFERENCE = np.random.default_rng(4).standard_normal((ROWS, 8))
SOUND = compare(REFERENCE, REFERENCE, [[row] for row in range(ROWS)])
TOKENS = tuple(range(3, 3 + ROWS))  # row n has n + 3 tokens
GATE = Gate(min_cosine=0.9)
LITTLE, MUCH = 0.1, 0.9
UNEVEN = np.linspace(0.9, 1.1, ROWS)  # no factor, and 1 in the median


def cause(
    failed: Any = (),
    *,
    error: float = MUCH,
    texts: tuple[str, ...] = ("문장",) * ROWS,
    tokens: tuple[int, ...] = TOKENS,
    deviation: float = 0.0,
    gate: Gate = GATE,
    precision: str | None = None,
    loss: FormatLoss | None = None,
    rounded: str | None = None,
    **columns: Any,
) -> str:
    """Return the cause where some rows have a cosine of 0.5, and all rows an error."""
    cosine = np.ones(ROWS)
    cosine[list(failed)] = 0.5
    given = {"cosine": cosine, "relative_error": np.full(ROWS, error), "norm_ratio": UNEVEN} | columns
    probes = tuple(Probe(text, "test") for text in texts)
    more: dict[str, Any] = {} if precision is None else {"precision": precision, "format_loss": loss}
    return likely_cause(replace(SOUND, **given), probes, tokens, deviation, gate, **more, rounded=rounded)


class TestNoNumber:
    def test_one_row(self) -> None:
        cosine = np.ones(ROWS)
        cosine[40] = np.nan
        assert cause(cosine=cosine, non_finite=1).startswith("1 row has NaN or Inf (from 43 tokens on): an overflow")

    def test_several_rows_are_counted_and_the_shortest_is_named(self) -> None:
        cosine = np.ones(ROWS)
        cosine[[70, 20, 90]] = np.nan
        said = cause(cosine=cosine, non_finite=3, deviation=1.0)
        assert said.startswith("3 rows have NaN or Inf (from 23 tokens on): an overflow")


class TestOrder:
    def swapped(self, count: int, others: int) -> str:
        """Return the cause where ``count`` rows fail and are nearest to ``others`` rows that are not their own."""
        neighbor = np.arange(ROWS)
        neighbor[:count] = (np.arange(count) + 1) % others
        return cause(range(count), neighbor=neighbor, deviation=1.0)

    def test_most_rows_must_be_nearest_to_others(self) -> None:
        assert "rows are out of order" in self.swapped(51, 51)
        assert "rows are out of order" not in self.swapped(50, 50)

    def test_rows_that_are_all_nearest_to_a_few_have_another_cause(self) -> None:
        assert "rows are out of order" in self.swapped(100, 76)
        assert "rows are out of order" not in self.swapped(100, 75)

    def test_rows_that_pass_do_not_count(self) -> None:
        assert "rows are out of order" not in cause(neighbor=np.roll(np.arange(ROWS), 1), deviation=1.0)


class TestPadding:
    @pytest.mark.parametrize(
        ("deviation", "bound", "named"),
        [(0.06, None, True), (0.05, None, False), (0.06, 0.1, False), (0.11, 0.1, True), (0.1, 0.1, False)],
    )
    def test_a_large_deviation_that_the_gate_does_not_allow(
        self, deviation: float, bound: float | None, named: bool
    ) -> None:
        said = cause(range(ROWS), deviation=deviation, gate=Gate(min_cosine=0.9, max_batch_deviation=bound))
        assert ("padding is not masked" in said) is named
        if named:
            assert said.startswith(f"a sentence alone and in a batch differ by {deviation:.2g}: ")


class TestLengths:
    @pytest.mark.parametrize(("factor", "named"), [(1.5, True), (0.5, True), (1.0002, True), (1.00005, False)])
    def test_one_factor(self, factor: float, named: bool) -> None:
        said = cause(norm_ratio=np.full(ROWS, factor))
        assert ("multiplied by a factor" in said) is named
        if named:
            assert said.startswith(f"all vectors are {factor:.4g} times as long as the reference's")

    @pytest.mark.parametrize(("spread", "named"), [(0.039, True), (0.041, False)])
    def test_a_factor_is_the_same_for_nearly_all(self, spread: float, named: bool) -> None:
        ratio = np.full(ROWS, 2.0)
        ratio[10:20] += spread
        ratio[:4] = 40.0  # fewer than one in twenty
        assert ("multiplied by a factor" in cause(norm_ratio=ratio)) is named

    def test_a_factor_stands_out_from_rounding(self) -> None:
        noise = np.where(np.arange(ROWS) % 2, 0.004, -0.004)
        assert "multiplied by a factor" in cause(norm_ratio=1.009 + noise)
        assert "multiplied by a factor" not in cause(norm_ratio=1.007 + noise)

    def test_lengths_of_their_own(self) -> None:
        told = "directions agree and lengths do not: a Normalize was dropped or added"
        lengths = np.linspace(1.5, 3, ROWS)
        assert cause(norm_ratio=lengths) == cause(norm_ratio=lengths, precision="bf16", error=0.5) == told
        assert "what bf16 loses" in cause(norm_ratio=lengths, precision="bf16", error=LITTLE)
        assert cause([5], norm_ratio=lengths) != told
        assert cause(norm_ratio=UNEVEN) != told  # 1 in the median


class TestPrecision:
    def test_a_small_error_of_a_typed_graph_is_the_precisions(self) -> None:
        for failed in ((), range(ROWS)):
            said = cause(failed, error=LITTLE, precision="fp16")
            assert said == "the fp32 graph is sound, so this is what fp16 loses: 0.1 of a vector's length in the mean"
        assert "what fp32 loses" not in cause(error=LITTLE, precision="fp32")
        assert "loses" not in cause(error=LITTLE)  # fp32 is meant where nothing is said
        assert "what fp16 loses" in cause(range(ROWS), error=0.149, precision="fp16")
        assert "what fp16 loses" not in cause(range(ROWS), error=0.15, precision="fp16")

    def test_directions_that_agree_in_a_typed_graph_blame_no_epsilon(self) -> None:
        said = cause(error=0.3, precision="int8")
        assert "what int8 loses" in said

    def test_it_is_compared_on_the_rows_that_the_format_was_tried_on(self) -> None:
        lost = np.full(ROWS, 0.05)
        lost[50:] = np.nan
        own = FormatLoss(
            "PyTorch in float16", replace(SOUND, relative_error=lost, cosine=np.where(lost > 0, 1.0, np.nan))
        )
        said = cause(relative_error=np.where(np.arange(ROWS) < 50, 0.1, 0.14), precision="fp16", loss=own)
        assert said.endswith(", 2.00 times what PyTorch in float16 loses")

    def test_a_format_that_loses_nothing_is_not_compared_with(self) -> None:
        own = FormatLoss("PyTorch in float16", SOUND)
        assert cause(error=LITTLE, precision="fp16", loss=own).endswith("in the mean")


class TestRows:
    def test_no_row_fails(self) -> None:
        assert cause().startswith("directions agree within the gate and something finer does not")

    @pytest.mark.parametrize(("upper", "lower", "named"), [(4, 0, True), (3, 0, False), (10, 1, True), (10, 2, False)])
    def test_only_text_with_capital_letters(self, upper: int, lower: int, named: bool) -> None:
        """Ten rows have capital letters and ninety have none."""
        texts = ("Seoul",) * 10 + ("seoul",) * 90
        said = cause([*range(upper), *range(10, 10 + lower)], texts=texts)
        assert (said == "only text with capital letters fails: lower-casing was lost") is named

    def test_without_capital_letters_nothing_is_said_of_them(self) -> None:
        assert "capital" not in cause([1, 2])

    @pytest.mark.parametrize(
        ("failed", "named"),
        [
            (range(60, 100), True),  # all from 63 tokens on
            ([60, *range(80, 100)], True),  # 21 of 40
            ([60, *range(81, 100)], False),  # 20 of 40
            ([50, *range(60, 100)], True),
            ([49, *range(52, 100)], False),  # more than half of the texts are longer
        ],
    )
    def test_only_long_text(self, failed: Any, named: bool) -> None:
        said = cause(failed)
        assert said.startswith(f"only text of {min(failed) + 3} tokens or more fails: truncation or positions") is named

    @pytest.mark.parametrize(
        ("first", "half"),
        [(50, True), (58, True), (59, False), (80, False)],  # of 53, 61, 62 and 83 tokens; the longest has 102
    )
    def test_text_that_is_truncated_at_about_half(self, first: int, half: bool) -> None:
        assert cause(range(first, 100)).endswith(
            ", and the longest has 102: text is truncated at about half" if half else "truncation or positions"
        )

    @pytest.mark.parametrize(("partner", "named"), [(3, True), (9, False)])
    def test_rows_that_have_each_other_s_vectors(self, partner: int, named: bool) -> None:
        neighbor = np.arange(ROWS)
        neighbor[[3, 7]] = 7, partner
        told = "2 rows have another row's vector, and the other one has theirs: answers are swapped in pairs"
        assert (cause([3, 7], neighbor=neighbor, deviation=1.0) == told) is named

    @pytest.mark.parametrize(
        ("rounded", "precision", "named"),
        [("8 bits", "fp32", True), ("8 bits", "int8", True), ("float16", "fp32", True), ("float16", "fp16", False)],
    )
    def test_values_that_are_rounded(self, rounded: str, precision: str, named: bool) -> None:
        said = cause([3, 7], precision=precision, rounded=rounded)
        assert (said == f"every value is a number of {rounded}: the output is rounded to {rounded}") is named

    def test_some_rows_are_counted_with_the_longest_that_passes(self) -> None:
        assert cause(range(90)) == "90 of 100 rows fail, the longest passing one has 102 tokens"
        assert cause([0, 1, 99]) == "3 of 100 rows fail, the longest passing one has 101 tokens"

    @pytest.mark.parametrize(
        ("error", "told"),
        [
            (0.149, "nearly every row is off by a little (0.15): the weights' precision, an epsilon or a function"),
            (0.15, "nearly every row is off by much (0.15): pooling, a layer, positions or the special tokens differ"),
            (0.9, "nearly every row is off by much (0.9): pooling, a layer, positions or the special tokens differ"),
        ],
    )
    def test_nearly_all_rows(self, error: float, told: str) -> None:
        assert cause(range(91), error=error) == told

    def test_a_row_at_the_bound_itself_has_not_failed(self) -> None:
        cosine = np.ones(ROWS)
        cosine[7] = 0.9
        assert cause(cosine=cosine).startswith("directions agree")
