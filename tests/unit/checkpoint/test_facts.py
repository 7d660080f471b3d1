"""The facts of a model that was put together by hand: what each of them is read from, and what is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, normalizers
from torch import nn
from transformers import BertConfig, DistilBertConfig, PreTrainedTokenizerFast

from exporter.checkpoint import Checkpoint
from exporter.checkpoint.facts import read_facts
from exporter.checkpoint.parameters import Equality
from exporter.checkpoint.snapshot import Snapshot
from exporter.checkpoint.weights import hash_of, hash_of_parameter
from exporter.errors import CheckpointError, InputError, UnsupportedModelError
from exporter.runtime.facts import EncoderFacts
from tests.support.stand_in import CLS, PAD, SEP, words_tokenizer

WORDS = 6  # of the tokenizer, special tokens included
WEIGHT = nn.Parameter(torch.arange(6.0).reshape(2, 3))
CONFIG = BertConfig(hidden_size=6, num_hidden_layers=5, num_attention_heads=3, type_vocab_size=1)


class BertModel:
    """A transformer as far as facts are read from it."""

    def __init__(
        self, config: Any = CONFIG, positions: int = 40, padding: int | None = None, words: int = WORDS
    ) -> None:
        self.config, self.words = config, words
        self.embeddings = SimpleNamespace(position_embeddings=nn.Embedding(positions, 1, padding_idx=padding))

    def get_input_embeddings(self) -> nn.Embedding:
        return nn.Embedding(self.words, 1)


class Transformer:
    """The first module."""

    def __init__(self, auto_model: Any = None, tokenizer: Any = None) -> None:
        self.auto_model = auto_model or BertModel()
        self.tokenizer = tokenizer or wrapped()


class Pooling:
    """The second module."""

    def __init__(self, modes: Any = ("cls", "mean"), dimension: int = 6, *, include_prompt: bool = True) -> None:
        self.pooling_mode, self.embedding_dimension, self.include_prompt = modes, dimension, include_prompt


class Dense:
    """A module that may follow."""


class Normalize:
    """Another."""


class Whitening:
    """One that cannot be folded."""


class Model(list[Any]):
    """The modules, and what sentence-transformers states beside them."""

    def __init__(
        self,
        *modules: Any,
        max_seq_length: Any = 30,
        prompts: Any = None,
        default: Any = None,
        truncate_dim: int | None = None,
    ) -> None:
        super().__init__(modules)
        self.max_seq_length = max_seq_length
        self.prompts, self.default_prompt_name = prompts or {}, default
        self.similarity_fn_name, self.truncate_dim = "dot", truncate_dim

    def get_embedding_dimension(self) -> int:
        return 8

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return [("0.weight", WEIGHT)]

    def named_buffers(self) -> list[tuple[str, torch.Tensor]]:
        return []


def wrapped(normalizer: Any = None, **options: Any) -> PreTrainedTokenizerFast:
    tokenizer = words_tokenizer("밥", "국")
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{"pad_token": "[PAD]", **options})


def snapshot(folder: Path, **changes: Any) -> Snapshot:
    words_tokenizer("밥", "국").save(str(folder / "tokenizer.json"))
    weights = {folder: (folder / "model.safetensors",)}
    attributes: dict[str, Any] = {
        "folder": folder,
        "transformer": folder,
        "weights": weights,
        "files": {"config.json": "1" * 64, "model.safetensors": "2" * 64},
        "ignored": (),
        "stated_pooling": None,
        "lower_case": False,
    }
    return Snapshot(**attributes | changes)


def read(model: Model, folder: Path, max_seq_length: int | None = None, **changes: Any) -> Checkpoint:
    return read_facts(
        model,
        snapshot(folder, **changes),
        source="owner/model",
        source_name="the model",
        commit="c" * 40,
        equality=Equality(7, 12_345),
        max_seq_length=max_seq_length,
    )


def refusal(model: Model, folder: Path) -> tuple[type[Exception], str, str | None]:
    with pytest.raises((CheckpointError, UnsupportedModelError)) as failure:
        read(model, folder)
    return type(failure.value), failure.value.message, failure.value.next_step


@pytest.mark.parametrize(("stated", "recorded"), [(None, None), (5, 5), (8, 8), (100, 8)])
def test_a_dimension_to_truncate_to_is_set_apart(stated: int | None, recorded: int | None, tmp_path: Path) -> None:
    """The reference keeps all dimensions: it judges graphs, which have them."""
    model = Model(Transformer(), Pooling(), Normalize(), truncate_dim=stated)
    facts = read(model, tmp_path).facts
    assert (facts.truncate_dim, facts.dimension, model.truncate_dim) == (recorded, 8, None)


def test_every_fact_is_that_of_the_model_or_of_its_files(tmp_path: Path) -> None:
    model = Model(
        Transformer(), Pooling(), Dense(), Normalize(), prompts={"query": "질문: ", "other": "글: "}, default="query"
    )
    found = read(model, tmp_path)
    assert found.facts == EncoderFacts(
        architecture="BertModel",
        modules=("Transformer", "Pooling", "Dense", "Normalize"),
        pooling=("cls", "mean"),
        dimension=8,
        max_seq_length=30,
        do_lower_case=False,
        prompt="질문: ",
        prompts={"query": "질문: ", "other": "글: "},
        similarity="dot",
        layers=5,
        heads=3,
        hidden_size=6,
    )
    files = {"config.json": "1" * 64, "model.safetensors": "2" * 64}
    assert found.model is model
    assert (found.source, found.commit, found.equality) == ("owner/model", "c" * 40, Equality(7, 12_345))
    assert (found.files, found.weights_sha256) == (files, hash_of(files, ["model.safetensors"]))
    assert found.parameter_hashes == {"0.weight": hash_of_parameter(WEIGHT)}
    assert (found.stated_pooling, found.ignored_keys) == (None, ())
    assert found.decisions == ("checkpoint: 7 tensors, 12,345 weights equal to the files, bit for bit",)
    assert (found.has_token_types, found.pad_token_id) == (True, PAD)


def test_a_pooling_that_was_asked_for_and_keys_that_were_left_out_are_told(tmp_path: Path) -> None:
    ignored = ("config.json: dish", "config.json: drink")
    found = read(Model(Transformer(), Pooling()), tmp_path, stated_pooling=("cls", "mean"), ignored=ignored)
    assert (found.stated_pooling, found.ignored_keys) == (("cls", "mean"), ignored)
    assert found.decisions[1:] == (
        "no modules.json: cls and mean pooling, as asked for",
        "left out of the configuration, unknown: config.json: dish, config.json: drink",
    )


@pytest.mark.parametrize(
    ("normalizer", "lower"),
    [(None, False), (normalizers.NFC(), False), (normalizers.Lowercase(), True)],
    ids=["none", "NFC", "Lowercase"],
)
def test_lower_casing_is_what_the_normalizer_does(tmp_path: Path, normalizer: Any, lower: bool) -> None:
    found = read(Model(Transformer(tokenizer=wrapped(normalizer)), Pooling()), tmp_path)
    assert found.facts.do_lower_case is lower


@pytest.mark.parametrize("lower", [True, False])
def test_the_anchor_lower_cases_as_the_files_say(tmp_path: Path, lower: bool) -> None:
    anchor = read(Model(Transformer(), Pooling()), tmp_path, lower_case=lower).anchor
    assert (anchor.normalizer is not None) is lower
    assert anchor.truncation is not None
    assert anchor.truncation["max_length"] == 30


@pytest.mark.parametrize("asked", [3, 29, 30])
def test_fewer_tokens_than_its_own_may_be_asked_for(tmp_path: Path, asked: int) -> None:
    model = Model(Transformer(), Pooling())
    found = read(model, tmp_path, max_seq_length=asked)
    assert (model.max_seq_length, found.facts.max_seq_length, found.own_max_seq_length) == (asked, asked, 30)
    for tokenizer in (found.tokenizer, found.anchor):
        assert tokenizer.truncation is not None
        assert tokenizer.truncation["max_length"] == asked
    fewer = asked < 30
    assert found.provenance().max_seq_length == (asked if fewer else None)
    assert found.decisions[1:] == ((f"max_seq_length {asked} of 30, as asked for",) if fewer else ())


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (1, "adds 2 special tokens to every sentence"),
        (2, "adds 2 special tokens to every sentence"),
        (31, "serves at most 30 tokens, special tokens included"),
    ],
)
def test_more_tokens_than_its_own_or_none_for_text_are_refused(tmp_path: Path, asked: int, told: str) -> None:
    with pytest.raises(InputError) as failure:
        read(Model(Transformer(), Pooling()), tmp_path, max_seq_length=asked)
    assert failure.value.message == f"`max_seq_length` is {asked}, and owner/model {told}"


def test_one_pooling_mode_may_be_a_string(tmp_path: Path) -> None:
    assert read(Model(Transformer(), Pooling("mean")), tmp_path).facts.pooling == ("mean",)


def test_there_is_a_prompt_only_where_a_default_is_named(tmp_path: Path) -> None:
    assert read(Model(Transformer(), Pooling(), prompts={"query": "질문: "}), tmp_path).facts.prompt == ""


@pytest.mark.parametrize(
    ("config", "token_types"),
    [
        (BertConfig(hidden_size=6, num_attention_heads=3, type_vocab_size=1), True),
        (BertConfig(hidden_size=6, num_attention_heads=3, type_vocab_size=0), False),
        (DistilBertConfig(dim=6, n_heads=3), False),
    ],
    ids=["one", "none", "not stated"],
)
def test_there_are_token_types_where_the_table_has_rows(tmp_path: Path, config: Any, token_types: bool) -> None:
    found = read(Model(Transformer(BertModel(config)), Pooling()), tmp_path)
    assert found.has_token_types is token_types


def test_the_bundles_tokenizer_is_a_copy_that_truncates_and_pads_as_the_references_does(tmp_path: Path) -> None:
    own = words_tokenizer("밥", "국")
    own.enable_padding(pad_id=SEP, pad_token="[SEP]", direction="left")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=own, pad_token="[SEP]", truncation_side="left")
    found = read(Model(Transformer(tokenizer=tokenizer), Pooling()), tmp_path)
    assert found.pad_token_id == SEP
    assert found.tokenizer.truncation == {
        "max_length": 30,
        "stride": 0,
        "strategy": "longest_first",
        "direction": "left",
    }
    assert found.tokenizer.padding == {
        "direction": "left",
        "pad_id": SEP,
        "pad_token": "[SEP]",
        "pad_type_id": 0,
        "length": None,
        "pad_to_multiple_of": None,
    }
    assert isinstance(found.tokenizer, Tokenizer)
    assert found.tokenizer is not tokenizer.backend_tokenizer
    assert found.tokenizer.encode("밥").ids == [CLS, 4, SEP]


class TestLongestInput:
    @pytest.mark.parametrize(
        ("stated", "padding", "longest"),
        [(3, None, 3), (40, None, 40), (41, None, 40), (None, None, 40), (99, 0, 39), (99, 1, 38), (None, 1, 38)],
    )
    def test_is_what_is_stated_or_what_the_position_table_serves(
        self, tmp_path: Path, stated: int | None, padding: int | None, longest: int
    ) -> None:
        model = Model(Transformer(BertModel(padding=padding)), Pooling(), max_seq_length=stated)
        found = read(model, tmp_path)
        assert (found.facts.max_seq_length, model.max_seq_length) == (longest, longest)

    def test_a_limit_of_the_checkpoints_own_stays_as_it_is_in_the_reference(self, tmp_path: Path) -> None:
        """Else a mistake in korsbert's figure would change what judges an export, and no gate would see it."""

        class Set(Model):
            def __setattr__(self, name: str, value: Any) -> None:
                changed.append(name)
                super().__setattr__(name, value)

        changed: list[str] = []
        model = Set(Transformer(), Pooling(), max_seq_length=40)
        changed.clear()
        read(model, tmp_path)
        assert changed == []

    @pytest.mark.parametrize("stated", [2, 0, "30", 30.5])
    def test_that_leaves_no_room_for_text_or_is_no_number_is_refused(self, tmp_path: Path, stated: Any) -> None:
        assert refusal(Model(Transformer(), Pooling(), max_seq_length=stated), tmp_path) == (
            CheckpointError,
            f"owner/model: max_seq_length is {stated!r}, which leaves no room for text beside 2 special tokens",
            "correct it in sentence_bert_config.json",
        )


