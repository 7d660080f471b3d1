"""Which keys of a checkpoint's JSON files reach a loader."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from exporter.checkpoint.configuration import (
    MODEL_TYPES,
    MODULES,
    RECENT,
    RECENT_NEEDS,
    SENTENCE_BERT,
    SENTENCE_TRANSFORMERS,
    SPECIAL_TOKENS,
    TOKENIZER,
    hidden_size,
    missing_versions,
    transformer_rules,
)
from exporter.checkpoint.rules import Rules, select_keys
from exporter.errors import CheckpointError, MissingDependencyError, UnsupportedModelError


@pytest.mark.parametrize("model_type", [name for name in MODEL_TYPES if not missing_versions(name)])
def test_what_transformers_saves_of_an_architecture_is_understood(model_type: str) -> None:
    saved = CONFIG_MAPPING[model_type]().to_dict()
    seen, unknown = select_keys(saved, transformer_rules(model_type, "config.json"), "config.json")
    assert unknown == ()
    assert CONFIG_MAPPING[model_type](**seen).to_dict() == saved
    assert hidden_size(seen) == CONFIG_MAPPING[model_type]().hidden_size


@pytest.mark.parametrize(("installed", "enough"), [("2.12.1+cpu", False), ("2.13.0", True), ("2.14.1+cu130", True)])
def test_recent_architectures_need_recent_packages(
    installed: str, enough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {**RECENT_NEEDS, "torch": installed}
    monkeypatch.setattr("exporter.checkpoint.configuration.version", versions.__getitem__)
    for model_type in RECENT:
        if enough:
            transformer_rules(model_type, "config.json")
            continue
        with pytest.raises(MissingDependencyError) as refused:
            transformer_rules(model_type, "config.json")
        assert refused.value.message == (
            f"config.json: architecture '{model_type}' needs newer versions: torch 2.13 ({installed} is installed)"
        )
        assert refused.value.next_step == "pip install -U torch>=2.13 transformers>=5.23"
    transformer_rules("bert", "config.json")


@pytest.mark.parametrize("key", ["transformers_weights", "quantization_config", "fusion_config", "device_map"])
def test_a_key_that_steers_says_nothing_where_it_is_empty(key: str) -> None:
    empty: tuple[object, ...] = (None, False, "", [], {})
    for nothing in empty:
        assert select_keys({key: nothing}, transformer_rules("bert", "c"), "c") == ({}, ())
    for something in (0, "x", ["x"], {"x": 1}, True):
        with pytest.raises(CheckpointError, match=f"c: the key '{key}' controls what a library loads"):
            select_keys({key: something}, transformer_rules("bert", "c"), "c")


@pytest.mark.parametrize(
    "key",
    [
        *("model_kwargs", "model_args", "tokenizer_kwargs", "tokenizer_args", "processor_kwargs", "config_kwargs"),
        *("tokenizer_name_or_path", "cache_dir", "cache_folder", "subfolder", "revision", "trust_remote_code"),
        *("weights_only", "use_safetensors", "allow_all_kernels", "kernel_config", "vocab_file", "adapter_name"),
    ],
)
def test_sentence_bert_config_steers_no_loader(key: str) -> None:
    with pytest.raises(CheckpointError, match=f"'{key}'"):
        select_keys({key: "x"}, SENTENCE_BERT, "sentence_bert_config.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("query_expansion", {"length": 32}),
        ("module_output_name", "sentence_embedding"),
        ("modality_config", {"text": {"method": "get_text_features", "method_output_name": "pooler_output"}}),
    ],
)
def test_a_transformer_that_does_something_else_is_refused(key: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=f"{key} is "):
        select_keys({key: value}, SENTENCE_BERT, "sentence_bert_config.json")


def test_a_number_is_no_truth_value() -> None:
    with pytest.raises(CheckpointError, match="is_decoder is 0"):
        select_keys({"is_decoder": 0}, transformer_rules("bert", "c"), "c")


def test_prompts_are_text_and_may_hold_a_slash() -> None:
    prompts = {"query": "question / answer: "}
    assert select_keys({"prompts": prompts}, SENTENCE_TRANSFORMERS, "c")[0] == {"prompts": prompts}


def test_special_tokens_may_hold_a_slash_and_other_strings_may_not() -> None:
    assert select_keys({"eos_token": "</s>"}, TOKENIZER, "c")[0] == {"eos_token": "</s>"}
    for value in ("owner/tokenizer", "..\\tokenizer", ["owner/tokenizer"]):
        with pytest.raises(CheckpointError, match=r"tokenizer_class is .* a path or the name of a repository"):
            select_keys({"tokenizer_class": value}, TOKENIZER, "c")


def test_an_architecture_that_is_not_known_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="architecture 'gpt2' cannot be folded"):
        transformer_rules("gpt2", "config.json")
    with pytest.raises(UnsupportedModelError, match=r"architecture \['bert'\] cannot be folded"):
        transformer_rules(["bert"], "config.json")


@pytest.mark.parametrize("rules", [TOKENIZER, SPECIAL_TOKENS], ids=["tokenizer_config", "special_tokens_map"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_token", "오늘"),
        ("eot_token", {"content": "내일"}),
        ("model_specific_special_tokens", {"x_token": "어제"}),
    ],
)
def test_an_unknown_key_that_names_a_token_is_refused(rules: Rules, key: str, value: Any) -> None:
    """transformers 5 would make a special token of it, and the bundle would not."""
    with pytest.raises(
        CheckpointError, match=f"c: the key '{key}' makes a special token of .*, which is not supported"
    ):
        select_keys({key: value}, rules, "c")
    assert select_keys({key: None, "add_bos_token": True}, rules, "c")[1][-1] == "add_bos_token"


def _all_rules() -> list[tuple[str, Rules]]:
    files = {
        "sentence_bert_config": SENTENCE_BERT,
        "config_sentence_transformers": SENTENCE_TRANSFORMERS,
        "tokenizer_config": TOKENIZER,
        **MODULES,
        **{name: transformer_rules(name, "c") for name in MODEL_TYPES if not missing_versions(name)},
    }
    return list(files.items())


VALUES = [(name, key, rules) for name, rules in _all_rules() for key in rules.values]
KINDS = [(name, key, rules) for name, rules in _all_rules() for key in rules.kinds]


@pytest.mark.parametrize(("name", "key", "rules"), VALUES, ids=[f"{name}-{key}" for name, key, _ in VALUES])
def test_a_key_with_few_values_takes_no_other(name: str, key: str, rules: Rules) -> None:
    for value in rules.values[key]:
        assert select_keys({key: value}, rules, name) == ({key: value}, ())
    for other in ("another", 7, 1, True, ["another"], {"another": 1}):
        if not any(other == value and type(other) is type(value) for value in rules.values[key]):
            with pytest.raises(CheckpointError, match=f"{name}: {key} is "):
                select_keys({key: other}, rules, name)


def _is_copied(key: str, value: Any, rules: Rules) -> bool:
    try:
        return select_keys({key: value}, rules, "c") == ({key: value}, ())
    except CheckpointError:
        return False


@pytest.mark.parametrize(("name", "key", "rules"), KINDS, ids=[f"{name}-{key}" for name, key, _ in KINDS])
def test_a_key_of_a_kind_takes_no_other(name: str, key: str, rules: Rules) -> None:
    assert select_keys({key: None}, rules, name)[0] == {key: None}
    fits = [_is_copied(key, value, rules) for value in ("text", ["text"], {"text": "text"}, True, 7, 7.5)]
    kinds = {
        "a text": [True, False, False, False, False, False],
        "a list of texts": [False, True, False, False, False, False],
        "a text or a list of different texts": [True, True, False, False, False, False],
        "an object of texts": [False, False, True, False, False, False],
        "true or false": [False, False, False, True, False, False],
        "a positive integer": [False, False, False, False, True, False],
        "a positive number": [False, False, False, False, True, True],
    }
    assert fits == kinds[rules.kinds[key]]


@pytest.mark.parametrize(("name", "rules"), _all_rules(), ids=[name for name, _ in _all_rules()])
def test_what_has_no_effect_reaches_no_loader_and_nothing_is_of_two_sorts(name: str, rules: Rules) -> None:
    assert not rules.without_effect & (rules.known | rules.values.keys())
    assert set(rules.kinds) | rules.text <= rules.known
    for key in rules.without_effect:
        assert select_keys({key: "owner/repository"}, rules, name) == ({}, ())
