"""The reference in process: the facts read from it, what it answers, and what is refused while it is loaded."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers.utils import logging as transformers_logging

from exporter.checkpoint import Checkpoint, load_checkpoint, load_source
from exporter.checkpoint import loading as module
from exporter.errors import CheckpointError, MissingDependencyError, UnsupportedModelError
from exporter.recipe import Expectations, KnownAnswer, Recipe, find_recipe, recipes_folder
from tests.support.checkpoints import DEMO, MAX_SEQ_LENGTH, save_checkpoint

SENTENCES = ["우체국은 여섯 시에 문을 닫습니다.", "", "소포가 사흘째 오지 않는다. " * 40, "밥"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Save a small checkpoint once, and return its folder."""
    kept: dict[object, Path] = {}

    def save(architecture: str = "bert", pooling: str | tuple[str, ...] = "mean", *modules: str) -> Path:
        key = architecture, pooling, modules
        if key not in kept:
            kept[key] = save_checkpoint(tmp_path_factory.mktemp("saved"), architecture, pooling, modules)
        return kept[key]

    return save


@pytest.fixture
def copy(saved: Callable[..., Path], tmp_path: Path) -> Path:
    """A copy of the BERT checkpoint, to change."""
    return Path(shutil.copytree(saved(), tmp_path / "copy"))


def load(folder: Path, **expected: Any) -> Checkpoint:
    return load_checkpoint(Recipe(name="case", source=str(folder), expect=Expectations(**expected)))


@cache
def loaded(folder: Path) -> Checkpoint:
    """Load a checkpoint that no test changes."""
    return load(folder)


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | changes, ensure_ascii=False), encoding="utf-8")


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    state = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


