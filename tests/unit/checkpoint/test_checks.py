"""What is asked of a loaded reference, one check after another, on a model that answers as the test says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from exporter.checkpoint import Checkpoint
from exporter.checkpoint.checks import check_reference
from exporter.errors import CheckpointError
from exporter.recipe import Expectations, KnownAnswer, KnownIds, Recipe
from tests.support.stand_in import FACTS, stand_in

VECTORS = np.array([[3, 0, 4, 0, 0], [0, 0, 2, 0, 0]], np.float32)  # their cosine is 0.8


class Answers(nn.Module):
    """A model of two parameters, whose vectors are those given."""

    def __init__(self, vectors: np.ndarray = VECTORS) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 2))
        self.bias = nn.Parameter(torch.zeros(2))
        self.vectors = vectors
        self.asked: list[list[str]] = []

    def encode(self, sentences: list[str], **_: Any) -> np.ndarray:
        self.asked.append(sentences)
        return self.vectors[: len(sentences)]


def checkpoint(model: nn.Module | None = None, **facts: Any) -> Checkpoint:
    return stand_in(model=model or Answers(), facts=FACTS.model_copy(update={"dimension": 5, **facts}))


def recipe(**content: Any) -> Recipe:
    return Recipe(name="case", source="owner/model", **content)


def refusal(found: Checkpoint, expected: Recipe, pooling: tuple[str, ...] | None = None) -> tuple[str, str | None]:
    with pytest.raises(CheckpointError) as failure:
        check_reference(found, expected, pooling)
    return failure.value.message, failure.value.next_step


def known_answer(**changes: Any) -> KnownAnswer:
    """Return what the authors print of ``VECTORS``: two numbers of the beginning and one of the end."""
    printed: dict[str, Any] = {
        "sentences": ("밥", "국"),
        "first": ((3, 0), (0, 0)),
        "last": ((0,), (0,)),
        "cosine": 0.8,
        "tolerance": 0.5,
    }
    return KnownAnswer(**printed | changes)


def test_a_common_sign_and_one_that_vocabularies_do_not_know_are_encoded() -> None:
    model = Answers()
    check_reference(checkpoint(model), recipe(), None)
    assert model.asked == [["1", "\U00013080"]]


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize(("name", "place"), [("weight", (1, 0)), ("bias", (1,))])
def test_a_weight_that_is_no_number_is_named(value: float, name: str, place: tuple[int, ...]) -> None:
    model = Answers()
    with torch.no_grad():
        model.get_parameter(name)[place] = value
    assert refusal(checkpoint(model), recipe()) == (f"owner/model: the weight {name} holds NaN or Inf", None)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_vector_that_is_no_number_is_refused(value: float) -> None:
    vectors = VECTORS.copy()
    vectors[1, 3] = value
    assert refusal(checkpoint(Answers(vectors)), recipe()) == (
        "owner/model: the vector of a sentence holds NaN or Inf",
        "check the numbers in its config.json, for example layer_norm_eps",
    )


def test_what_a_library_says_while_it_encodes_becomes_one_sentence() -> None:
    class Fails(Answers):
        def encode(self, *_: Any, **__: Any) -> np.ndarray:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    assert refusal(checkpoint(Fails()), recipe()) == (
        "owner/model: sentence-transformers cannot encode a sentence with it: "
        "mat1 and mat2 shapes cannot be multiplied",
        "check its configuration and tokenizer files, or save it again with SentenceTransformer.save",
    )


class TestPooling:
    STATED = ("cls", "mean")

    @pytest.mark.parametrize("asked", [None, STATED])
    def test_none_or_that_which_is_stated_may_be_asked_for(self, asked: tuple[str, ...] | None) -> None:
        check_reference(checkpoint(pooling=self.STATED), recipe(), asked)

    def test_another_is_refused(self) -> None:
        assert refusal(checkpoint(pooling=self.STATED), recipe(), ("max", "lasttoken")) == (
            "owner/model: its modules.json states cls and mean pooling, and max and lasttoken was asked for",
            "leave out `pooling`: it is for folders without modules.json",
        )


def test_every_difference_from_the_recipe_is_told_and_nothing_else() -> None:
    expect = Expectations(architecture="AlbertModel", dimension=5, max_seq_length=128)
    assert refusal(checkpoint(), recipe(expect=expect)) == (
        "owner/model is not what recipe 'case' describes: architecture is 'BertModel', the recipe expects "
        "'AlbertModel'; max_seq_length is 24, the recipe expects 128",
        "give the right checkpoint, or a recipe that describes this one",
    )


def test_a_prompt_that_differs_or_is_absent_is_told_and_others_may_be_there() -> None:
    found = checkpoint(prompts={"query": "query: ", "document": ""})
    check_reference(found, recipe(expect=Expectations(prompts={"query": "query: "})), None)
    expect = Expectations(prompts={"query": "query:", "STS": "sentence: "})
    message, _ = refusal(found, recipe(expect=expect))
    assert message == (
        "owner/model is not what recipe 'case' describes: the prompt 'query' is 'query: ', the recipe expects "
        "'query:'; the prompt 'STS' is None, the recipe expects 'sentence: '"
    )


class TestKnownIds:
    RIGHT = KnownIds(text="국 밥", ids=(2, 5, 4, 3))

    def test_are_compared_text_by_text(self) -> None:
        check_reference(checkpoint(), recipe(known_ids=(self.RIGHT, KnownIds(text="밥", ids=(2, 4, 3)))), None)

    def test_the_text_that_has_other_ids_is_named_with_both(self) -> None:
        wrong = KnownIds(text="밥", ids=(2, 5, 3))
        assert refusal(checkpoint(), recipe(known_ids=(self.RIGHT, wrong))) == (
            "owner/model: its tokenizer gives [2, 4, 3] for '밥', recipe 'case' expects [2, 5, 3]",
            "check the revision, and that tokenizer and recipe belong together",
        )


class TestKnownAnswer:
    @pytest.mark.parametrize(
        "printed",
        [
            {},
            {"tolerance": 0.0},
            {"first": ((3.5, 0), (0, 0))},  # as far away as the tolerance allows
            {"last": ((0,), (-0.5,))},
            {"cosine": 0.4},
        ],
    )
    def test_may_differ_by_its_tolerance(self, printed: dict[str, Any]) -> None:
        model = Answers()
        check_reference(checkpoint(model), recipe(known_answer=known_answer(**printed)), None)
        assert model.asked[1:] == [["밥", "국"]]

    @pytest.mark.parametrize(
        "printed",
        [
            {"first": ((3, 0.51), (0, 0))},
            {"first": ((3, 0), (-0.51, 0))},
            {"last": ((0.51,), (0,))},
            {"cosine": 0.29},
            {"cosine": 1.31},
        ],
    )
    def test_is_refused_beyond_it(self, printed: dict[str, Any]) -> None:
        assert refusal(checkpoint(), recipe(known_answer=known_answer(**printed))) == (
            "owner/model: its vectors differ from the published ones by 0.51 (> 0.5)",
            "check the revision and that the files are the authors' own",
        )
