"""Checkpoints whose files name, split or join their tensors otherwise than transformers' classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from exporter.checkpoint.parameters import check_parameters
from exporter.checkpoint.stored_names import Stored, stored_names
from exporter.checkpoint.weights import StoredWeights
from exporter.errors import CheckpointError
from tests.support.checkpoints import ARCHITECTURES

JOINED = {
    "gte": "encoder.layer.1.attention.qkv_proj.bias",
    "jina_embeddings_v3": "encoder.layers.1.mixer.Wqkv.weight",
    "nomic_bert": "encoder.layers.1.attn.Wqkv.weight",
}
OWN_NAMES = [name for name in JOINED if name in ARCHITECTURES]


@pytest.fixture(params=OWN_NAMES)
def architecture(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def build(architecture: str) -> torch.nn.Module:
    config_class, model_class, sizes = ARCHITECTURES[architecture]
    torch.manual_seed(0)
    model: torch.nn.Module = model_class(config_class(**sizes))
    return model


def state_as_published(model: torch.nn.Module, folder: Path) -> dict[str, Tensor]:
    """Return the tensors by the names that the authors' files have, which transformers writes as well."""
    model.save_pretrained(folder)  # type: ignore[operator]
    return load_file(folder / "model.safetensors")


def checked(model: torch.nn.Module, state: dict[str, Tensor], architecture: str, folder: Path) -> int:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
    stored = StoredWeights([folder / "model.safetensors"])
    return check_parameters(model, stored, str(model.base_model_prefix), architecture).tensors


def test_every_parameter_finds_its_tensor(architecture: str, tmp_path: Path) -> None:
    model = build(architecture)
    state = state_as_published(model, tmp_path)
    assert JOINED[architecture] in state
    assert checked(model, state, architecture, tmp_path) == len(list(model.parameters())) > len(state)


def test_the_names_of_transformers_are_understood_as_well(architecture: str, tmp_path: Path) -> None:
    model = build(architecture)
    state = {f"{model.base_model_prefix}.{name}": tensor for name, tensor in model.state_dict().items()}
    assert checked(model, state, architecture, tmp_path) == len(list(model.parameters()))


@pytest.mark.parametrize(("row", "module"), [(0, "q"), (31, "q"), (32, "k"), (95, "v")])
def test_a_row_of_a_joined_tensor_belongs_to_one_parameter(
    row: int, module: str, architecture: str, tmp_path: Path
) -> None:
    model = build(architecture)
    state = state_as_published(model, tmp_path)
    state[JOINED[architecture]][row] += 1
    with pytest.raises(CheckpointError, match=rf"layers\.1\.self_attn\.{module}_proj\.\w+ differs from the file"):
        checked(model, state, architecture, tmp_path)


def test_a_row_too_many_is_not_lost(architecture: str, tmp_path: Path) -> None:
    model = build(architecture)
    state = state_as_published(model, tmp_path)
    joined = state[JOINED[architecture]]
    state[JOINED[architecture]] = torch.cat([joined, joined[-1:]])
    with pytest.raises(CheckpointError, match=r"self_attn\.q_proj\.\w+ differs from the file"):
        checked(model, state, architecture, tmp_path)


def test_a_joined_tensor_of_another_module_is_named_once(architecture: str, tmp_path: Path) -> None:
    model = build(architecture)
    state = state_as_published(model, tmp_path)
    extra = JOINED[architecture].replace(".1.", ".9.")
    state[extra] = state[JOINED[architecture]].clone()
    with pytest.raises(CheckpointError, match=f"1 weights belong to no parameter of .*, the first is {extra}"):
        checked(model, state, architecture, tmp_path)


def test_a_parameter_in_a_joined_tensor_and_by_itself_is_refused(architecture: str, tmp_path: Path) -> None:
    model = build(architecture)
    state = state_as_published(model, tmp_path)
    own = "layers.1.self_attn.k_proj." + JOINED[architecture].rpartition(".")[2]
    state[own] = model.state_dict()[own].clone()
    with pytest.raises(CheckpointError, match=f"are both weights for {own}"):
        checked(model, state, architecture, tmp_path)


def test_other_architectures_keep_their_names() -> None:
    names = ["encoder.layers.0.norm1.weight", "emb_ln.weight", "attn.Wqkv.weight", "bert.LayerNorm.gamma"]
    assert stored_names(names, "bert", "bert", "here") == {
        "encoder.layers.0.norm1.weight": Stored("encoder.layers.0.norm1.weight"),
        "emb_ln.weight": Stored("emb_ln.weight"),
        "attn.Wqkv.weight": Stored("attn.Wqkv.weight"),
        "LayerNorm.weight": Stored("bert.LayerNorm.gamma"),
    }