class TestRefused:
    def test_a_token_without_a_row_in_the_table_of_word_vectors(self, tmp_path: Path) -> None:
        """PyTorch fails for it, and OpenVINO answers with the vector of some other row."""
        model = Model(Transformer(BertModel(words=WORDS - 1)), Pooling())
        assert refusal(model, tmp_path) == (
            CheckpointError,
            "owner/model: its tokenizer gives ids beyond the rows of its embedding table: '국' has the id 5, and there "
            "are 5 rows",
            "check that tokenizer and weights belong together",
        )

    @pytest.mark.parametrize(
        ("modules", "told"),
        [
            ((Transformer(), Pooling(), Whitening(), Dense()), "Whitening"),
            ((Transformer(), Dense(), Pooling()), "Transformer then Dense then Pooling"),
            ((Transformer(),), "Transformer"),
            ((Pooling(), Transformer()), "Pooling then Transformer"),
        ],
    )
    def test_modules_that_cannot_be_folded(self, tmp_path: Path, modules: tuple[Any, ...], told: str) -> None:
        assert refusal(Model(*modules), tmp_path) == (
            UnsupportedModelError,
            f"owner/model: {told} cannot be folded",
            "use a Transformer, a Pooling, then any of Dense, LayerNorm, Normalize",
        )

    def test_a_pooling_that_leaves_the_prompt_out(self, tmp_path: Path) -> None:
        assert refusal(Model(Transformer(), Pooling(include_prompt=False)), tmp_path) == (
            UnsupportedModelError,
            "owner/model: Pooling with include_prompt=false cannot be folded: it leaves the prompt out of the vector, "
            "and an engine does not know which tokens the prompt is",
            "use a checkpoint whose vectors include the prompt",
        )

    def test_a_tokenizer_of_another_library(self, tmp_path: Path) -> None:
        class SlowTokenizer:
            pass

        assert refusal(Model(Transformer(tokenizer=SlowTokenizer()), Pooling()), tmp_path) == (
            UnsupportedModelError,
            "owner/model: its tokenizer SlowTokenizer is not one of the tokenizers library, and a bundle can carry no "
            "other",
            "correct tokenizer_class in tokenizer_config.json, or save tokenizer.json",
        )

    def test_a_pooling_of_another_width(self, tmp_path: Path) -> None:
        assert refusal(Model(Transformer(), Pooling(dimension=7)), tmp_path) == (
            CheckpointError,
            "owner/model: Pooling states embedding_dimension 7, and config.json states hidden_size 6",
            "correct it in the config.json of Pooling",
        )
