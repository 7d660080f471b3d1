"""make_plan on a small encoder: what is excluded, what a ledger belongs to, and what an engine loses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from exporter.calibration import CalibrationSet, TokenBatches
from exporter.errors import InputError
from exporter.precisions.int8.emulator import Emulator
from exporter.precisions.int8.judge import token_ids_of
from exporter.precisions.int8.plan import Plan, Request, make_plan
from exporter.precisions.int8.scheme import STATIC
from exporter.recipe import Gate
from tests.support.encoders import encode, numbers, small_encoder, word_tokenizer

S8 = STATIC["openvino", "cpu"]
TEXT = CalibrationSet(
    fit=TokenBatches(numbers(60, seed=1), word_tokenizer()),
    held_out=TokenBatches(numbers(30, seed=2), word_tokenizer()),
    sha256="1" * 64,
    source="numbers",
    warnings=(),
)
GATE = Gate(min_cosine=0.9)
GRAPH = small_encoder(layers=3)


def plan_of(gate: Gate = GATE, exclude: tuple[str, ...] = (), text: CalibrationSet = TEXT, **options: Path) -> Plan:
    return make_plan(GRAPH, Request(S8, text, gate, exclude, **options))


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of()


def test_less_than_half_of_the_work_may_be_excluded_by_name() -> None:
    assert plan_of(exclude=("layer.0.",)).found.candidates[0].excluded >= {
        "layer.0.ffn/MatMul",
        "layer.0.ffn_output/MatMul",
    }
    with pytest.raises(InputError, match=r"`exclude` covers 66\.7% of the work of all MatMuls; ") as refusal:
        plan_of(exclude=("layer.0.", "layer.1."))
    assert refusal.value.exit_code == 2
    assert refusal.value.next_step == "shorten the list in the recipe, or use `precision=fp16`"


def test_half_of_the_work_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporter.precisions.int8.plan.MAX_EXCLUDED", 1 / 3)  # which is the first layer's share
    with pytest.raises(InputError, match="`exclude` covers"):
        plan_of(exclude=("layer.0.",))


def test_results_of_other_calibration_text_are_not_used(tmp_path: Path) -> None:
    """The held-out sentences may be the same: scales come from the others."""
    ledger = tmp_path / "ledger.json"
    plan_of(ledger=ledger)
    assert plan_of(ledger=ledger).ledger.resumed > 0
    assert plan_of(ledger=ledger, text=replace(TEXT, sha256="2" * 64)).ledger.resumed == 0


def test_word_vectors_are_int8_only_where_they_use_up_little_of_the_gate(plan: Plan) -> None:
    assert plan.table is not None
    lost = 1 - plan.table.min_cosine
    assert plan_of(Gate(min_cosine=1 - lost / 0.09)).table_kept
    assert not plan_of(Gate(min_cosine=1 - lost / 0.11)).table_kept


def test_an_engine_is_compared_with_the_float32_graph_on_the_held_out_text(plan: Plan) -> None:
    exact = plan.loss_of(lambda *batch: encode(GRAPH, [batch]))
    assert exact.min_cosine == pytest.approx(1)
    assert exact.max_relative_error < 1e-5
    double = plan.loss_of(lambda *batch: 2 * encode(GRAPH, [batch]))
    assert double.max_norm_error == pytest.approx(1)


def test_what_an_assignment_should_answer_can_be_emulated_on_any_text(plan: Plan) -> None:
    assignment = plan.found.candidates[0]
    batches = list(TEXT.held_out)
    emulated = plan.emulate(assignment, batches)
    assert len(emulated) == len(token_ids_of(batches))
    everything = frozenset(matmul.node for matmul in plan.matmuls)
    again = Emulator(plan.graph, S8).run(batches, plan.calibrated.quantization, everything - assignment.excluded)
    np.testing.assert_array_equal(emulated, again)
    assert plan.loss_of(lambda *batch: plan.emulate(assignment, [batch])) == assignment.loss


def test_a_plan_that_is_rounded_up_has_the_same_integers_and_each_scale_in_the_next_float32(plan: Plan) -> None:
    before, after = plan.calibrated.quantization, plan.rounded_up().calibrated.quantization
    assert (after.activations, after.biases) == (before.activations, before.biases)
    assert after.weights.keys() == before.weights.keys()
    for name, weight in before.weights.items():
        np.testing.assert_array_equal(after.weights[name].values, weight.values)
        assert after.weights[name].scales.dtype == np.float32
        assert (after.weights[name].scales.view(np.int32) == weight.scales.view(np.int32) + 1).all()
