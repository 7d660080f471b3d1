"""Which parameters a vector depends on: those that it can be differentiated by, and of a table that is always read at
one row that row alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from exporter.validator.provenance.parameters import dependent_parameters

WORDS, TYPES, POSITIONS = (f"0.auto_model.{name}.weight" for name in ("words", "types", "positions"))
DENSE = ("0.auto_model.dense.weight", "0.auto_model.dense.bias")


class Encoder(nn.Module):
    """Sums of word, position and type vectors, and a linear layer; the pooler is read by nothing."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.words, self.positions, self.types = (nn.Embedding(rows, 4) for rows in (vocabulary, 8, 2))
        self.dense, self.pooler = nn.Linear(4, 3), nn.Linear(3, 3)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.words

    def forward(self, ids: Tensor) -> Tensor:
        positions = self.positions(torch.arange(ids.shape[1]).expand_as(ids))
        summed: Tensor = self.words(ids) + positions + self.types(torch.ones_like(ids))
        return self.dense(summed).sum(dim=1)  # type: ignore[no-any-return]


class Transformer(nn.Module):
    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.auto_model = Encoder(vocabulary)


class Checkpoint(SimpleNamespace):
    """As much of a checkpoint as is asked for, and what was encoded with it."""

    def __init__(self, vocabulary: int = 50, tokens: int = 128) -> None:
        super().__init__(
            model=nn.Sequential(Transformer(vocabulary)),
            facts=SimpleNamespace(max_seq_length=tokens),
            pad_token_id=1,
            encoded=[],
        )

    @property
    def encoder(self) -> Encoder:
        encoder: Encoder = self.model[0].auto_model
        return encoder

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        self.encoded.append((ids.tolist(), mask.tolist()))
        vectors: Tensor = self.encoder(ids)
        return vectors


def rows_of(checkpoint: Any) -> dict[str, tuple[int, ...] | None]:
    return {name: parameter.rows for name, parameter in dependent_parameters(checkpoint).items()}


def test_every_parameter_takes_part_but_the_pooler_and_rows_that_are_never_read() -> None:
    assert rows_of(Checkpoint()) == {WORDS: None, POSITIONS: None, TYPES: (1,), **dict.fromkeys(DENSE)}


def test_values_are_those_of_the_reference_and_no_copies() -> None:
    checkpoint: Any = Checkpoint()
    parameters = dependent_parameters(checkpoint)
    for name, tensor in checkpoint.model.named_parameters():
        if name in parameters:
            assert parameters[name].name == name
            np.testing.assert_array_equal(parameters[name].values, tensor.detach().numpy(), strict=True)
            assert np.shares_memory(parameters[name].values, tensor.detach().numpy())


@pytest.mark.parametrize(
    ("vocabulary", "tokens", "ids", "mask"),
    [
        (50, 128, [[*range(2, 10)], [*range(10, 18)]], [[1] * 8, [1] * 4 + [0] * 4]),
        (50, 3, [[2, 3, 4], [5, 6, 7]], [[1, 1, 1], [1, 0, 0]]),
        (5, 3, [[2, 3, 4], [0, 1, 2]], [[1, 1, 1], [1, 0, 0]]),
    ],
    ids=["as many as 8 tokens", "no more than the checkpoint takes", "no id beyond the table"],
)
def test_two_rows_of_different_tokens_are_encoded_one_of_them_padded(
    vocabulary: int, tokens: int, ids: list[list[int]], mask: list[list[int]]
) -> None:
    checkpoint: Any = Checkpoint(vocabulary, tokens)
    dependent_parameters(checkpoint)
    assert checkpoint.encoded == [(ids, mask)]


def test_a_table_that_two_modules_read_at_different_rows_takes_part_with_all_of_them() -> None:
    class Two(Encoder):
        def __init__(self) -> None:
            super().__init__(50)
            self.others = nn.Embedding(2, 4)
            self.others.weight = self.types.weight

        def forward(self, ids: Tensor) -> Tensor:
            other: Tensor = self.others(torch.zeros_like(ids)).sum()
            return super().forward(ids) + other

    checkpoint: Any = Checkpoint()
    checkpoint.model[0].auto_model = Two()
    assert rows_of(checkpoint)[TYPES] is None


def test_frozen_parameters_take_part_also_where_gradients_are_off() -> None:
    checkpoint: Any = Checkpoint()
    checkpoint.model.requires_grad_(False)
    with torch.no_grad():
        assert rows_of(checkpoint).keys() == {WORDS, POSITIONS, TYPES, *DENSE}


@pytest.mark.parametrize("fails", [False, True])
def test_the_reference_stays_as_it_was(fails: bool) -> None:
    checkpoint: Any = Checkpoint()
    checkpoint.encoder.dense.requires_grad_(False)
    if fails:
        checkpoint.encoder.dense.weight.data = torch.zeros(3, 5)
        with pytest.raises(RuntimeError, match="shapes"):
            dependent_parameters(checkpoint)
    else:
        assert rows_of(checkpoint).keys() >= set(DENSE)
    frozen = {name for name, parameter in checkpoint.model.named_parameters() if not parameter.requires_grad}
    assert frozen == set(DENSE)
    assert not any(module._forward_pre_hooks for module in checkpoint.model.modules())
