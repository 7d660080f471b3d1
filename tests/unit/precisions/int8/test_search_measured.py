"""What a search asks for, says, and returns: with MatMuls of unequal work, and two judges that can be told apart."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exporter.precisions.int8.calibrate import Calibrated, Trial
from exporter.precisions.int8.judge import Judge, Loss
from exporter.precisions.int8.matmuls import MatMul
from exporter.precisions.int8.scheme import STATIC, Quantization
from exporter.precisions.int8.search import Costs, Found, describe, search
from exporter.recipe import Gate

GATE = Gate(min_cosine=0.9)
NOTHING = Loss(1.0, 1.0, 1.0, 1.0, 0.0, 0.0)
TRIAL = Trial("entropy, smoothed", "entropy", True, NOTHING)
QUANTIZATION = Quantization({}, {})
CALIBRATED = Calibrated(QUANTIZATION, TRIAL, (TRIAL,), ())


def matmuls_of(*work: int) -> tuple[MatMul, ...]:
    return tuple(
        MatMul(f"layer.{number}.ffn/MatMul", f"layer.{number}.ffn", f"x{number}", f"w{number}", None, macs, 1)
        for number, macs in enumerate(work)
    )


class Losing(Judge):
    """A judge to whom each MatMul in int8 takes its own amount off the smallest cosine."""

    def __init__(self, losses: dict[int, float]) -> None:
        self.losses = {f"layer.{number}.ffn/MatMul": lost for number, lost in losses.items()}
        self.asked: list[frozenset[str]] = []

    def loss(self, name: str, quantization: Quantization, on: frozenset[str]) -> Loss:
        assert (name, quantization) == (TRIAL.name, QUANTIZATION)
        self.asked.append(on)
        return replace(NOTHING, min_cosine=1 - sum(self.losses.get(node, 0.0) for node in on))


def searched(
    work: tuple[int, ...],
    losses: dict[int, float],
    *,
    by_recipe: tuple[int, ...] = (),
    attention: float = 0.0,
    sensitivity_judge: Losing | None = None,
) -> tuple[Found, Losing, list[str]]:
    matmuls = matmuls_of(*work)
    judge = Losing(losses)
    said: list[str] = []
    excluded = frozenset(matmuls[number].node for number in by_recipe)
    costs = Costs(matmuls, attention, speedup=4.0)
    return (
        search(CALIBRATED, sensitivity_judge or Losing(losses), judge, GATE, costs, excluded, said.append),
        judge,
        said,
    )


def numbers(excluded: frozenset[str]) -> list[int]:
    return sorted(int(node.split(".")[1]) for node in excluded)


def test_shares_and_times_count_attention() -> None:
    costs = Costs(matmuls_of(30, 50), attention=20.0, speedup=4.0)
    found = costs.assignment(frozenset({"layer.0.ffn/MatMul"}), NOTHING)
    assert found.share == pytest.approx(0.5)  # 30 and 20 of 100
    assert found.time == pytest.approx(0.5 + 0.5 / 4)
    assert found.loss is NOTHING
    assert costs.assignment(frozenset(), NOTHING).share == pytest.approx(0.2)


def test_each_matmul_is_measured_alone_by_the_sensitivity_judge_and_the_rest_by_the_judge() -> None:
    sensitivity_judge = Losing({1: 0.5})
    found, judge, said = searched((10, 10, 10, 10), {1: 0.5}, sensitivity_judge=sensitivity_judge)
    assert [numbers(on) for on in sensitivity_judge.asked] == [[0], [1], [2], [3]]
    assert all(len(on) > 1 for on in judge.asked)
    assert numbers(judge.asked[0]) == [0, 1, 2, 3]
    assert numbers(found.candidates[0].excluded) == [1]
    assert {node: loss.min_cosine for node, loss in found.sensitivities.items()} == {
        f"layer.{number}.ffn/MatMul": 0.5 if number == 1 else 1.0 for number in range(4)
    }
    assert said[:4] == [f"layer {number} feed-forward in alone ({number + 1} of 4)" for number in range(4)]
    assert said[4:] == [f"{4 - len(on)} of 4 MatMuls excluded" for on in judge.asked]


def test_matmuls_are_excluded_in_the_order_of_what_they_lose_for_their_work() -> None:
    """The first loses twice as much as the second, and costs four times as much."""
    found, _, _ = searched((40, 10, 10, 40), {0: 0.2, 1: 0.1}, sensitivity_judge=Losing({0: 0.2, 1: 0.1}))
    assert [numbers(candidate.excluded) for candidate in found.frontier] == [[], [1], [0, 1]]


def test_among_equals_the_order_is_that_of_their_names() -> None:
    found, _, _ = searched((10,) * 10, dict.fromkeys(range(10), 0.5))
    assert numbers(found.candidates[-1].excluded) == [0, 1, 2, 3, 4]


def test_the_fewest_that_pass_are_found_with_few_measurements() -> None:
    losses = {number: 0.2 - 0.001 * number for number in range(12)}
    for needed in range(6):
        given = {number: lost for number, lost in losses.items() if number < needed}
        found, judge, _ = searched((10,) * 12, given)
        assert numbers(found.candidates[0].excluded) == list(range(needed))
        assert len(judge.asked) < 24


def test_everything_in_int8_is_asked_for_first() -> None:
    _, judge, _ = searched((10,) * 12, {})
    assert len(judge.asked[0]) == 12
    assert {len(on) for on in judge.asked[:2]} == {12}


def test_half_of_the_work_may_stay_high_and_no_more() -> None:
    always = dict.fromkeys(range(4), 0.5)
    assert numbers(searched((25, 25, 25, 25), always)[0].candidates[-1].excluded) == [0, 1]
    assert numbers(searched((34, 33, 33), always)[0].candidates[-1].excluded) == [1]  # 66 would be more
    assert searched((60, 40), always)[0].candidates[-1].excluded == frozenset({"layer.1.ffn/MatMul"})


def test_what_the_recipe_excludes_counts_towards_the_half() -> None:
    found, _, _ = searched((10,) * 10, dict.fromkeys(range(10), 0.5), by_recipe=(7, 8, 9))
    assert numbers(found.candidates[-1].excluded) == [0, 1, 7, 8, 9]
    assert all(numbers(candidate.excluded)[-3:] == [7, 8, 9] for candidate in found.frontier)


def test_what_the_recipe_excludes_is_not_put_back() -> None:
    found, judge, _ = searched((10,) * 4, {0: 0.5}, by_recipe=(3,))
    assert numbers(found.candidates[0].excluded) == [0, 3]
    assert all("layer.3.ffn/MatMul" not in on for on in judge.asked)


def test_the_frontier_has_the_assignments_nearest_above_each_share_and_the_chosen_one() -> None:
    found, _, _ = searched((5,) * 20, {})
    shares = [candidate.share for candidate in found.frontier]
    assert shares == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.25, 0.5])
    assert [candidate.share for candidate in found.candidates] == pytest.approx(shares)
    found, _, _ = searched((5,) * 20, {3: 0.5, 4: 0.5, 5: 0.5, 6: 0.5})
    assert [candidate.share for candidate in found.frontier] == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.5])
    assert [candidate.share for candidate in found.candidates] == pytest.approx([0.2, 0.25, 0.5])


def test_what_is_excluded_is_described_by_name_and_share() -> None:
    matmuls = matmuls_of(10, 30)
    costs = Costs(matmuls, 0.0, 2.0)
    scheme = STATIC["onnxruntime", "cpu"]
    none = describe(scheme, costs.assignment(frozenset(), NOTHING), matmuls)
    assert none == f"0.0% of the work of all MatMuls stays {scheme.fallback_dtype}: only those of attention"
    both = costs.assignment(frozenset(matmul.node for matmul in matmuls), NOTHING)
    assert describe(scheme, both, matmuls) == (
        f"100.0% of the work of all MatMuls stays {scheme.fallback_dtype}: "
        "layer 0 feed-forward in, layer 1 feed-forward in"
    )
