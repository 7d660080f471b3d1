"""The steps of loading one by one: where a checkpoint comes from, how it is opened, and what it is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import BertConfig

from exporter.checkpoint import loading as module
from exporter.checkpoint.loading import load_source
from exporter.checkpoint.parameters import Equality
from exporter.checkpoint.weights import StoredWeights
from exporter.errors import CheckpointError, MissingDependencyError
from exporter.recipe import Recipe, Source, find_recipe
from tests.support.stand_in import stand_in

HUB = Recipe(name="case", source="owner/model", revision="v1")
SOURCE = Source(checkpoint="owner/model", commit="c" * 40, weights_sha256="w" * 64, files={"config.json": "f" * 64})


class TestPlace:
    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
        """What the hub is asked for; it answers with a folder and a commit."""
        asked = []

        def download(source: str, revision: str | None) -> tuple[Path, str]:
            asked.append((source, revision))
            return Path("/cache"), "c" * 40

        monkeypatch.setattr(module, "download", download)
        return asked

    @pytest.mark.parametrize(("given", "revision"), [(None, "v1"), ("v2", "v2")])
    def test_is_the_hub_at_the_revision_given_or_the_recipes(
        self, asked: list[tuple[str, str | None]], given: str | None, revision: str
    ) -> None:
        assert module._resolve(HUB, None, given) == (Path("/cache"), "c" * 40)
        assert asked == [("owner/model", revision)]

    @pytest.mark.parametrize("revision", [None, "v2"])
    def test_is_the_folder_given_whatever_the_recipe_says(
        self, asked: list[tuple[str, str | None]], tmp_path: Path, revision: str | None
    ) -> None:
        relative = tmp_path / "sub" / ".."
        (tmp_path / "sub").mkdir()
        assert module._resolve(HUB, relative, revision) == (relative, None)
        assert HUB.source_name(relative) == tmp_path.name
        assert asked == []

    def test_is_the_folder_that_the_recipe_names(self, tmp_path: Path) -> None:
        recipe = Recipe(name="case", source=str(tmp_path))
        assert module._resolve(recipe, None, None) == (tmp_path, None)
        assert recipe.source_name() == tmp_path.name
        with pytest.raises(CheckpointError) as failure:
            module._resolve(recipe, None, "v2")
        assert failure.value.message == f"{tmp_path}: a local folder has no revision 'v2'"
        assert failure.value.next_step == "leave out `revision`"

    def test_of_a_checkpoint_that_ships_is_named_relative_to_the_recipes(self) -> None:
        assert find_recipe("demo").source_name() == "demo/checkpoint"
        assert HUB.source_name() == "owner/model"


class TestOpening:
    @pytest.fixture
    def opened(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
        """What sentence-transformers is asked to open; it answers with a model in half precision."""
        opened = []

        def load(folder: str, **options: Any) -> nn.Module:
            opened.append((folder, options))
            return nn.Linear(2, 2).half().train()

        monkeypatch.setattr(module, "SentenceTransformer", load)
        return opened

    @pytest.mark.parametrize("device", ["cpu", "cuda"])
    def test_runs_nobodys_code_asks_no_hub_and_computes_in_float32(
        self, opened: list[tuple[str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch, device: str
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "cuda")
        model = module._load(Path("/copy"), device)
        options = {"trust_remote_code": False, "local_files_only": True, "model_kwargs": {"dtype": torch.float32}}
        assert opened == [("/copy", {"device": device, **options})]
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert not model.training

    def test_on_a_device_that_is_not_there_is_refused(
        self, opened: list[tuple[str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(MissingDependencyError) as failure:
            module._load(Path("/copy"), "cuda")
        assert (failure.value.message, failure.value.next_step) == (
            "torch finds no CUDA device here",
            "use `device=cpu`",
        )
        assert opened == []


class TestWeights:
    class Transformer(nn.Module):
        """A module whose weights have the prefix of an architecture in its files."""

        def __init__(self) -> None:
            super().__init__()
            self.auto_model = nn.Linear(3, 2)
            self.auto_model.base_model_prefix = "bert"  # type: ignore[assignment]
            self.auto_model.config = BertConfig()

    def stored(self, folder: Path, layer: nn.Module, prefix: str = "") -> StoredWeights:
        folder.mkdir()
        state = {prefix + name: tensor.clone() for name, tensor in layer.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        return StoredWeights([folder / "model.safetensors"])

    def test_of_every_module_that_has_some_are_compared_and_counted(self, tmp_path: Path) -> None:
        transformer, dense = self.Transformer(), nn.Linear(2, 2)
        model: Any = [transformer, nn.Identity(), dense]
        first = self.stored(tmp_path / "0", transformer.auto_model, "bert.")
        second = self.stored(tmp_path / "2", dense)
        assert module._check_weights(model, {tmp_path / "0": first, tmp_path / "2": second}) == Equality(4, 14)
        dense.weight.data[1, 1] += 1
        with pytest.raises(CheckpointError, match="the loaded weight weight differs from the file"):
            module._check_weights(model, {tmp_path / "0": first, tmp_path / "2": second})

    def test_of_a_module_without_a_file_are_an_error(self, tmp_path: Path) -> None:
        transformer = self.Transformer()
        stored = {tmp_path / "0": self.stored(tmp_path / "0", transformer.auto_model, "bert.")}
        model: Any = [transformer, nn.Linear(2, 2)]
        with pytest.raises(ValueError, match="shorter"):
            module._check_weights(model, stored)


class TestSourceOfABundle:
    def compare(self, monkeypatch: pytest.MonkeyPatch, source: Source, **found: Any) -> tuple[str, str | None] | None:
        """Load a checkpoint that is not ``source`` in some attributes; return message and next step of its refusal."""
        monkeypatch.setattr(module, "load_checkpoint", lambda *_, **__: stand_in(**found))
        try:
            load_source(HUB, source, None, "a bundle")
        except CheckpointError as error:
            return error.message, error.next_step
        return None

    NEXT_STEP = "give the checkpoint that it was made from with `checkpoint=FOLDER`"

    def test_is_loaded_at_its_commit_with_its_pooling_on_the_device(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []
        found = stand_in()

        def load_checkpoint(*given: Any, **options: Any) -> Any:
            asked.append((given, options))
            return found

        monkeypatch.setattr(module, "load_checkpoint", load_checkpoint)
        source = SOURCE.model_copy(update={"checkpoint": "other/model", "pooling": ("cls",), "max_seq_length": 40})
        assert load_source(HUB, source, Path("/copy"), "a bundle", "cuda") is found
        assert load_source(HUB, SOURCE, None, "a bundle") is found
        same = HUB.model_copy(update={"source": "other/model"})
        assert asked == [
            (
                (same,),
                {
                    "folder": Path("/copy"),
                    "revision": "c" * 40,
                    "pooling": ("cls",),
                    "max_seq_length": 40,
                    "device": "cuda",
                },
            ),
            ((HUB,), {"folder": None, "revision": "c" * 40, "pooling": None, "max_seq_length": None, "device": "cpu"}),
        ]

    def test_with_other_weights_is_refused_with_both_hashes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        told = self.compare(monkeypatch, SOURCE, weights_sha256="0123456789abcdef")
        assert told == (
            "a bundle: made from other weights than owner/model holds: wwwwwwwwwwww… and 0123456789ab…",
            self.NEXT_STEP,
        )

    @pytest.mark.parametrize(
        ("wanted", "found", "told"),
        [
            (
                {"b": "1" * 64},
                {"b": "2" * 64},
                "another b than owner/model holds: sha256 111111111111… and sha256 2222",
            ),
            ({"b": "1" * 64}, {}, "another b than owner/model holds: sha256 111111111111… and no such file"),
            ({}, {"b": "2" * 64}, "another b than owner/model holds: no such file and sha256 222222222222…"),
            ({"c": "1", "b": "1"}, {"c": "2", "b": "2"}, "another b than owner/model holds: sha256 1… and sha256 2…"),
            ({"a": "1", "b": "1"}, {"a": "1", "b": "2"}, "another b than owner/model holds: sha256 1… and sha256 2…"),
        ],
    )
    def test_with_another_file_is_refused_with_both_hashes(
        self, monkeypatch: pytest.MonkeyPatch, wanted: dict[str, str], found: dict[str, str], told: str
    ) -> None:
        refused = self.compare(monkeypatch, SOURCE.model_copy(update={"files": wanted}), files=found)
        assert refused is not None
        assert refused[0].startswith(f"a bundle: made from {told}")
        assert refused[1] == self.NEXT_STEP

    def test_with_the_same_files_is_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.compare(monkeypatch, SOURCE) is None
