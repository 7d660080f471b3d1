from __future__ import annotations

import sys

import numpy as np
import pytest

from exporter.graph.passes import remove_unused
from exporter.graph.passes.direct_mask import direct_mask
from exporter.graph.surgery import input_of
from tests.support.graphs import evaluate, model_of, ops

# The mask as an exporter may write it: MASK yields "mask", bool (batch, 1, sequence, sequence).
ATTENTION = """
g (int64[B,S] input_ids, int64[B,S] attention_mask, float[B,2,S,4] q) => (float[B,2,S,4] y)
<int64[2] axes = {1, 2}, int64[1] one = {1}, int64 zero = {0}, int64 step = {1}, int64[1] first = {0},
 int64[1] second = {1}> {
  bools = Cast<to = 9>(attention_mask)
  rows = Unsqueeze(bools, axes)
  length = Shape<start = 1, end = 2>(attention_mask)
  square = Concat<axis = 0>(one, one, length, one)
  MASK
  y = Attention(q, q, q, mask)
}
"""
PLAIN = """
  some = ReduceMax<keepdims = 1>(square)
  yes = Cast<to = 9>(some)
  wide = Expand(rows, square)
  mask = And(wide, yes)
"""
WINDOW = """
  scalar = Squeeze(length)
  positions = Range(zero, scalar, step)
  column = Unsqueeze(positions, second)
  row = Unsqueeze(positions, first)
  apart = Sub(column, row)
  distance = Abs(apart)
  limit = Constant<value_int = 100>()
  near = Less(distance, limit)
  wide = Expand(rows, square)
  mask = And(wide, near)
"""
CAUSAL = (
    WINDOW.replace("distance = Abs(apart)", "distance = Identity(apart)")
    .replace("value_int = 100", "value_int = 0")
    .replace("Less(", "GreaterOrEqual(")
)
FAR_BEHIND = CAUSAL.replace("value_int = 0", "value_int = 2")
INVERTED = "none = Not(rows)\n mask = Expand(none, square)"


