"""The twins whose tokenizer is no WordPiece have the facts of their recipes, and load as their originals would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import normalizers

from exporter.checkpoint import load_checkpoint
from exporter.recipe import find_recipe, list_recipes
from tests.support.checkpoints import ARCHITECTURES
from tests.support.twins import MULTILINGUAL, TWINS, build_twin
from tests.support.twins.charsmap import charsmap, nfkc_charsmap
from tests.support.twins.originals import Twin

NAMES = tuple(MULTILINGUAL)
BERT_KIN = tuple(name for name, twin in MULTILINGUAL.items() if twin.architecture in ("bert", "xlm-roberta"))


@pytest.mark.parametrize("name", NAMES)
def test_a_small_one_is_what_its_recipe_describes_but_for_width_and_length(name: str, tmp_path: Path) -> None:
    recipe, twin = find_recipe(name), MULTILINGUAL[name]
    changed = {"dimension": twin.small["hidden_size"], "max_seq_length": twin.small_max_seq_length}
    smaller = recipe.model_copy(update={"expect": recipe.expect.model_copy(update=changed)})
    checkpoint = load_checkpoint(smaller, folder=build_twin(name, tmp_path))
    assert checkpoint.facts.modules == ("Transformer", "Pooling", *twin.modules)
    assert (checkpoint.tokenizer.padding or {})["direction"] == (
        "left" if twin.tokenizer in ("gemma", "qwen2") else "right"
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_full_one_has_the_sizes_of_its_recipe(name: str) -> None:
    recipe, twin = find_recipe(name), MULTILINGUAL[name]
    assert twin.checkpoint == recipe.source
    assert (twin.pooling,) == recipe.expect.pooling
    assert twin.full["hidden_size"] == recipe.expect.dimension
    assert twin.max_seq_length == recipe.expect.max_seq_length
    assert recipe.parameters is not None
    assert abs(parameters_of_multilingual(name) / recipe.parameters - 1) < 0.02


def parameters_of_multilingual(name: str) -> int:
    twin = MULTILINGUAL[name]
    config_class, model_class, _ = ARCHITECTURES[twin.architecture]
    width = int(twin.full["hidden_size"])
    return count(model_class, config_class(**twin.full)) + twin.modules.count("Dense") * 4 * width**2


def count(model_class: Any, config: Any) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in model_class(config).parameters())


@pytest.mark.parametrize("name", TWINS)
def test_the_recipes_of_the_other_twins_state_their_sizes(name: str) -> None:
    twin = TWINS[name]
    config_class, model_class, _ = ARCHITECTURES[twin.architecture]
    config = config_class(**config_of(twin), max_position_embeddings=twin.positions)
    assert find_recipe(name).parameters == count(model_class, config)


def config_of(twin: Twin) -> dict[str, int]:
    size = twin.full
    if twin.architecture == "distilbert":
        names = {"dim": size.hidden, "n_layers": size.layers, "n_heads": size.heads, "hidden_dim": size.feed_forward}
        return {"vocab_size": size.vocabulary, **names}
    config = {"vocab_size": size.vocabulary, "hidden_size": size.hidden, "num_hidden_layers": size.layers}
    config |= {"num_attention_heads": size.heads, "intermediate_size": size.feed_forward}
    config |= {"type_vocab_size": twin.token_types}
    return config | ({} if size.embedding is None else {"embedding_size": size.embedding})


def test_the_recipe_of_the_demo_states_its_size() -> None:
    demo = find_recipe("demo")
    assert demo.parameters == sum(weight.numel() for weight in load_checkpoint(demo).model.parameters())


def test_each_recipe_says_what_the_tests_export() -> None:
    found = {recipe.name: recipe.proven_on for recipe in list_recipes()}
    assert found == {
        **dict.fromkeys((*TWINS, *MULTILINGUAL), "twin"),
        "demo": "weights",  # it ships
        "multilingual-e5-small": "rounded",  # tests/integration/test_multilingual_e5.py
    }


@pytest.mark.parametrize("name", ["multilingual-e5-small", "qwen3-embedding-0.6b", "embeddinggemma-300m"])
def test_equal_arguments_give_equal_bytes(name: str, tmp_path: Path) -> None:
    one, other = build_twin(name, tmp_path / "one"), build_twin(name, tmp_path / "other")
    files = [path.relative_to(one) for path in one.rglob("*") if path.is_file()]
    assert "tokenizer.json" in {str(file) for file in files}
    for file in files:
        assert (one / file).read_bytes() == (other / file).read_bytes(), file


@pytest.mark.parametrize("name", BERT_KIN)
def test_sentences_are_spread_apart(name: str, tmp_path: Path) -> None:
    pooling = find_recipe(name).expect.model_copy(update={"dimension": None, "max_seq_length": None})
    recipe = find_recipe(name).model_copy(update={"expect": pooling})
    checkpoint = load_checkpoint(recipe, folder=build_twin(name, tmp_path))
    vectors = torch.from_numpy(
        checkpoint.encode(["비가 온다.", "The gate squeaks.", "택배 상자 세 개", "정산 오류가 또 났어요."])
    )
    cosines = (vectors @ vectors.T)[~torch.eye(len(vectors), dtype=torch.bool)]
    assert cosines.max() < 0.9


def test_a_table_of_characters_replaces_those_it_has() -> None:
    table = normalizers.Precompiled(charsmap({"가": "나", "각": "", "a": "bc"}))
    assert table.normalize_str("가각a갂A한") == "나bc갂A한"
    assert normalizers.Precompiled(nfkc_charsmap()).normalize_str("①\u3000％x\u200by\t㎏ 한국") == "1 %xy kg 한국"