class TestFacts:
    @pytest.mark.parametrize(
        ("architecture", "name", "layers", "token_types"),
        [
            ("bert", "BertModel", 2, True),
            ("albert-groups", "AlbertModel", 4, True),
            ("distilbert", "DistilBertModel", 2, False),
            ("roberta", "RobertaModel", 2, True),
            ("mpnet", "MPNetModel", 2, False),
        ],
    )
    def test_of_each_architecture(
        self, saved: Callable[..., Path], architecture: str, name: str, layers: int, token_types: bool
    ) -> None:
        found = loaded(saved(architecture))
        facts = found.facts
        assert (facts.architecture, facts.layers, facts.heads, facts.hidden_size) == (name, layers, 4, 32)
        assert found.has_token_types is token_types
        assert found.pad_token_id == 0
        assert found.facts.max_seq_length == found.model.max_seq_length == MAX_SEQ_LENGTH

    def test_of_modules_and_pooling(self, saved: Callable[..., Path]) -> None:
        found = loaded(saved("bert", ("cls", "mean"), "dense", "normalize"))
        assert found.facts.modules == ("Transformer", "Pooling", "Dense", "Normalize")
        assert (found.facts.pooling, found.facts.dimension) == (("cls", "mean"), 24)
        assert loaded(saved()).facts.pooling == ("mean",)

    def test_of_the_source(self, saved: Callable[..., Path]) -> None:
        found = loaded(saved())
        assert (found.source, found.commit, found.facts.prompt, found.stated_pooling) == (
            str(saved()),
            None,
            "",
            None,
        )
        state = load_file(saved() / "model.safetensors")
        assert found.parameter_bytes() == sum(4 * tensor.numel() for tensor in state.values())
        assert found.decisions == (
            f"checkpoint: {found.equality.tensors} tensors, {found.equality.weights:,} weights equal to the files, bit "
            "for bit",
        )
        assert {parameter.dtype for parameter in found.parameters.values()} == {torch.float32}
        assert not found.model.training
        provenance = found.provenance()
        assert (provenance.checkpoint, provenance.commit, provenance.weights_sha256, dict(provenance.files)) == (
            found.source_name,
            None,
            found.weights_sha256,
            dict(found.files),
        )

    def test_of_what_was_compared_with_the_files(self, saved: Callable[..., Path]) -> None:
        folder = saved("bert", ("cls", "mean"), "dense", "normalize")
        paths = [folder / "model.safetensors", *folder.glob("*_Dense/model.safetensors")]
        state = [tensor for path in paths for tensor in load_file(path).values()]
        found = load(folder).equality
        assert (found.tensors, found.weights) == (len(state), sum(tensor.numel() for tensor in state))

    def test_names_may_have_the_prefix_of_a_model_with_a_head(self, copy: Path, saved: Callable[..., Path]) -> None:
        state = load_file(copy / "model.safetensors")
        save_file({f"bert.{name}": tensor for name, tensor in state.items()}, copy / "model.safetensors")
        assert load(copy).equality == loaded(saved()).equality

    @pytest.mark.parametrize(("asked", "pooling"), [(None, "cls"), (("max",), "max")])
    def test_a_pooling_that_is_not_stated_is_the_one_asked_for_or_the_recipes(
        self, copy: Path, asked: tuple[str, ...] | None, pooling: str
    ) -> None:
        (copy / "modules.json").unlink()
        expect = Expectations(pooling=None if asked else ("cls",))
        found = load_checkpoint(Recipe(name="case", source=str(copy), expect=expect), pooling=asked)
        assert (found.facts.pooling, found.stated_pooling) == ((pooling,), (pooling,))

    def test_unknown_keys_and_a_pooling_that_was_asked_for_are_told(self, copy: Path) -> None:
        for left_out in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
            (copy / left_out).unlink()
        edit(copy / "config.json", favourite_dish="국밥")
        found = load_checkpoint(Recipe(name="case", source=str(copy)), pooling=("cls", "mean"))
        assert found.decisions[1:] == (
            "no modules.json: cls and mean pooling, as asked for",
            f"left out of the configuration, unknown: {', '.join(found.ignored_keys)}",
        )
        assert [key for key in found.ignored_keys if "favourite_dish" in key]
        assert found.stated_pooling == ("cls", "mean")

    def test_a_shipped_checkpoint_is_named_relative_to_the_recipes(self) -> None:
        assert load(DEMO).source_name == DEMO.resolve().relative_to(recipes_folder().resolve()).as_posix()

    @pytest.mark.parametrize("lower", [True, False])
    def test_of_lower_casing(self, copy: Path, lower: bool) -> None:
        edit(copy / "tokenizer.json", normalizer={"type": "Lowercase"} if lower else {"type": "NFC"})
        edit(copy / "tokenizer_config.json", do_lower_case=lower)
        edit(copy / "sentence_bert_config.json", do_lower_case=lower)
        assert load(copy).facts.do_lower_case is lower

    def test_stored_in_half_precision_it_computes_in_single(self, copy: Path) -> None:
        change_weights(copy, lambda state: state.update({name: tensor.half() for name, tensor in state.items()}))
        edit(copy / "config.json", dtype="float16")
        found = load(copy)
        assert {parameter.dtype for parameter in found.model.parameters()} == {torch.float32}

    def test_the_bundles_tokenizer_truncates_and_pads_as_the_references_does(self, saved: Callable[..., Path]) -> None:
        found = loaded(saved())
        wrapped = found.model[0].tokenizer
        assert found.tokenizer.truncation == {
            "max_length": MAX_SEQ_LENGTH,
            "stride": 0,
            "strategy": "longest_first",
            "direction": wrapped.truncation_side,
        }
        assert found.tokenizer.padding == {
            "direction": wrapped.padding_side,
            "pad_id": wrapped.pad_token_id,
            "pad_token": wrapped.pad_token,
            "pad_type_id": 0,
            "length": None,
            "pad_to_multiple_of": None,
        }
        assert found.tokenizer is not wrapped.backend_tokenizer

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_sides_are_the_checkpoints_own(self, copy: Path, side: str) -> None:
        edit(copy / "tokenizer_config.json", padding_side=side, truncation_side=side)
        found = load(copy)
        tokenizer = found.tokenizer
        assert tokenizer.padding is not None
        assert tokenizer.truncation is not None
        assert (tokenizer.padding["direction"], tokenizer.truncation["direction"]) == (side, side)
        assert found.padding == side


