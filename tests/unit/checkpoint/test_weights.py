"""Every parameter equals the tensor it comes from; what has no partner, or two, is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from exporter.checkpoint.parameters import Equality, check_parameters
from exporter.checkpoint.weights import StoredWeights, hash_of_parameter
from exporter.errors import CheckpointError


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(4, 3)
        self.LayerNorm = nn.LayerNorm(3)
        self.pooler = nn.Linear(3, 3)


@pytest.fixture
def block() -> Block:
    torch.manual_seed(0)
    return Block()


def stored(folder: Path, state: dict[str, Tensor], name: str = "model.safetensors") -> StoredWeights:
    if name.endswith(".bin"):
        torch.save(state, folder / name)
    else:
        save_file({key: tensor.clone() for key, tensor in state.items()}, folder / name)
    return StoredWeights([folder / name])


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_equal_weights_are_counted(block: Block, tmp_path: Path, name: str) -> None:
    found = check_parameters(block, stored(tmp_path, block.state_dict(), name))
    assert found == Equality(tensors=5, weights=12 + 6 + 12)


@pytest.mark.parametrize("prefix", ["bert.", ""])
def test_names_of_older_files_are_understood(block: Block, tmp_path: Path, prefix: str) -> None:
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    state = {prefix + old.get(name, name): tensor for name, tensor in block.state_dict().items()}
    assert check_parameters(block, stored(tmp_path, state), "bert").tensors == 5


def test_stored_halves_are_compared_as_float32(block: Block, tmp_path: Path) -> None:
    block.half().float()
    state = {name: tensor.half() for name, tensor in block.state_dict().items()}
    assert check_parameters(block, stored(tmp_path, state)).tensors == 5


@pytest.mark.parametrize("how", ["another bit", "another sign of zero", "another shape"])
def test_a_difference_is_found(block: Block, tmp_path: Path, how: str) -> None:
    with torch.no_grad():
        block.table.weight[3, 2] = 0.0
    state = {name: tensor.clone() for name, tensor in block.state_dict().items()}
    if how == "another bit":
        state["table.weight"].view(torch.int32)[2, 1] ^= 1
    elif how == "another sign of zero":
        state["table.weight"][3, 2] = -0.0
    else:
        state["table.weight"] = state["table.weight"].T.contiguous()
    with pytest.raises(CheckpointError, match=r"the loaded weight table\.weight differs from the file"):
        check_parameters(block, stored(tmp_path, state))


def test_missing_and_foreign_names_are_told_together(block: Block, tmp_path: Path) -> None:
    state = {f"student.{name}": tensor for name, tensor in block.state_dict().items()}
    with pytest.raises(CheckpointError) as failure:
        check_parameters(block, stored(tmp_path, state), "bert")
    assert "3 of 3 weights are missing, the first is table.weight" in str(failure.value)
    assert "5 in the files belong to no parameter, the first is student." in str(failure.value)


def test_only_a_pooler_may_be_missing(block: Block, tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in block.state_dict().items() if not name.startswith("pooler.")}
    assert check_parameters(block, stored(tmp_path, state)).tensors == 3
    del state["LayerNorm.bias"]
    with pytest.raises(CheckpointError, match=r"1 of 3 weights are missing, the first is LayerNorm\.bias"):
        check_parameters(block, stored(tmp_path, state))


@pytest.mark.parametrize("head", ["cls.predictions.bias", "lm_head.dense.weight", "vocab_projector.bias"])
def test_a_pretraining_head_may_be_left_over(block: Block, tmp_path: Path, head: str) -> None:
    state = block.state_dict() | {head: torch.zeros(2)}
    assert check_parameters(block, stored(tmp_path, state)).tensors == 5


@pytest.mark.parametrize("part", ["mlp.dense.weight", "classifier.weight", "encoder.layer.9.output.dense.weight"])
def test_another_part_may_not(block: Block, tmp_path: Path, part: str) -> None:
    with pytest.raises(CheckpointError, match=f"1 weights belong to no parameter of Block, the first is {part}"):
        check_parameters(block, stored(tmp_path, block.state_dict() | {part: torch.zeros(2)}))


def test_one_of_two_tied_names_is_enough(block: Block, tmp_path: Path) -> None:
    block.second = nn.Embedding(4, 3)
    block.second.weight = block.table.weight
    state = {name: tensor for name, tensor in block.state_dict().items() if name != "second.weight"}
    assert check_parameters(block, stored(tmp_path, state)) == Equality(tensors=5, weights=30)
    state |= {"second.weight": torch.zeros(4, 3)}
    with pytest.raises(CheckpointError, match=r"the loaded weight second\.weight differs from the file"):
        check_parameters(block, stored(tmp_path, state))


def test_two_tensors_for_one_parameter_are_refused(block: Block, tmp_path: Path) -> None:
    state = block.state_dict()
    state |= {"bert.table.weight": state["table.weight"]}
    with pytest.raises(CheckpointError, match=r"are both weights for table\.weight"):
        check_parameters(block, stored(tmp_path, state), "bert")


def test_the_hash_of_a_parameter_is_that_of_its_numbers(block: Block) -> None:
    before = hash_of_parameter(block.table.weight)
    assert hash_of_parameter(block.table.weight.detach().clone()) == before
    with torch.no_grad():
        block.table.weight[0, 0] *= -1
    assert hash_of_parameter(block.table.weight) != before
    assert hash_of_parameter(torch.eye(2)[:, :1]) == hash_of_parameter(torch.tensor([1.0, 0.0]))


def test_a_tensor_in_two_files_is_refused(block: Block, tmp_path: Path) -> None:
    for name in ("first.safetensors", "second.safetensors"):
        save_file({"table.weight": block.table.weight.detach().clone()}, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"second\.safetensors: holds table\.weight, which another file"):
        StoredWeights([tmp_path / "first.safetensors", tmp_path / "second.safetensors"])


def test_a_pickle_of_other_things_is_refused(tmp_path: Path) -> None:
    torch.save({"table.weight": torch.zeros(1), "step": 3}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="expected tensors, and step is a int"):
        StoredWeights([tmp_path / "pytorch_model.bin"])
