"""Small files that ask for gigabytes or hours, and files that are no files: each is one sentence, and little memory."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from exporter.bundle import Bundle
from exporter.bundle.manifest import MANIFEST, Manifest, parse_manifest, parse_record
from exporter.checkpoint import load_checkpoint
from exporter.checkpoint.hub import download
from exporter.errors import BundleError, CheckpointError, HubError, RecipeError
from exporter.files import SMALL
from exporter.hub.client import without_credentials
from exporter.recipe import Recipe, load_recipe
from tests.support.checkpoints import save_checkpoint
from tests.support.fuzzing import many, within_one_gibibyte
from tests.support.manifests import reseal

Edit = Callable[[dict[str, torch.Tensor]], None]


@pytest.mark.parametrize("value", ["[]", "{}", "0"])
def test_a_manifest_and_a_record_of_many_values(value: str, twin_bundle: Path) -> None:
    sound = (twin_bundle / MANIFEST).read_bytes()
    manifest = Manifest.model_validate_json(sound)
    assert parse_manifest(twin_bundle / MANIFEST, sound) == manifest
    with within_one_gibibyte():
        with pytest.raises(BundleError):
            parse_manifest(Path(MANIFEST), f'{{"format": 2, "machine": {{"a": {many(value)}}}}}'.encode())
        with pytest.raises(BundleError):
            parse_record(Path("validation.json"), f'{{"report": {{"a": {many(value)}}}}}'.encode(), manifest)


def test_a_manifest_that_is_larger_is_not_read(twin_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(twin_bundle, tmp_path / "bundle"))
    (bundle / MANIFEST).write_bytes(b" " * (SMALL + 1))
    with pytest.raises(BundleError, match="it is larger than 8 MiB"):
        Bundle.open(bundle)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: &a x\nsummary: *a\n", "aliases are not supported"),
        ("x: &r [1.0]\nfirst: [*r, *r]\n", "aliases are not supported"),
        ("#" * 300_000, "it is larger than 256 KiB"),
    ],
)
def test_a_recipe_that_grows(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=told):
        load_recipe(tmp_path / "recipe.yaml")


def test_a_listed_file_of_another_size_is_not_hashed(twin_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(twin_bundle, tmp_path / "bundle"))
    os.truncate(bundle / "README.md", 2**40)  # a sparse file: it would take an hour
    with pytest.raises(BundleError, match=r"README\.md: altered since it was published"):
        Bundle.open(bundle)


@pytest.mark.parametrize(
    "normalizer",
    [
        {"type": "Replace", "pattern": {"String": " "}, "content": "x" * 101},
        {"type": "Prepend", "prepend": "x" * 101},
        {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Prepend", "prepend": "x" * 101}]},
    ],
)
def test_a_tokenizer_that_writes_long_texts(normalizer: Any, twin_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(twin_bundle, tmp_path / "bundle"))
    content = json.loads((bundle / "tokenizer.json").read_text(encoding="utf-8"))
    (bundle / "tokenizer.json").write_text(json.dumps({**content, "normalizer": normalizer}), encoding="utf-8")
    reseal(bundle)
    with pytest.raises(BundleError, match="its normalizer writes 101 characters for a few, and 100 are allowed"):
        Bundle.open(bundle).encoder()


class TestWeights:
    """Configurations that no tensor with numbers in it bears out."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return save_checkpoint(tmp_path, "bert")

    @staticmethod
    def change(folder: Path, edit: Edit, **config: Any) -> None:
        state = load_file(folder / "model.safetensors")
        edit(state)
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **config}), encoding="utf-8")

    def refused(self, folder: Path, told: str) -> None:
        with within_one_gibibyte(), pytest.raises(CheckpointError, match=told):
            load_checkpoint(Recipe(name="case", source=str(folder)))

    def test_a_vocabulary_of_a_tensor_without_numbers(self, folder: Path) -> None:
        self.change(folder, lambda state: state.update(x=torch.zeros(0, 10**9)), vocab_size=2 * 10**7)
        self.refused(folder, "vocab_size is 20000000, and the largest extent of a tensor in the weight files is ")

    def test_a_vocabulary_of_a_long_tensor(self, folder: Path) -> None:
        self.change(folder, lambda state: state.update(x=torch.zeros(10**6)), vocab_size=10**6)
        self.refused(
            folder, "vocab_size is 1000000, and the weight files hold [0-9,]+ numbers in all, and each of its "
        )

    def test_layers_of_tensors_without_numbers(self, folder: Path) -> None:
        def edit(state: dict[str, torch.Tensor]) -> None:
            state.update({f"x{number}": torch.zeros(0) for number in range(3000)})

        self.change(folder, edit, num_hidden_layers=3000)
        self.refused(folder, "num_hidden_layers is 3000, and the weight files hold [0-9]+ tensors")

    def test_layers_of_many_tensors(self, folder: Path) -> None:
        def edit(state: dict[str, torch.Tensor]) -> None:
            state.update({f"x{number}": torch.zeros(1) for number in range(3000)})

        self.change(folder, edit, num_hidden_layers=3000)
        self.refused(folder, "num_hidden_layers is 3000, and at most 1000 layers can be exported")

    def test_one_number_that_says_it_is_ten_million(self, folder: Path) -> None:
        state = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
        name = next(iter(state))
        state[name] = torch.zeros(1).expand(10**7)
        (folder / "model.safetensors").unlink()
        torch.save(state, folder / "pytorch_model.bin")
        self.refused(folder, f"{name} has 10,000,000 numbers, and the file does not hold so many for it")

    def test_a_file_that_does_not_fit_on_the_disk(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("exporter.checkpoint.snapshot.shutil.disk_usage", lambda _: SimpleNamespace(free=100))
        self.refused(folder, r"bytes do not fit into the [0-9,]+ that are free in")


@pytest.mark.parametrize(
    "endpoint",
    ["user:s3cret@127.0.0.1:1", "http:/user:s3cret@h", "https://user:s3cret@h:port", "https://[::bad", "ftp://h", ""],
)
def test_an_endpoint_that_is_no_url_is_refused_and_not_repeated(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    with pytest.raises(HubError) as caught:
        download("owner/name", None)
    assert caught.value.message == "HF_ENDPOINT is not the URL of a hub"
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("at https://user:pass@host/x", "at https://host/x"),
        ("at user:pass@host:1: gone", "at host:1: gone"),
        ("http:/user:pass@h", "http:/h"),
        ("owner/name@main: no", "owner/name@main: no"),
        ("write to a@b.c", "write to a@b.c"),
    ],
)
def test_user_names_and_passwords_are_left_out(text: str, told: str) -> None:
    assert without_credentials(text) == told