class TestLongestInput:
    @pytest.mark.parametrize(
        ("architecture", "stated", "longest"),
        [
            ("bert", 100, 100),
            ("bert", 130, 130),
            ("bert", 500, 130),
            ("bert", None, 130),
            ("bert", 3, 3),
            ("roberta", 500, 129),  # the table has 130 rows, and positions begin at padding_idx + 1, which is 1
            ("roberta", None, 129),
            ("distilbert", 500, 130),
        ],
    )
    def test_is_what_is_stated_and_what_the_position_table_has_rows_for(
        self, saved: Callable[..., Path], tmp_path: Path, architecture: str, stated: int | None, longest: int
    ) -> None:
        folder = Path(shutil.copytree(saved(architecture), tmp_path / "copy"))
        edit(folder / "tokenizer_config.json", model_max_length=10_000)
        edit(folder / "sentence_bert_config.json", max_seq_length=stated)
        found = load(folder)
        assert found.facts.max_seq_length == longest
        for tokenizer in (found.tokenizer, found.anchor):
            assert tokenizer.truncation is not None
            assert tokenizer.truncation["max_length"] == longest

    @pytest.mark.parametrize("stated", [2, 1, 0])
    def test_that_leaves_no_room_for_text_is_refused(self, copy: Path, stated: int) -> None:
        edit(copy / "sentence_bert_config.json", max_seq_length=stated)
        with pytest.raises(CheckpointError) as failure:
            load(copy)
        told = f"max_seq_length is {stated}, which leaves no room for text beside 2 special tokens"
        assert failure.value.message == f"{copy.resolve()}: {told}"
        assert failure.value.next_step == "correct it in sentence_bert_config.json"


class TestEncoding:
    def test_is_that_of_sentence_transformers_in_the_order_given(self, saved: Callable[..., Path]) -> None:
        reference = SentenceTransformer(str(saved()), device="cpu", local_files_only=True)
        found = loaded(saved()).encode(SENTENCES)
        assert (found.shape, found.dtype) == ((4, 32), np.dtype(np.float32))
        np.testing.assert_allclose(found, reference.encode(SENTENCES, show_progress_bar=False), atol=1e-5, rtol=0)

    def test_of_token_ids_is_that_of_text(self, saved: Callable[..., Path]) -> None:
        for architecture in ("bert", "distilbert"):
            found = loaded(saved(architecture))
            features = found.model[0].tokenizer(SENTENCES, padding=True, truncation=True, max_length=MAX_SEQ_LENGTH)
            ids, mask = (np.array(features[name]) for name in ("input_ids", "attention_mask"))
            vectors = found.encode_tokens(ids, mask)
            assert vectors.dtype == np.float32
            np.testing.assert_allclose(vectors, found.encode(SENTENCES), atol=1e-5, rtol=0)

    def test_puts_the_default_prompt_before_every_sentence(self, copy: Path) -> None:
        settings = copy / "config_sentence_transformers.json"
        plain = load(copy).encode(["문장 질문: 밥"])
        edit(settings, prompts={"query": "문장 질문: ", "document": "글: "}, default_prompt_name="query")
        found = load(copy)
        assert found.facts.prompt == "문장 질문: "
        np.testing.assert_allclose(found.encode(["밥"]), plain, atol=1e-5, rtol=0)
        edit(settings, default_prompt_name=None)
        assert load(copy).facts.prompt == ""

    def test_of_an_id_beyond_the_embedding_table_is_refused(self, copy: Path) -> None:
        edit(copy / "config.json", vocab_size=10)
        change_weights(copy, lambda state: state.update({WORDS: state[WORDS][:10].clone()}))
        with pytest.raises(CheckpointError, match="gives ids beyond the rows of its embedding table") as failure:
            load(copy)
        assert failure.value.message.startswith(f"{copy}: ")
        assert failure.value.next_step == "check that tokenizer and weights belong together"