def feeds(sequence: int = 6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    mask = np.ones((3, sequence), dtype=np.int64)
    mask[0, 4:] = 0
    mask[1, 2] = 0
    return {
        "input_ids": np.ones((3, sequence), dtype=np.int64),
        "attention_mask": mask,
        "q": rng.standard_normal((3, 2, sequence, 4)).astype(np.float32),
    }


def with_holes(sequence: int) -> dict[str, np.ndarray]:
    """Feeds of which every query sees a key: what the others answer is left to each engine."""
    mask = np.ones((3, sequence), dtype=np.int64)
    mask[:2, 2] = 0
    return feeds(sequence) | {"attention_mask": mask}


# MPNet's attention is no operator of its own: the mask chooses what is added to the scores.
CHOICE = (
    ATTENTION.replace("int64[1] second = {1}>", "int64[1] second = {1}, float nothing = {0.0}, float lowest = {-9.0}>")
    .replace("=> (float[B,2,S,4] y)", "=> (float[B,H,S,S] y)")
    .replace("y = Attention(q, q, q, mask)", "y = Where(mask, nothing, lowest)")
)
FORMS = pytest.mark.parametrize("form", [ATTENTION, CHOICE], ids=["attention", "choice"])


@FORMS
def test_a_padding_mask_is_built_directly_and_attends_the_same(form: str) -> None:
    model = model_of(form.replace("MASK", PLAIN))
    (before,) = evaluate(model, feeds())
    assert direct_mask(model) == 1
    remove_unused(model)
    assert "And" not in ops(model)
    np.testing.assert_array_equal(evaluate(model, feeds())[0], before)


@FORMS
@pytest.mark.parametrize(
    ("mask", "limits"),
    [
        (WINDOW, {"LessOrEqual": 99, "GreaterOrEqual": -99}),
        (WINDOW.replace("value_int = 100", "value_int = 2"), {"LessOrEqual": 1, "GreaterOrEqual": -1}),
        (CAUSAL, {"LessOrEqual": 0}),
    ],
    ids=["window", "neighbors", "causal"],
)
def test_a_band_is_built_directly_and_attends_the_same(mask: str, limits: dict[str, int], form: str) -> None:
    model = model_of(form.replace("MASK", mask))
    (before,) = evaluate(model, with_holes(120))
    assert direct_mask(model) == 1
    remove_unused(model)
    found = {
        node.op_type: int(limit.numpy())
        for node in model.graph
        if node.op_type in ("LessOrEqual", "GreaterOrEqual")
        if (limit := input_of(node, 1).const_value) is not None
    }
    assert found == limits
    for sequence in (6, 120):
        (wanted,) = evaluate(model_of(form.replace("MASK", mask)), with_holes(sequence))
        np.testing.assert_allclose(evaluate(model, with_holes(sequence))[0], wanted, atol=1e-6)
    np.testing.assert_allclose(evaluate(model, with_holes(120))[0], before, atol=1e-6)


def test_masks_of_two_bands_share_the_padding() -> None:
    """Layers that see all tokens and layers that see neighbors take turns in ModernBERT."""
    body = WINDOW.replace("mask = And", "narrow = And").replace("value_int = 100", "value_int = 2")
    last = "both = And(wide, wide)\n a = Attention(q, q, q, narrow)\n y = Attention(a, a, a, both)"
    model = model_of(ATTENTION.replace("MASK", body).replace("y = Attention(q, q, q, mask)", last))
    (before,) = evaluate(model, with_holes(40))
    assert direct_mask(model) == 2
    remove_unused(model)
    assert ops(model).count("Expand") == 1
    np.testing.assert_array_equal(evaluate(model, with_holes(40))[0], before)


def test_a_window_that_no_trial_shows_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    # The package has the function under the module's name.
    monkeypatch.setattr(sys.modules["exporter.graph.passes.direct_mask"], "LONGEST_TRIAL", 64)
    model = model_of(ATTENTION.replace("MASK", WINDOW))
    assert direct_mask(model) == 0
    short = model_of(ATTENTION.replace("MASK", WINDOW.replace("value_int = 100", "value_int = 9")))
    assert direct_mask(short) == 1


@FORMS
@pytest.mark.parametrize(("name", "mask"), [("tokens far behind", FAR_BEHIND), ("inverted", INVERTED)])
def test_any_other_mask_stays(name: str, mask: str, form: str) -> None:
    assert direct_mask(model_of(form.replace("MASK", mask))) == 0, name


def test_a_mask_that_looks_at_the_ids_stays() -> None:
    """It is equal to the padding mask wherever the trials put the same numbers into both inputs."""
    mask = "same = Cast<to = 9>(input_ids)\n r = Unsqueeze(same, axes)\n mask = Expand(r, square)"
    assert direct_mask(model_of(ATTENTION.replace("MASK", mask))) == 0


def test_an_additive_mask_stays() -> None:
    mask = "f = Cast<to = 1>(rows)\n mask = Expand(f, square)"
    assert direct_mask(model_of(ATTENTION.replace("MASK", mask))) == 0


@pytest.mark.parametrize(
    "choice", ["Where(mask, scores, lowest)", "Where(mask, nothing, scores)", "Where(mask, scores, scores)"]
)
def test_a_mask_that_chooses_between_tensors_stays(choice: str) -> None:
    """Only what is chosen between two numbers is a mask for certain."""
    last = f"keys = Transpose<perm = [0, 1, 3, 2]>(q)\n scores = MatMul(q, keys)\n y = {choice}"
    body = CHOICE.replace("y = Where(mask, nothing, lowest)", last).replace("MASK", PLAIN)
    assert direct_mask(model_of(body)) == 0


def test_a_mask_that_chooses_between_stored_vectors_stays() -> None:
    body = CHOICE.replace("float lowest = {-9.0}", "float[2] lowest = {-9.0, -8.0}").replace("B,H,S,S", "B,H,S,2")
    assert direct_mask(model_of(body.replace("MASK", PLAIN))) == 0


def test_a_mask_of_two_readers_is_written_once() -> None:
    two = "a = Where(mask, nothing, lowest)\n y = Where(mask, lowest, nothing)"
    model = model_of(CHOICE.replace("y = Where(mask, nothing, lowest)", two).replace("MASK", PLAIN))
    assert direct_mask(model) == 2
    assert [node.name for node in model.graph].count("mask/Expand") == 1
