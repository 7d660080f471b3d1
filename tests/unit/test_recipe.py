"""Recipes: what ships, what is refused and how it is said."""

from __future__ import annotations

import json
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from exporter.errors import CheckpointError, RecipeError
from exporter.recipe import Gate, Gates, Range, Recipe, find_recipe, list_recipes, load_recipe, recipes_folder

SHIPPED = sorted(path.stem for path in recipes_folder().glob("*.yaml"))


def write(folder: Path, content: dict[str, Any] | str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def levels(model: type[BaseModel] = Recipe, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield (path, key) of every key that a recipe may have, at every level."""
    for key, field in model.model_fields.items():
        yield path, key
        for inner in models_in(field.annotation):
            yield from levels(inner, (*path, key))


def models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for argument in get_args(annotation) for model in models_in(argument)]


# What makes a mapping at each place complete but for the key that is tried.
COMPLETE: dict[tuple[str, ...], dict[str, Any]] = {
    (): {"name": "mine", "source": "owner/model"},
    ("gates", "fp32"): {"min_cosine": 0.9},
    ("gates", "fp16"): {"min_cosine": 0.9},
    ("gates", "bf16"): {"min_cosine": 0.9},
    ("shapes", "batch"): {"opt": 1, "max": 2},
    ("shapes", "sequence"): {"opt": 1, "max": 2},
    ("published",): {"dataset": "KorSTS", "metric": "spearman", "value": 80.0},
    ("known_ids",): {"text": "가", "ids": [1]},
    ("known_answer",): {"sentences": ["가", "나"], "first": [[1], [2]], "last": [[1], [2]], "cosine": 0.5},
}


def nested(path: tuple[str, ...], value: dict[str, Any]) -> dict[str, Any]:
    content: Any = {**COMPLETE.get(path, {}), **value}
    for depth in range(len(path) - 1, -1, -1):
        content = {path[depth]: [content] if path[depth] in {"published", "known_ids"} else content}
    return {**COMPLETE[()], **content}


class TestShipped:
    def test_each_is_listed_under_the_name_of_its_file(self) -> None:
        assert [recipe.name for recipe in list_recipes()] == SHIPPED

    @pytest.mark.parametrize("name", SHIPPED)
    def test_each_says_what_the_checkpoint_must_turn_out_to_be(self, name: str) -> None:
        recipe = find_recipe(name)
        assert recipe.name == name
        assert None not in (recipe.expect.architecture, recipe.expect.pooling, recipe.expect.dimension)
        assert recipe.summary
        assert recipe.languages
        assert recipe.parameters
        limit = None if recipe.shapes.sequence is None else recipe.shapes.sequence.max
        assert limit == recipe.expect.max_seq_length
        assert (recipe.gates.fp32.min_cosine, recipe.gates.fp16.min_cosine) == (0.999999, 0.9999)
        assert recipe.gates.bf16.min_cosine == 0.999
        assert Recipe.model_validate_json(recipe.model_dump_json()).model_dump() == recipe.model_dump()

    @pytest.mark.parametrize("name", SHIPPED)
    def test_what_is_left_out_is_said_in_a_comment(self, name: str) -> None:
        """What a public page does not confirm is left out, and the file says so."""
        text = (recipes_folder() / f"{name}.yaml").read_text(encoding="utf-8")
        recipe = find_recipe(name)
        assert (not recipe.published) == ("o score of it is confirmed." in text)
        expected = recipe.expect.max_seq_length is not None and recipe.expect.do_lower_case is not None
        assert expected != ("nothing is expected of" in text)

    @pytest.mark.parametrize("name", [name for name in SHIPPED if find_recipe(name).local_source() is None])
    def test_each_of_a_hub_is_pinned_to_a_commit_or_says_that_its_branch_is_followed(self, name: str) -> None:
        text = (recipes_folder() / f"{name}.yaml").read_text(encoding="utf-8")
        pinned = re.search(r"^revision: [0-9a-f]{40}  # of https://\S+$", text, re.MULTILINE)
        assert (pinned is not None) == (find_recipe(name).revision is not None)
        assert (pinned is None) == ("its default branch is followed. A bundle records the commit" in text)

    def test_the_demo_is_where_it_ships_also_when_read_back_from_a_manifest(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        recipe = find_recipe("demo")
        again = Recipe.model_validate_json(recipe.model_dump_json())
        assert recipe.local_source() == again.local_source() == recipes_folder() / "demo" / "checkpoint"
        assert find_recipe("ko-sbert-sts").local_source() is None


class TestUnknownKeys:
    @pytest.mark.parametrize(("path", "key"), sorted(set(levels())), ids=lambda value: str(value).strip("()"))
    def test_the_nearest_name_is_told_at_every_level(self, tmp_path: Path, path: tuple[str, ...], key: str) -> None:
        wrong = key + key[-1]
        content = nested(path, {wrong: 1})
        with pytest.raises(RecipeError) as failure:
            load_recipe(write(tmp_path, content))
        assert f"{wrong}: unknown key, did you mean {key!r}?" in str(failure.value)
        assert str(failure.value).startswith(str(tmp_path / "mine.yaml"))
        where = str(failure.value).removeprefix(f"{tmp_path / 'mine.yaml'}: ").partition(":")[0].split(".")
        assert [part for part in where if not part.isdigit()] == [*path, wrong]

    def test_a_key_like_none_gets_all_names(self, tmp_path: Path) -> None:
        with pytest.raises(RecipeError, match=r"shapes\.zzz: unknown key \(legal: batch, sequence\)"):
            load_recipe(write(tmp_path, nested(("shapes",), {"zzz": 1})))

    def test_every_mistake_is_told(self, tmp_path: Path) -> None:
        content = nested((), {"nmae": 1, "expect": {"dimensions": 2}, "gates": {"fp16": {"min_cosine": 2}}})
        with pytest.raises(RecipeError) as failure:
            load_recipe(write(tmp_path, content))
        for part in ("nmae: unknown key", "expect.dimensions: unknown key", "gates.fp16.min_cosine: Input should be"):
            assert part in str(failure.value)
        assert "\n" not in str(failure.value)

    def test_the_complete_ones_are_legal(self, tmp_path: Path) -> None:
        """What the tests above refuse is refused for its one wrong key."""
        for path in COMPLETE:
            load_recipe(write(tmp_path, nested(path, {})))


class TestValues:
    @pytest.mark.parametrize(("low", "opt", "high"), [(2, 1, 3), (1, 4, 3), (3, 3, 2), (0, 1, 2), (-1, 1, 1)])
    def test_min_opt_max_are_in_order_and_positive(self, tmp_path: Path, low: int, opt: int, high: int) -> None:
        content = nested(("shapes", "batch"), {"min": low, "opt": opt, "max": high})
        with pytest.raises(RecipeError, match=r"shapes\.batch"):
            load_recipe(write(tmp_path, content))

    @pytest.mark.parametrize("extent", [(1, 1, 1), (1, 2, 3), (2, 2, 9)])
    def test_equal_ones_are_in_order(self, extent: tuple[int, int, int]) -> None:
        low, opt, high = extent
        assert Range(min=low, opt=opt, max=high).opt == opt

    def test_a_sequence_longer_than_the_model_is_refused_with_both_numbers(self, tmp_path: Path) -> None:
        content = nested((), {"expect": {"max_seq_length": 128}, "shapes": {"sequence": {"opt": 32, "max": 129}}})
        with pytest.raises(RecipeError, match=r"shapes\.sequence\.max 129 is above expect\.max_seq_length 128"):
            load_recipe(write(tmp_path, content))
        content["shapes"]["sequence"]["max"] = 128
        assert load_recipe(write(tmp_path, content)).shapes.sequence == Range(min=1, opt=32, max=128)

    @pytest.mark.parametrize("cosine", [1.5, "high", float("nan"), None])
    def test_a_gate_that_nothing_could_pass_or_fail_is_none(self, cosine: object) -> None:
        with pytest.raises(ValidationError):
            Gate(min_cosine=cosine)  # type: ignore[arg-type]

    @pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "한 글", "a b"])
    def test_a_name_is_the_name_of_a_folder(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(RecipeError, match="name"):
            load_recipe(write(tmp_path, nested((), {"name": name})))

    @pytest.mark.parametrize(
        "change",
        [
            {"first": [[1]]},
            {"last": [[1], [2], [3]]},
            {"sentences": ["하나"], "first": [[1]], "last": [[1]]},
            {"first": [[1, 2], [3]]},
        ],
    )
    def test_a_known_answer_has_a_row_for_each_sentence(self, tmp_path: Path, change: dict[str, Any]) -> None:
        with pytest.raises(RecipeError, match="known_answer: wants"):
            load_recipe(write(tmp_path, nested(("known_answer",), change)))

    def test_it_is_frozen(self) -> None:
        with pytest.raises(ValidationError):
            find_recipe("demo").name = "other"


class TestFind:
    def test_a_folder_gets_a_recipe_that_expects_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "내 모델 v2").mkdir()
        recipe = find_recipe(str(tmp_path / "내 모델 v2"))
        assert recipe.name == "내-모델-v2"
        assert recipe.local_source() == tmp_path / "내 모델 v2"
        assert set(recipe.expect.model_dump().values()) == {None}

    def test_a_hub_id(self) -> None:
        recipe = find_recipe("owner/Some-Model_v1.0")
        assert (recipe.name, recipe.source, recipe.local_source()) == ("Some-Model_v1.0", "owner/Some-Model_v1.0", None)

    def test_a_folder_of_the_working_folder_takes_no_models_place(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "jhgan" / "ko-sbert-sts").mkdir(parents=True)
        monkeypatch.chdir(tmp_path)
        assert find_recipe("ko-sbert-sts").local_source() is None
        path = tmp_path / "recipes" / "mine.yaml"
        path.parent.mkdir()
        path.write_text("name: mine\nsource: jhgan/ko-sbert-sts\n", encoding="utf-8")
        assert load_recipe(path).local_source() is None

    def test_a_source_beside_the_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "recipes" / "weights").mkdir(parents=True)
        path = write(tmp_path / "recipes", {"name": "mine", "source": "weights"})
        assert load_recipe(path).local_source() == tmp_path / "recipes" / "weights"

    @pytest.mark.parametrize("wrong", ["dem0", "Demo", "albert_small", "ko-sbert-st", "moco"])
    def test_a_misspelt_name_gets_the_nearest(self, wrong: str) -> None:
        with pytest.raises(RecipeError) as failure:
            find_recipe(wrong)
        meant = {"dem0": "demo", "Demo": "demo", "albert_small": "albert-small", "moco": "moco-distilbert"}
        assert meant.get(wrong, "ko-sbert-sts") in str(failure.value.next_step)


SENTENCES = ("달력을 한 장 넘겼다", "I turned a page of the calendar")


@pytest.fixture(scope="module")
def answer() -> dict[str, Any]:
    import numpy as np

    from exporter.checkpoint import load_checkpoint

    vectors = load_checkpoint(find_recipe("demo")).encode(list(SENTENCES)).astype(float)
    cosine = float(vectors[0] @ vectors[1] / np.linalg.norm(vectors[0]) / np.linalg.norm(vectors[1]))
    printed = json.loads(json.dumps(np.round(vectors, 7).tolist()))
    return {
        "sentences": list(SENTENCES),
        "first": [row[:3] for row in printed],
        "last": [row[-3:] for row in printed],
        "cosine": cosine,
    }


class TestKnownAnswer:
    """The demo has no card that prints vectors; its own, computed here, stand for one."""

    def recipe(self, folder: Path, answer: dict[str, Any]) -> Recipe:
        source = str(recipes_folder() / "demo" / "checkpoint")
        return load_recipe(write(folder, {"name": "demo", "source": source, "known_answer": answer}))

    def test_the_right_one_is_accepted(self, tmp_path: Path, answer: dict[str, Any]) -> None:
        from exporter.checkpoint import load_checkpoint

        assert load_checkpoint(self.recipe(tmp_path, answer)).facts.dimension == 256

    @pytest.mark.parametrize("wrong", ["first", "last", "cosine", "sentences"])
    def test_a_wrong_one_is_refused(self, tmp_path: Path, answer: dict[str, Any], wrong: str) -> None:
        from exporter.checkpoint import load_checkpoint

        other: dict[str, Any] = json.loads(json.dumps(answer))
        if wrong == "cosine":
            other["cosine"] += 0.001
        elif wrong == "sentences":
            other["sentences"][1] += "!"
        else:
            other[wrong][1][2] += 0.001
        with pytest.raises(CheckpointError, match="its vectors differ from the published ones by"):
            load_checkpoint(self.recipe(tmp_path, other))


def test_a_recipe_that_names_one_bound_keeps_the_others(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        "name: own\nsource: demo/checkpoint\ngates: {fp16: {min_cosine: 0.99995, max_batch_deviation: null}}\n"
    )
    gates = load_recipe(tmp_path / "own.yaml").gates
    defaults = Gates()
    assert gates.fp32 == defaults.fp32
    assert gates.fp16.min_cosine == 0.99995
    assert gates.fp16.max_batch_deviation is None
    assert gates.fp16.max_relative_error == defaults.fp16.max_relative_error


def test_a_gate_names_the_bounds_in_which_it_is_weaker_than_another() -> None:
    floor = Gate(min_cosine=0.99, mean_cosine=0.995, max_relative_error=0.1, max_batch_deviation=0.01)
    weaker = Gate(min_cosine=0.98, mean_cosine=None, max_relative_error=0.2, max_batch_deviation=0.01)
    assert weaker.weaker_bounds(floor) == ("min_cosine", "mean_cosine", "max_relative_error")
    assert floor.weaker_bounds(floor) == ()
    assert floor.weaker_bounds(weaker) == ()


def test_a_tightened_gate_has_the_stricter_of_each_two_bounds() -> None:
    one = Gate(min_cosine=0.99, mean_cosine=None, max_relative_error=0.2, max_batch_deviation=0.01)
    other = Gate(min_cosine=0.98, mean_cosine=0.995, max_relative_error=0.1, max_batch_deviation=None)
    tight = Gate(min_cosine=0.99, mean_cosine=0.995, max_relative_error=0.1, max_batch_deviation=0.01)
    assert one.tightened(other) == other.tightened(one) == tight
    assert tight.weaker_bounds(one) == tight.weaker_bounds(other) == ()