WORDS = "embeddings.word_embeddings.weight"


class TestRefused:
    def test_what_differs_from_the_recipe_with_both_values(self, saved: Callable[..., Path]) -> None:
        with pytest.raises(CheckpointError) as failure:
            load(saved(), architecture="AlbertModel", dimension=32, max_seq_length=128, pooling=("cls",))
        assert failure.value.message == (
            f"{saved().resolve()} is not what recipe 'case' describes: architecture is 'BertModel', the recipe expects "
            "'AlbertModel'; pooling is ('mean',), the recipe expects ('cls',); "
            f"max_seq_length is {MAX_SEQ_LENGTH}, the recipe expects 128"
        )
        assert failure.value.next_step == "give the right checkpoint, or a recipe that describes this one"

    def test_nothing_where_it_is_as_expected(self, saved: Callable[..., Path]) -> None:
        expected = {"architecture": "BertModel", "dimension": 32, "max_seq_length": MAX_SEQ_LENGTH}
        lower = loaded(saved()).facts.do_lower_case
        assert load(saved(), **expected, pooling=("mean",), do_lower_case=lower).facts.dimension == 32

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_weight_that_is_no_number(self, copy: Path, value: float) -> None:
        def spoil(state: dict[str, torch.Tensor]) -> None:
            state["encoder.layer.1.output.dense.bias"][3] = value

        change_weights(copy, spoil)
        with pytest.raises(CheckpointError, match=r"the weight 0\..*layer\.1\.output\.dense\.bias holds NaN or Inf"):
            load(copy)

    def test_a_configuration_that_transformers_refuses(self, copy: Path) -> None:
        edit(copy / "config.json", hidden_dropout_prob="wide")
        with pytest.raises(CheckpointError, match=r": config\.json: .*hidden_dropout_prob.*wide") as failure:
            load(copy)
        assert failure.value.message.startswith(
            f"{copy.resolve()}: sentence-transformers cannot load it: config.json: "
        )
        assert "\n" not in failure.value.message

    def test_a_size_that_no_weight_has_before_a_model_is_made(self, copy: Path) -> None:
        edit(copy / "config.json", vocab_size=12_801)
        with pytest.raises(CheckpointError, match=r"config\.json: .*vocab_size.*12,?801.*12,?800"):
            load(copy)

    def test_vectors_that_are_no_numbers(self, copy: Path) -> None:
        edit(copy / "config.json", layer_norm_eps=-10.0)
        with pytest.raises(CheckpointError) as failure:
            load(copy)
        assert failure.value.message == f"{copy.resolve()}: the vector of a sentence holds NaN or Inf"
        assert failure.value.next_step == "check the numbers in its config.json, for example layer_norm_eps"

    def test_a_pooling_that_was_asked_for_where_another_is_stated(self, saved: Callable[..., Path]) -> None:
        with pytest.raises(CheckpointError, match="states mean pooling, and cls and max was asked for") as failure:
            load_checkpoint(Recipe(name="case", source=str(saved())), pooling=("cls", "max"))
        assert failure.value.next_step == "leave out `pooling`: it is for folders without modules.json"

    def test_weights_of_other_shapes(self, copy: Path) -> None:
        edit(copy / "config.json", intermediate_size=96)
        with pytest.raises(CheckpointError, match=r"the weights have other shapes than config\.json states"):
            load(copy)

    def test_pooling_without_the_prompt(self, copy: Path) -> None:
        edit(copy / "1_Pooling" / "config.json", include_prompt=False)
        with pytest.raises(UnsupportedModelError, match="Pooling with include_prompt=false cannot be folded"):
            load(copy)

    def test_modules_in_another_order(self, saved: Callable[..., Path], tmp_path: Path) -> None:
        folder = Path(shutil.copytree(saved("bert", "mean", "normalize"), tmp_path / "copy"))
        entries = json.loads((folder / "modules.json").read_text())
        entries[1], entries[2] = entries[2], entries[1]
        for number, entry in enumerate(entries):
            entry |= {"idx": number, "name": str(number)}
        (folder / "modules.json").write_text(json.dumps(entries))
        with pytest.raises(
            UnsupportedModelError, match="Transformer then Normalize then Pooling cannot be folded"
        ) as error:
            load(folder)
        assert error.value.next_step == "use a Transformer, a Pooling, then any of Dense, LayerNorm, Normalize"

    def test_a_revision_of_a_folder(self, saved: Callable[..., Path]) -> None:
        recipe = Recipe(name="case", source=str(saved()))
        with pytest.raises(CheckpointError, match="a local folder has no revision 'main'") as failure:
            load_checkpoint(recipe, revision="main")
        assert failure.value.next_step == "leave out `revision`"

    def test_a_device_that_is_not_there(self, saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(MissingDependencyError, match="torch finds no CUDA device here") as failure:
            load_checkpoint(Recipe(name="case", source=str(saved())), device="cuda")
        assert failure.value.next_step == "use `device=cpu`"


def test_a_folder_takes_the_place_of_the_recipes_source_whatever_its_revision(saved: Callable[..., Path]) -> None:
    recipe = Recipe(name="case", source="owner/model", revision="main")
    found = load_checkpoint(recipe, folder=saved(), revision="0123abc")
    assert (found.source, found.commit) == (str(saved().resolve()), None)


def test_a_hub_id_is_asked_for_at_the_revision_given_or_the_recipes(
    saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(source: str, revision: str | None) -> tuple[Path, str]:
        asked.append((source, revision))
        return saved(), "c" * 40

    monkeypatch.setattr(module, "download", download)
    recipe = Recipe(name="case", source="owner/model", revision="v1")
    assert (load_checkpoint(recipe).source, load_checkpoint(recipe, revision="v2").commit) == ("owner/model", "c" * 40)
    assert asked == [("owner/model", "v1"), ("owner/model", "v2")]


class TestKnownAnswer:
    def answer(self, folder: Path, *, cosine: float = 0.0, **changes: float) -> KnownAnswer:
        vectors = loaded(folder).encode(SENTENCES[:2]).astype(np.float64)
        true = float(vectors[0] @ vectors[1] / np.linalg.norm(vectors[0]) / np.linalg.norm(vectors[1]))
        first, last = vectors[:, :3].copy(), vectors[:, -2:].copy()
        first[1, 2] += changes.get("first", 0)
        last[0, 0] += changes.get("last", 0)
        return KnownAnswer(
            sentences=tuple(SENTENCES[:2]),
            first=tuple(map(tuple, first.tolist())),
            last=tuple(map(tuple, last.tolist())),
            cosine=true + cosine,
            tolerance=1e-3,
        )

    @pytest.mark.parametrize("change", [{}, {"first": 5e-4}, {"last": -5e-4}, {"cosine": 5e-4}])
    def test_is_met_within_its_tolerance(self, saved: Callable[..., Path], change: dict[str, float]) -> None:
        recipe = Recipe(name="case", source=str(saved()), known_answer=self.answer(saved(), **change))
        assert load_checkpoint(recipe).facts.dimension == 32

    @pytest.mark.parametrize("change", [{"first": 0.02}, {"last": -0.02}, {"cosine": 0.02}, {"cosine": -0.02}])
    def test_is_refused_beyond_it(self, saved: Callable[..., Path], change: dict[str, float]) -> None:
        recipe = Recipe(name="case", source=str(saved()), known_answer=self.answer(saved(), **change))
        told = r"its vectors differ from the published ones by 0\.02 \(> 0\.001\)"
        with pytest.raises(CheckpointError, match=told) as failure:
            load_checkpoint(recipe)
        assert failure.value.next_step == "check the revision and that the files are the authors' own"


class TestSourceOfABundle:
    def test_is_loaded_where_it_is_the_same(self, saved: Callable[..., Path]) -> None:
        recipe = Recipe(name="case", source="elsewhere")
        source = loaded(saved()).provenance()
        assert load_source(recipe, source, saved(), "a bundle").source_name == source.checkpoint == saved().name
        demo = load_checkpoint(find_recipe("demo")).provenance()
        assert (
            load_source(find_recipe("demo"), demo, None, "a bundle").source_name == demo.checkpoint == "demo/checkpoint"
        )

    def test_is_not_looked_for_where_a_manifest_may_say(self, saved: Callable[..., Path]) -> None:
        """A manifest comes from anybody: it may name a checkpoint, and not make this machine read a folder."""
        for named in (saved().name, str(saved()), "../tests"):
            source = loaded(saved()).provenance().model_copy(update={"checkpoint": named})
            with pytest.raises(CheckpointError) as failure:
                load_source(Recipe(name="case", source="elsewhere"), source, None, "a bundle")
            assert failure.value.message == (
                f"a bundle: made from a local folder, {named}, and does not say where that stands"
            )
            assert failure.value.next_step == "give the checkpoint that it was made from with `checkpoint=FOLDER`"

    def test_is_refused_where_its_weights_are_others(self, saved: Callable[..., Path], copy: Path) -> None:
        def change(state: dict[str, torch.Tensor]) -> None:
            state["encoder.layer.1.output.dense.bias"][3] += 1

        source = loaded(saved()).provenance()
        change_weights(copy, change)
        found = load(copy)
        with pytest.raises(CheckpointError) as failure:
            load_source(Recipe(name="case", source="elsewhere"), source, copy, "a bundle")
        assert failure.value.message == (
            f"a bundle: made from other weights than {copy} holds: {source.weights_sha256[:12]}… and "
            f"{found.weights_sha256[:12]}…"
        )
        assert failure.value.next_step == "give the checkpoint that it was made from with `checkpoint=FOLDER`"


def test_a_file_that_differs_from_the_bundles_is_named_with_both_hashes(saved: Callable[..., Path], copy: Path) -> None:
    source = loaded(saved()).provenance()
    edit(copy / "tokenizer_config.json", model_max_length=77)
    found = load(copy)
    name = "tokenizer_config.json"
    with pytest.raises(CheckpointError) as failure:
        load_source(Recipe(name="case", source="elsewhere"), source, copy, "a bundle")
    assert failure.value.message == (
        f"a bundle: made from another {name} than {copy} holds: sha256 {source.files[name][:12]}… and sha256 "
        f"{found.files[name][:12]}…"
    )
    less = source.model_copy(update={"files": {key: value for key, value in source.files.items() if key != name}})
    with pytest.raises(CheckpointError, match=f"holds: no such file and sha256 {source.files[name][:12]}…"):
        load_source(Recipe(name="case", source="elsewhere"), less, saved(), "a bundle")


@pytest.mark.parametrize("without", ["", "modules.json"])
def test_a_json_file_that_is_too_large_is_not_read(copy: Path, without: str) -> None:
    if without:
        (copy / without).unlink()
    os.truncate(copy / "config.json", 64 * 2**20 + 1)
    with pytest.raises(CheckpointError) as failure:
        load(copy)
    assert failure.value.message == (
        f"{copy / 'config.json'}: 67,108,865 bytes are too many for a JSON file of a checkpoint"
    )


class TestLinks:
    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "modules.json", "model.safetensors"])
    def test_one_that_leads_out_of_the_folder_is_refused(self, copy: Path, tmp_path: Path, name: str) -> None:
        path, elsewhere = copy / name, tmp_path / "elsewhere"
        path.rename(elsewhere)
        path.symlink_to(elsewhere)
        with pytest.raises(CheckpointError) as failure:
            load(copy)
        assert failure.value.message == f"{path}: a link to a file outside of the checkpoint, which is not read"
        assert failure.value.next_step == f"replace it by a copy of {elsewhere}, if you trust whoever made the link"

    def test_a_folder_that_is_a_link_leads_out_too(self, copy: Path, tmp_path: Path) -> None:
        (copy / "1_Pooling").rename(tmp_path / "pooling")
        (copy / "1_Pooling").symlink_to(tmp_path / "pooling")
        with pytest.raises(CheckpointError, match=r"1_Pooling/config\.json: a link to a file outside"):
            load(copy)

    def test_one_within_the_folder_is_read(self, copy: Path, tmp_path: Path) -> None:
        path = copy / "modules.json"
        path.rename(copy / "kept.json")
        path.symlink_to("kept.json")
        (tmp_path / "link").symlink_to(copy)
        assert load(tmp_path / "link").facts.pooling == ("mean",)

    def test_those_of_the_hubs_cache_are_read(self, copy: Path, tmp_path: Path) -> None:
        blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "0123"
        blobs.mkdir(parents=True)
        shutil.copytree(copy, snapshot)
        for number, path in enumerate([path for path in snapshot.rglob("*") if path.is_file()]):
            path.rename(blobs / str(number))
            path.symlink_to(blobs / str(number))
        assert load(snapshot).facts.pooling == ("mean",)


