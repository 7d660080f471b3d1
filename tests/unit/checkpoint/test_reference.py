"""The reference on a model that answers as the test says: what it is given, where, and what becomes of the answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from exporter.checkpoint.reference import Checkpoint, forward
from exporter.errors import CheckpointError
from exporter.recipe import Source
from tests.support.stand_in import FACTS, stand_in, words_tokenizer


class Recorder(nn.Module):
    """A module that remembers its features, and answers with the ids as vectors."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.seen: dict[str, Tensor] = {}
        self._dtype = dtype
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        self.seen = dict(features)
        return {**features, "sentence_embedding": self.scale * features["input_ids"].to(self._dtype)}


class Modules:
    """What a SentenceTransformer is to ``forward``: its modules in order, and the device that they are on."""

    def __init__(self, *modules: nn.Module, device: str = "cpu") -> None:
        self._modules, self.device = modules, torch.device(device)

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self._modules)


class Encodes:
    """What a SentenceTransformer is to ``encode``: a vector of the sentence's number for every sentence."""

    def __init__(self, sentences: list[str]) -> None:
        self._sentences = sentences
        self.batches: list[list[int]] = []
        self.options: list[dict[str, Any]] = []

    def encode(self, sentences: list[str], **options: Any) -> np.ndarray:
        numbers = [self._sentences.index(sentence) for sentence in sentences]
        self.batches.append(numbers)
        self.options.append(options)
        return np.repeat(np.array(numbers, np.float32)[:, None], 3, axis=1)


IDS = torch.tensor([[5, 6, 7], [8, 9, 0]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])


class TestForward:
    @pytest.mark.parametrize("token_types", [True, False])
    def test_each_module_is_given_what_the_one_before_it_made(self, token_types: bool) -> None:
        first, second = Recorder(), Recorder()
        vectors = forward([first, second], IDS, MASK, has_token_types=token_types)
        assert torch.equal(vectors, IDS.float())
        names = ["input_ids", "attention_mask", *(["token_type_ids"] if token_types else [])]
        assert [*first.seen] == names
        assert [*second.seen] == [*names, "sentence_embedding"]
        assert first.seen["input_ids"] is IDS
        assert first.seen["attention_mask"] is MASK
        if token_types:
            assert torch.equal(first.seen["token_type_ids"], torch.zeros(2, 3, dtype=torch.int64))

    @pytest.mark.parametrize("token_types", [True, False])
    def test_of_a_checkpoint_computes_where_the_model_is(self, token_types: bool) -> None:
        module = Recorder()
        checkpoint = stand_in(model=Modules(module, device="meta"), has_token_types=token_types)
        vectors = checkpoint.forward(IDS, MASK)
        assert vectors.shape == (2, 3)
        assert ("token_type_ids" in module.seen) is token_types
        assert {tensor.device.type for tensor in (vectors, *module.seen.values())} == {"meta"}

    def test_of_token_ids_returns_float32_without_a_gradient(self) -> None:
        module = Recorder(torch.float64)
        vectors = stand_in(model=Modules(module)).encode_tokens(IDS.numpy(), MASK.numpy())
        assert vectors.dtype == np.float32
        np.testing.assert_array_equal(vectors, IDS.numpy())
        assert torch.equal(module.seen["attention_mask"], MASK)


class TestEncoding:
    def encoded(self, sentences: list[str], prompt: str = "") -> tuple[Encodes, np.ndarray]:
        model = Encodes(sentences)
        facts = FACTS.model_copy(update={"prompt": prompt})
        checkpoint = stand_in(model=model, facts=facts, tokenizer=words_tokenizer("밥", "국"))
        return model, checkpoint.encode(sentences)

    def test_vectors_come_in_the_order_of_the_sentences(self) -> None:
        sentences = ["밥", "밥 국 밥", "밥 국", ""]
        _, vectors = self.encoded(sentences)
        assert vectors.dtype == np.float32
        np.testing.assert_array_equal(vectors, [[0.0] * 3, [1.0] * 3, [2.0] * 3, [3.0] * 3])

    def test_a_batch_has_32_sentences_or_fewer(self) -> None:
        model, _ = self.encoded([f"국{number}" for number in range(70)])
        assert model.batches == [[*range(32)], [*range(32, 64)], [*range(64, 70)]]
        assert model.options == [
            {"prompt_name": None, "batch_size": size, "show_progress_bar": False} for size in (32, 32, 6)
        ]

    @pytest.mark.parametrize(("prompt", "together"), [("", 2), ("밥 ", 1)])
    def test_a_batch_has_2048_tokens_or_fewer_with_padding_and_prompt(self, prompt: str, together: int) -> None:
        sentences = [" ".join(["밥"] * 1021 + [end]) for end in ("국", "죽")]  # 1024 tokens with [CLS] and [SEP]
        model, _ = self.encoded(sentences, prompt)
        assert [len(batch) for batch in model.batches] == [together] * (2 // together)

    def test_a_batch_of_odd_lengths_has_2048_tokens_or_fewer(self) -> None:
        model, _ = self.encoded([" ".join(["밥"] * 680 + [end]) for end in ("국", "죽", "떡")])  # 3 x 683 is 2049
        assert model.batches == [[0, 1], [2]]

    def test_ids_beyond_the_embedding_table_are_refused(self) -> None:
        class Small:
            def encode(self, *_: Any, **__: Any) -> np.ndarray:
                raise IndexError("index out of range in self")

        with pytest.raises(CheckpointError) as failure:
            stand_in(model=Small()).encode(["밥"])
        assert failure.value.message == "owner/model: its tokenizer gives ids beyond the rows of its embedding table"
        assert failure.value.next_step == "check that tokenizer and weights belong together"


def test_parameters_have_the_models_names_and_four_bytes_a_number() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    checkpoint: Checkpoint = stand_in(model=model)
    assert [*checkpoint.parameters] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert checkpoint.parameters["0.weight"] is model[0].weight
    assert checkpoint.parameter_bytes() == 4 * (6 + 2 + 2 + 2)


def test_a_manifest_says_where_it_came_from() -> None:
    assert stand_in().provenance() == Source(
        checkpoint="the model",
        commit="c" * 40,
        weights_sha256="w" * 64,
        files={"config.json": "f" * 64},
        pooling=("mean",),
    )
