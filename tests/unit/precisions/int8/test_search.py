"""The search against a judge whose answers are known: losses that add up."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from exporter.precisions.int8.calibrate import Calibrated, Trial
from exporter.precisions.int8.judge import MARGIN, Judge, Loss
from exporter.precisions.int8.matmuls import MatMul
from exporter.precisions.int8.scheme import STATIC, Quantization
from exporter.precisions.int8.search import MAX_EXCLUDED, Costs, Found, describe, search
from exporter.recipe import Gate

GATE = Gate(min_cosine=0.97, p01_cosine=0.98, mean_cosine=0.99)
PRODUCTS = tuple(
    MatMul(f"layer.{number}.ffn/MatMul", f"layer.{number}.ffn", f"x{number}", f"w{number}", None, 10, 10)
    for number in range(10)
)
COSTS = Costs(PRODUCTS, attention=0.0, speedup=2.0)
NODES = [matmul.node for matmul in PRODUCTS]
NOTHING = Loss(1.0, 1.0, 1.0, 1.0, 0.0, 0.0)
TRIAL = Trial("minmax", "minmax", False, NOTHING)
CALIBRATED = Calibrated(Quantization({}, {}), TRIAL, (TRIAL,), ())


@dataclass
class Adding(Judge):
    """Each MatMul in int8 takes its own amount off the smallest cosine."""

    losses: dict[str, float]
    asked: list[frozenset[str]] = field(default_factory=list)

    def loss(self, name: str, quantization: Quantization, on: frozenset[str]) -> Loss:  # noqa: ARG002 - as Judge has it
        self.asked.append(on)
        return replace(NOTHING, min_cosine=1 - sum(self.losses.get(node, 0.0) for node in on))


def found(losses: dict[str, float], by_recipe: frozenset[str] = frozenset()) -> tuple[Found, Adding]:
    judge = Adding(losses)
    return search(CALIBRATED, judge, judge, GATE, COSTS, by_recipe), judge


def test_everything_is_int8_where_that_passes() -> None:
    result, _ = found({})
    assert result.candidates[0].excluded == frozenset()
    assert result.candidates[0].time == pytest.approx(0.5)


@pytest.mark.parametrize("lost", [0.0, 0.05])
def test_fewer_sentences_measure_what_decides_nothing(lost: float) -> None:
    judges = [Adding({NODES[2]: lost}) for _ in range(3)]
    part, all_of_it, quick = judges
    result = search(CALIBRATED, part, all_of_it, GATE, COSTS, quick_judge=quick)
    assert result.candidates[0].excluded == ({NODES[2]} if lost else frozenset())
    asked, left_alone = (part, quick) if lost else (quick, part)
    assert asked.asked == [frozenset([node]) for node in NODES]
    assert left_alone.asked == []


def test_only_what_loses_too_much_is_excluded() -> None:
    result, judge = found({NODES[2]: 0.05, NODES[7]: 0.04, NODES[4]: 0.001})
    assert result.candidates[0].excluded == {NODES[2], NODES[7]}
    assert result.candidates[0].share == pytest.approx(0.2)
    assert result.sensitivities[NODES[2]].min_cosine == pytest.approx(0.95)
    assert len(judge.asked) < 30


def test_what_turns_out_needless_goes_back_to_int8() -> None:
    # Costs as much per multiplication as the culprit, but is not needed once that is kept.
    limit = 0.03 * MARGIN
    result, _ = found({NODES[1]: limit * 0.9, NODES[2]: limit * 0.95, NODES[3]: limit * 0.8, NODES[5]: limit * 0.1})
    (first, *_) = result.candidates
    assert first.loss.budget_used(GATE) <= MARGIN
    for node in first.excluded:
        fewer = Adding({NODES[1]: limit * 0.9, NODES[2]: limit * 0.95, NODES[3]: limit * 0.8, NODES[5]: limit * 0.1})
        assert (
            fewer.loss("", CALIBRATED.quantization, frozenset(NODES) - first.excluded | {node}).budget_used(GATE)
            > MARGIN
        )


def test_what_passes_without_a_margin_is_not_enough() -> None:
    """The gate allows 0.03; a MatMul that takes 0.027 of it leaves the probes, other sentences, no room."""
    result, _ = found({NODES[6]: 0.9 * 0.03})
    assert result.candidates[0].excluded == {NODES[6]}
    result, _ = found({NODES[6]: 0.7 * 0.03})
    assert result.candidates[0].excluded == frozenset()


def test_a_matmul_that_was_excluded_on_the_way_to_the_culprit_goes_back() -> None:
    """The culprit costs much, so two others come before it in the order; alone they are no harm."""
    matmuls = [*PRODUCTS[:9], replace(PRODUCTS[9], inputs=30)]
    costs = Costs(tuple(matmuls), attention=0.0, speedup=2.0)
    judge = Adding({NODES[9]: 0.05, NODES[0]: 0.017, NODES[1]: 0.0169})
    result = search(CALIBRATED, judge, judge, GATE, costs)
    assert result.candidates[0].excluded == {NODES[9], NODES[1]}


def test_what_to_try_next_costs_more_and_more() -> None:
    result, _ = found({NODES[2]: 0.05})
    shares = [assignment.share for assignment in result.candidates]
    assert shares == sorted(shares)
    assert len(set(shares)) == len(shares) > 1


def test_what_the_recipe_excludes_is_excluded() -> None:
    result, _ = found({}, by_recipe=frozenset([NODES[9]]))
    assert all(NODES[9] in assignment.excluded for assignment in result.candidates)


def test_twice_is_the_same() -> None:
    losses = {node: 0.003 * number for number, node in enumerate(NODES)}
    assert found(losses)[0] == found(losses)[0]


def test_modules_are_named() -> None:
    result, _ = found({NODES[2]: 0.05})
    said = describe(STATIC["openvino", "cpu"], result.candidates[0], PRODUCTS)
    assert said == "10.0% of the work of all MatMuls stays fp32: layer 2 feed-forward in"


def test_what_would_leave_next_to_nothing_in_int8_is_not_tried() -> None:
    """Float32 passes any gate: a search that may exclude everything would call that int8."""
    result, judge = found(dict.fromkeys(NODES, 0.02))
    assert max(assignment.share for assignment in result.candidates) == pytest.approx(MAX_EXCLUDED)
    assert all(assignment.loss.budget_used(GATE) > 1 for assignment in result.candidates)
    assert min(len(on) for on in judge.asked if len(on) > 1) == len(NODES) // 2


def test_what_the_recipe_excludes_counts_towards_the_half() -> None:
    result, judge = found(dict.fromkeys(NODES, 0.02), by_recipe=frozenset(NODES[:4]))
    assert max(assignment.share for assignment in result.candidates) == pytest.approx(MAX_EXCLUDED)
    assert min(len(on) for on in judge.asked if len(on) > 1) == len(NODES) // 2


def test_a_matmul_that_would_pass_the_half_is_not_excluded() -> None:
    matmuls = (replace(PRODUCTS[0], inputs=80), *PRODUCTS[1:])
    costs = Costs(matmuls, attention=0.0, speedup=2.0)
    judge = Adding({NODES[0]: 0.5})
    result = search(CALIBRATED, judge, judge, GATE, costs)
    assert all(assignment.share <= MAX_EXCLUDED for assignment in result.candidates)


def test_a_single_matmul_is_int8_or_nothing_is() -> None:
    costs = Costs(PRODUCTS[:1], attention=0.0, speedup=2.0)
    judge = Adding({NODES[0]: 0.5})
    result = search(CALIBRATED, judge, judge, GATE, costs)
    assert [assignment.excluded for assignment in result.candidates] == [frozenset()]