def test_the_anchor_lower_cases_where_the_checkpoint_says_so(copy: Path) -> None:
    edit(copy / "tokenizer.json", normalizer={"type": "NFC"})
    edit(copy / "tokenizer_config.json", do_lower_case=False)
    for lower in (False, True):
        edit(copy / "sentence_bert_config.json", do_lower_case=lower)
        anchor = load(copy).anchor
        assert (anchor.encode("SEOUL").ids == anchor.encode("seoul").ids) is lower


def test_the_source_of_a_bundle_is_loaded_at_its_commit_with_its_pooling(
    saved: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(saved(), bare)
    for left_out in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling"):
        path = bare / left_out
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    asked = []

    def download(source: str, revision: str | None) -> tuple[Path, str]:
        asked.append((source, revision))
        return bare, "c" * 40

    monkeypatch.setattr(module, "download", download)
    recipe = Recipe(name="case", source="owner/model")
    source = load_checkpoint(recipe, pooling=("cls",)).provenance()
    assert (source.commit, source.pooling) == ("c" * 40, ("cls",))
    assert load_source(recipe, source, None, "a bundle").facts.pooling == ("cls",)
    assert asked == [("owner/model", None), ("owner/model", "c" * 40)]


def test_encoding_shows_no_progress(saved: Callable[..., Path], capfd: pytest.CaptureFixture[str]) -> None:
    loaded(saved()).encode(SENTENCES)
    assert capfd.readouterr() == ("", "")


def test_what_libraries_say_is_kept_quiet_and_their_levels_come_back(
    saved: Callable[..., Path], copy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("sentence_transformers")
    before = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled(), logger.level
    try:
        for bars in (True, False):
            (transformers_logging.enable_progress_bar if bars else transformers_logging.disable_progress_bar)()
            transformers_logging.set_verbosity_info()
            logger.setLevel(logging.INFO)
            load(saved())
            assert transformers_logging.get_verbosity() == transformers_logging.INFO
            assert transformers_logging.is_progress_bar_enabled() is bars
            assert logger.level == logging.INFO
        edit(copy / "config.json", intermediate_size=96)
        with pytest.raises(CheckpointError):
            load(copy)
        assert transformers_logging.get_verbosity() == transformers_logging.INFO
        assert capfd.readouterr() == ("", "")
    finally:
        transformers_logging.set_verbosity(before[0])
        (transformers_logging.enable_progress_bar if before[1] else transformers_logging.disable_progress_bar)()
        logger.setLevel(before[2])
