"""The reference is the checkpoint: nothing in its folder can make the libraries load anything else.

Each attempt is refused by an export in one sentence, with exit code 2, and nothing is published.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import exporter
from exporter.checkpoint import load_checkpoint, load_source
from exporter.checkpoint.configuration import DECODERS
from exporter.errors import CheckpointError, ExportError, UnsupportedModelError
from exporter.recipe import Expectations, Recipe
from tests.support.checkpoints import ARCHITECTURES, DEMO, save_checkpoint
from tests.support.process import refused, succeeded
from tests.support.warm import CLI, WarmPython

Change = Callable[[Path], object]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the demo's checkpoint, to change."""
    return Path(shutil.copytree(DEMO, tmp_path / "copy"))


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps(content | changes), encoding="utf-8")


def keys(name: str, **changes: Any) -> Change:
    return lambda folder: edit(folder / name, **changes)


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = folder / "model.safetensors"
    state = {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file(change(state), path, metadata={"format": "pt"})


def prefixed(folder: Path) -> None:
    change_weights(folder, lambda state: {f"student.{name}": tensor for name, tensor in state.items()})


def other_weights(path: Path) -> None:
    """Write weights of the demo's shapes that are not the demo's."""
    path.parent.mkdir(exist_ok=True)
    state = {name: torch.randn_like(tensor) * 0.02 for name, tensor in load_file(DEMO / "model.safetensors").items()}
    save_file(state, path, metadata={"format": "pt"})


def named_in_the_configuration(folder: Path) -> None:
    other_weights(folder / "sub" / "evil.safetensors")
    edit(folder / "config.json", transformers_weights="sub/evil.safetensors")


def index(file: str) -> Change:
    def change(folder: Path) -> None:
        names = list(load_file(folder / "model.safetensors"))
        other_weights(folder.parent / "outside" / "evil.safetensors")
        (folder / "model.safetensors").unlink()
        edit(folder / "model.safetensors.index.json", metadata={}, weight_map=dict.fromkeys(names, file))

    return change


def two_names_for_one_parameter(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name = "embeddings.word_embeddings.weight"
    return state | {f"albert.{name}": torch.zeros_like(state[name])}


KERNEL = {"attn_implementation": "owner/kernel", "allow_all_kernels": True}
FILES = "such keys are not supported"


def entry(number: int, **changes: Any) -> Change:
    """Change one entry of modules.json."""

    def change(folder: Path) -> None:
        content = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        content[number] |= changes
        (folder / "modules.json").write_text(json.dumps(content), encoding="utf-8")

    return change


def whole(name: str, content: str) -> Change:
    return lambda folder: (folder / name).write_text(content, encoding="utf-8")


# Values of a wrong type or size, by file: the key or the content, the value, and what the message says.
MALFORMED: Mapping[str, tuple[Change, tuple[str, ...]]] = {
    f"{name}: {next(iter(changes.items()))}": (keys(name, **changes), told)
    for name, changes, told in (
        ("config.json", {"hidden_size": "wide"}, ("hidden_size is 'wide', and must be a positive integer",)),
        ("config.json", {"hidden_size": 10**9}, ("hidden_size is 1000000000, and the largest extent of a tensor",)),
        ("config.json", {"num_attention_heads": 0}, ("num_attention_heads is 0, and must be a positive integer",)),
        ("config.json", {"num_hidden_layers": -1}, ("num_hidden_layers is -1, and must be a positive integer",)),
        ("config.json", {"num_hidden_layers": 10**6}, ("num_hidden_layers is 1000000, and at most 1000 layers",)),
        ("config.json", {"num_hidden_groups": 10**6}, ("num_hidden_groups is 1000000, and the weight files hold ",)),
        ("config.json", {"type_vocab_size": 10**6}, ("type_vocab_size is 1000000, and the largest extent",)),
        ("config.json", {"hidden_dropout_prob": [1]}, ("cannot load it: config.json: ", "'hidden_dropout_prob'")),
        ("config.json", {"layer_norm_eps": float("nan")}, ("the vector of a sentence holds NaN or Inf",)),
        ("sentence_bert_config.json", {"do_lower_case": "yes"}, ("do_lower_case is 'yes', and must be true or false",)),
        ("sentence_bert_config.json", {"max_seq_length": -5}, ("max_seq_length is -5",)),
        ("sentence_bert_config.json", {"max_seq_length": [8]}, ("max_seq_length is [8]",)),
        ("tokenizer_config.json", {"tokenizer_class": "ByT5Tokenizer"}, ("its tokenizer ByT5Tokenizer is not one of",)),
        ("tokenizer_config.json", {"padding_side": 3}, ("padding_side is 3, and must be a text",)),
        ("tokenizer_config.json", {"model_max_length": -1}, ("model_max_length is -1, and must be a positive number",)),
        (
            "tokenizer_config.json",
            {"unk_token": "none"},
            ("its tokenizer gives ids beyond the rows of its embedding table: 'none' has the id 12800",),
        ),
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}, ("sentence-transformers cannot load it",)),
        ("tokenizer.json", {"model": {"type": "WordPiece"}}, ("sentence-transformers cannot load it",)),
        ("tokenizer.json", {"added_tokens": "many"}, ("sentence-transformers cannot load it",)),
        (
            "config_sentence_transformers.json",
            {"prompts": ["a"]},
            ("prompts is ['a'], and must be an object of texts",),
        ),
        ("config_sentence_transformers.json", {"default_prompt_name": 1}, ("default_prompt_name is 1, and must be",)),
        (
            "1_Pooling/config.json",
            {"embedding_dimension": "x"},
            ("embedding_dimension is 'x', and must be a positive",),
        ),
        ("1_Pooling/config.json", {"embedding_dimension": 10**9}, ("Pooling states embedding_dimension 1000000000",)),
        ("1_Pooling/config.json", {"pooling_mode": ["cls", 1]}, ("pooling_mode is ['cls', 1], and must be a text or",)),
    )
} | {
    "modules.json: path": (entry(1, path=[1]), ("modules.json: names a Pooling, and", "is not there")),
    "modules.json: type": (entry(1, type="sentence_transformers.nowhere.Pooling"), ("cannot load it",)),
    "modules.json: an object": (whole("modules.json", "{}"), ("expected a JSON list, found dict",)),
    "tokenizer.json: a list": (whole("tokenizer.json", "[1]"), ("expected a JSON dict, found list",)),
}

ATTEMPTS: dict[str, tuple[Change, tuple[str, ...]]] = {
    "names with a prefix": (
        prefixed,
        ("23 of 23 weights are missing, the first is embeddings.word_embeddings.weight", "student."),
    ),
    "vectors cut to nothing": (
        keys("config_sentence_transformers.json", truncate_dim=0),
        ("config_sentence_transformers.json: truncate_dim is 0, and must be a positive integer",),
    ),
    "special tokens in text split": (
        keys("tokenizer_config.json", split_special_tokens=True),
        ("tokenizer_config.json: split_special_tokens is True, and only False or None",),
    ),
    "feed-forward in chunks": (
        keys("config.json", chunk_size_feed_forward=3),
        ("config.json: chunk_size_feed_forward is 3, and only 0 or None",),
    ),
    "transformers_weights": (named_in_the_configuration, ("config.json: the key 'transformers_weights'", FILES)),
    "index to another folder": (index("../outside/evil.safetensors"), ("'../outside/evil.safetensors'", "same folder")),
    "index to a subfolder": (index("sub/evil.safetensors"), ("'sub/evil.safetensors'", "same folder")),
    "index to an absolute path": (index("/outside/evil.safetensors"), ("'/outside/evil.safetensors'", "same folder")),
    "index to an absent file": (index("model-1.safetensors"), ("names model-1.safetensors, which is not there",)),
    "index without a map": (
        lambda folder: (index("a")(folder), (folder / "model.safetensors.index.json").write_text("{}")),
        ("expected a weight_map",),
    ),
    **{
        f"{key}: {next(iter(value))}": (keys("sentence_bert_config.json", **{key: value}), (f"the key {key!r}", FILES))
        for key, value in (
            ("model_kwargs", {"use_safetensors": False}),
            ("model_kwargs", {"weights_only": False}),
            ("model_kwargs", KERNEL),
            ("model_args", {"variant": "evil"}),
            ("processor_kwargs", {"tokenizer_file": "evil.json"}),
            ("tokenizer_args", {"vocab_file": "evil.txt"}),
            ("config_kwargs", {"gguf_file": "evil.gguf"}),
            ("config_args", {"hidden_act": "relu"}),
            ("processing_kwargs", {"text": {"max_length": 3}}),
        )
    },
    "tokenizer_name_or_path": (
        keys("sentence_bert_config.json", tokenizer_name_or_path="owner/tokenizer"),
        ("the key 'tokenizer_name_or_path'", FILES),
    ),
    "another engine": (keys("sentence_bert_config.json", backend="onnx"), ("the key 'backend'", FILES)),
    "chat messages": (
        keys("sentence_bert_config.json", modality_config={"message": {"method": "forward"}}),
        ("modality_config is {'message'",),
    ),
    "another task": (keys("sentence_bert_config.json", transformer_task="fill-mask"), ("transformer_task is",)),
    "a kernel from the hub": (keys("config.json", _attn_implementation="owner/kernel"), ("_attn_implementation is",)),
    "FlashAttention": (keys("config.json", attn_implementation="flash_attention_2"), ("attn_implementation is",)),
    "quantization": (
        keys("config.json", quantization_config={"quant_method": "awq"}),
        ("'quantization_config'", FILES),
    ),
    "tensor parallelism": (keys("config.json", base_model_tp_plan={"a": "b"}), ("'base_model_tp_plan'", FILES)),
    "experts": (keys("config.json", experts_implementation="owner/kernel"), ("'experts_implementation'", FILES)),
    "fused kernels": (keys("config.json", fusion_config={"a": True}), ("'fusion_config'", FILES)),
    "a path as a value": (keys("config.json", tokenizer_class="owner/tokenizer"), ("tokenizer_class is", "a path")),
    "a decoder": (keys("config.json", is_decoder=True), ("is_decoder is True",)),
    "causal attention": (keys("config.json", is_causal=True), ("config.json: is_causal is True",)),
    "relative positions": (
        keys("config.json", position_embedding_type="relative_key"),
        ("position_embedding_type is 'relative_key'",),
    ),
    "an adapter": (keys("adapter_config.json", base_model_name_or_path="a/b"), ("adapters cannot be folded",)),
    "code for the tokenizer": (keys("tokenizer_config.json", auto_map={"AutoTokenizer": ["a", "b"]}), ("auto_map",)),
    "versions of tokenizer.json": (
        keys("tokenizer_config.json", fast_tokenizer_files=["tokenizer.4.json"]),
        ("'fast_tokenizer_files'", FILES),
    ),
    "another kind of model": (
        keys("config_sentence_transformers.json", model_type="SparseEncoder"),
        ("model_type is 'SparseEncoder'",),
    ),
    "a pooling without a mode": (
        lambda folder: (folder / "1_Pooling" / "config.json").write_text('{"embedding_dimension": 256}'),
        ("no pooling mode is set", "would take the mean"),
    ),
    "a pooling that is not known": (keys("1_Pooling/config.json", pooling_mode_attention=True), ("is not known",)),
    "a reranker": (
        keys("config.json", architectures=["AlbertForSequenceClassification"]),
        ("AlbertForSequenceClassification is a classifier or a reranker, not an encoder of sentences",),
    ),
    "a language model": (keys("config.json", architectures=["BertLMHeadModel"]), ("generates text",)),
    "two names for one parameter": (
        lambda folder: change_weights(folder, two_names_for_one_parameter),
        ("are both weights for embeddings.word_embeddings.weight",),
    ),
    "a head of the model's own": (
        lambda folder: change_weights(folder, lambda state: state | {"mlp.dense.weight": torch.zeros(2, 2)}),
        ("1 weights belong to no parameter of AlbertModel, the first is mlp.dense.weight",),
    ),
    "positions of the checkpoint's own": (
        lambda folder: change_weights(
            folder, lambda state: state | {"embeddings.position_ids": torch.arange(256).flip(0)[None]}
        ),
        ("embeddings.position_ids is not what transformers computes",),
    ),
}


def test_modules_whose_sizes_differ_from_their_weights_are_refused_before_they_are_built(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, "bert", "mean", ("dense", "layer_norm"))
    for name, key in (("2_Dense", "in_features"), ("2_Dense", "out_features"), ("3_LayerNorm", "dimension")):
        changed = Path(shutil.copytree(folder, tmp_path / key))
        edit(changed / name / "config.json", **{key: 10**9})
        with pytest.raises(CheckpointError, match=rf"{name}/config\.json: {key} is 1000000000, and .* has the shape"):
            load_checkpoint(Recipe(name="case", source=str(changed)))


@pytest.mark.parametrize("key", ["n_layers", "num_hidden_layers"])
def test_layers_that_the_files_do_not_hold_are_refused_by_both_names(tmp_path: Path, key: str) -> None:
    folder = save_checkpoint(tmp_path, "distilbert")
    edit(folder / "config.json", **{key: 10**6})
    with pytest.raises(CheckpointError, match=rf"{key} is 1000000, and the weight files hold 36 tensors"):
        load_checkpoint(Recipe(name="case", source=str(folder)))


@pytest.mark.parametrize("attempt", MALFORMED)
def test_a_malformed_value_is_refused_in_one_sentence(
    python: WarmPython, copy: Path, tmp_path: Path, attempt: str
) -> None:
    change, told = MALFORMED[attempt]
    change(copy)
    done = python.run(CLI, "export", "--model", copy, "--out", tmp_path / "out")
    refused(done, 2, str(copy), *told)
    assert "korsbert-checkpoint-" not in done.stderr
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


# Files of the demo in the order in which they are copied, up to the weights.
COPIED_FIRST = (
    *("modules.json", "config.json", "tokenizer_config.json", "tokenizer.json", "sentence_bert_config.json"),
    "model.safetensors",
)


class TestTheSystemRefuses:
    def test_to_write_the_copy(self, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if mode == "wb" and path.name == "model.safetensors":
                raise OSError(errno.EDQUOT, "Disk quota exceeded", str(path))
            return honest(path, mode, *arguments, **options)

        honest = Path.open
        monkeypatch.setattr(Path, "open", full)
        size = sum((copy / name).stat().st_size for name in COPIED_FIRST) / 1e6
        told = rf"copy: .* has no room for a copy of it \({size:,.1f} MB or more\): Disk quota exceeded"
        with pytest.raises(CheckpointError, match=told) as refusal:
            load_checkpoint(Recipe(name="case", source=str(copy)))
        assert "set TMPDIR" in str(refusal.value)

    @pytest.mark.parametrize("modules", [True, False])
    def test_to_read_a_file(self, copy: Path, monkeypatch: pytest.MonkeyPatch, modules: bool) -> None:
        def closed(path: Path, *arguments: Any, **options: Any) -> Any:
            if path == copy / "config.json":
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return honest(path, *arguments, **options)

        honest = Path.open
        monkeypatch.setattr(Path, "open", closed)
        if not modules:
            (copy / "modules.json").unlink()
        with pytest.raises(CheckpointError, match=r"copy/config\.json: cannot be read: Permission denied"):
            load_checkpoint(Recipe(name="case", source=str(copy)))

    def test_to_make_a_temporary_folder(self, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
        with pytest.raises(CheckpointError, match="cannot create a temporary folder for a copy of it: No such file"):
            load_checkpoint(Recipe(name="case", source=str(copy)))


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_an_export_of_anything_but_the_files_is_refused(
    python: WarmPython, copy: Path, tmp_path: Path, attempt: str
) -> None:
    change, told = ATTEMPTS[attempt]
    change(copy)
    done = python.run(CLI, "export", "--model", copy, "--out", tmp_path / "out")
    refused(done, 2, str(copy), *told)
    assert "korsbert-checkpoint-" not in done.stderr  # the private folder's name
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_a_reranker_of_transformers_is_refused_also_with_a_pooling(tmp_path: Path) -> None:
    transformers.BertForSequenceClassification(
        transformers.BertConfig(vocab_size=12_800, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    ).save_pretrained(tmp_path / "reranker")
    shutil.copy(DEMO / "tokenizer.json", tmp_path / "reranker")
    for pooling in (None, "cls"):
        with pytest.raises(UnsupportedModelError, match="a classifier or a reranker"):
            exporter.export(str(tmp_path / "reranker"), pooling=pooling, out=tmp_path / "out")


class TestFoldersWithoutModules:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """A transformer with its tokenizer as transformers saves it, and nothing that states a pooling."""
        checkpoint = save_checkpoint(tmp_path)
        for name in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
            (checkpoint / name).unlink()
        shutil.rmtree(checkpoint / "1_Pooling")
        return checkpoint

    def test_they_need_a_pooling(self, python: WarmPython, folder: Path, tmp_path: Path) -> None:
        done = python.run(CLI, "export", "--model", folder, "--out", tmp_path / "out")
        refused(done, 2, f"{folder}: there is no modules.json", "the pooling is unknown", "set --pooling (cls, mean")

    @pytest.mark.parametrize("modes", [("cls",), ("mean",), ("cls", "max")])
    def test_the_pooling_that_is_asked_for_is_used_and_recorded(self, folder: Path, modes: tuple[str, ...]) -> None:
        checkpoint = load_checkpoint(Recipe(name="case", source=str(folder)), pooling=modes)
        assert checkpoint.facts.pooling == checkpoint.stated_pooling == modes
        assert checkpoint.facts.dimension == 32 * len(modes)
        assert f"no modules.json: {' and '.join(modes)} pooling, as asked for" in checkpoint.decisions
        vectors = checkpoint.encode(["아침 안개가 걷혔다"])
        with torch.inference_mode():
            features = checkpoint.model.preprocess(["아침 안개가 걷혔다"])
            ids = {key: features[key] for key in ("input_ids", "attention_mask")}
            states = checkpoint.model[0].auto_model(**ids).last_hidden_state[0]
        by_hand = {"cls": states[0], "mean": states.mean(0), "max": states.max(0).values}
        assert vectors[0] == pytest.approx(torch.cat([by_hand[mode] for mode in modes]).numpy(), abs=1e-6)

    def test_a_recipe_can_state_it(self, folder: Path) -> None:
        recipe = Recipe(name="case", source=str(folder), expect=Expectations(pooling=("cls",)))
        assert load_checkpoint(recipe).facts.pooling == ("cls",)

    def test_a_bundle_keeps_it_for_validate(self, python: WarmPython, folder: Path, tmp_path: Path) -> None:
        done = python.run(CLI, "export", "--model", folder, "--pooling", "cls", "--out", tmp_path / "out")
        succeeded(done)
        assert "no modules.json: cls pooling, as asked for" in done.stdout
        bundle = tmp_path / "out" / "checkpoint" / "fp32-onnxruntime"
        assert exporter.Bundle.open(bundle).manifest.source.pooling == ("cls",)
        assert python.run(CLI, "validate", bundle, "--checkpoint", folder).status == 0

    def test_an_unknown_one_is_refused(self, python: WarmPython, folder: Path) -> None:
        refused(python.run(CLI, "export", "--model", folder, "--pooling", "attention"), 2, "--pooling is 'attention'")
        with pytest.raises(ExportError, match="`pooling` is 'attention'"):
            exporter.export(str(folder), pooling="attention")

    def test_one_that_modules_json_contradicts_is_refused(self, copy: Path) -> None:
        recipe = Recipe(name="case", source=str(copy))
        assert load_checkpoint(recipe, pooling=("cls",)).stated_pooling is None
        with pytest.raises(CheckpointError, match=r"its modules\.json states cls pooling, and mean was asked for"):
            load_checkpoint(recipe, pooling=("mean",))

    @pytest.mark.parametrize(
        "architecture", [name for name in ARCHITECTURES if name not in ("albert-groups", "gemma3_text", "qwen3", "t5")]
    )
    def test_a_pretraining_head_is_left_out(self, architecture: str, tmp_path: Path) -> None:
        kind, _, sizes = ARCHITECTURES[architecture]
        model = transformers.AutoModelForMaskedLM.from_config(kind(**sizes))
        model.save_pretrained(tmp_path)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(DEMO / name, tmp_path / name)
        checkpoint = load_checkpoint(Recipe(name="case", source=str(tmp_path)), pooling=("cls",))
        stored = model.get_input_embeddings().weight
        assert any(torch.equal(stored, parameter) for parameter in checkpoint.parameters.values())
        assert checkpoint.equality.weights >= stored.numel()

    @pytest.mark.parametrize("architecture", [name for name in DECODERS if name in ARCHITECTURES])
    def test_a_language_model_is_an_encoder_where_modules_json_says_so(self, architecture: str, tmp_path: Path) -> None:
        """The weights of Qwen3-Embedding name the class with the head in their configuration."""
        folder = save_checkpoint(tmp_path, architecture)
        config = json.loads((folder / "config.json").read_text())
        (name,) = config["architectures"]
        config["architectures"] = [name.replace("TextModel", "ForCausalLM").replace("Model", "ForCausalLM")]
        (folder / "config.json").write_text(json.dumps(config))
        assert load_checkpoint(Recipe(name="case", source=str(folder))).facts.architecture == name
        (folder / "modules.json").unlink()
        with pytest.raises(UnsupportedModelError, match="ForCausalLM is a language model that generates text"):
            load_checkpoint(Recipe(name="case", source=str(folder)), pooling=("mean",))


class TestHashes:
    def test_every_file_that_is_loaded_is_hashed(self, copy: Path) -> None:
        (copy / "README.md").write_text("not loaded")
        (copy / "training_args.bin").write_bytes(b"not loaded")
        other_weights(copy / "checkpoint-500" / "model.safetensors")
        checkpoint = load_checkpoint(Recipe(name="case", source=str(copy)))
        assert set(checkpoint.files) == {
            "1_Pooling/config.json",
            "config.json",
            "config_sentence_transformers.json",
            "model.safetensors",
            "modules.json",
            "sentence_bert_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
        }

    @pytest.mark.parametrize(
        ("name", "change"),
        [
            ("config.json", keys("config.json", layer_norm_eps=1e-5)),
            ("tokenizer.json", lambda folder: edit(folder / "tokenizer.json")),  # the same JSON in other bytes
            ("1_Pooling/config.json", keys("1_Pooling/config.json", pooling_mode="mean")),
            ("special_tokens_map.json", keys("special_tokens_map.json", cls_token="[CLS]")),
        ],
    )
    def test_a_bundle_is_not_validated_against_a_checkpoint_with_another_file(
        self, copy: Path, name: str, change: Change
    ) -> None:
        recipe = Recipe(name="case", source=str(DEMO))
        source = load_checkpoint(recipe).provenance()
        change(copy)
        with pytest.raises(CheckpointError, match=rf"bundle: made from another {name} than .* holds: .* and sha256"):
            load_source(recipe, source, copy, "bundle")
        assert load_source(recipe, source, None, "bundle").files == source.files

    def test_links_of_the_hubs_cache_are_followed_by_content(self, copy: Path, tmp_path: Path) -> None:
        blobs, snapshot = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "0123"
        blobs.mkdir(parents=True)
        shutil.copytree(copy, snapshot)
        for number, path in enumerate(sorted(path for path in snapshot.rglob("*") if path.is_file())):
            shutil.move(path, blobs / str(number))
            path.symlink_to(blobs / str(number))
        linked = load_checkpoint(Recipe(name="case", source=str(snapshot)))
        assert linked.files == load_checkpoint(Recipe(name="case", source=str(DEMO))).files

    def test_sharded_weights_are_loaded_from_the_listed_files_only(self, copy: Path) -> None:
        state = load_file(copy / "model.safetensors")
        (copy / "model.safetensors").unlink()
        halves = {"model-1.safetensors": list(state)[::2], "model-2.safetensors": list(state)[1::2]}
        for file, names in halves.items():
            save_file({name: state[name].clone() for name in names}, copy / file, metadata={"format": "pt"})
        weight_map = {name: file for file, names in halves.items() for name in names}
        edit(copy / "model.safetensors.index.json", metadata={"total_size": 1}, weight_map=weight_map)
        other_weights(copy / "model-3.safetensors")
        checkpoint = load_checkpoint(Recipe(name="case", source=str(copy)))
        assert "model-3.safetensors" not in checkpoint.files
        assert {"model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json"} <= checkpoint.files.keys()
        assert checkpoint.equality == load_checkpoint(Recipe(name="case", source=str(DEMO))).equality


def test_a_key_that_is_not_known_reaches_no_loader_and_is_told(copy: Path) -> None:
    edit(copy / "config.json", rope_style="new", _name_or_path="somebody/else")
    edit(copy / "tokenizer_config.json", chat_template="{{ messages }}", tokenizer_file="/home/somebody/tokenizer.json")
    checkpoint = load_checkpoint(Recipe(name="case", source=str(copy)))
    assert checkpoint.ignored_keys == ("config.json: rope_style", "tokenizer_config.json: chat_template")
    assert not hasattr(checkpoint.model[0].auto_model.config, "rope_style")
    assert checkpoint.model[0].tokenizer.chat_template is None
    assert "config.json: rope_style" in checkpoint.decisions[-1]


def test_weights_that_a_library_loads_otherwise_than_the_file_holds_them_are_refused(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(folder: Path, device: str) -> Any:
        model = honest(folder, device)
        with torch.no_grad():
            model[0].auto_model.embeddings.word_embeddings.weight[12_000, 3] *= -1
        return model

    honest = exporter.checkpoint.loading._load
    monkeypatch.setattr(exporter.checkpoint.loading, "_load", load)
    with pytest.raises(CheckpointError, match=r"the loaded weight .*word_embeddings.weight differs from the file"):
        load_checkpoint(Recipe(name="case", source=str(copy)))


def test_modules_after_the_pooling_are_compared_as_well(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, "bert", "mean", ("dense", "layer_norm"))
    alone = load_checkpoint(Recipe(name="case", source=str(save_checkpoint(tmp_path / "other", "bert"))))
    whole = load_checkpoint(Recipe(name="case", source=str(folder)))
    assert whole.equality.tensors == alone.equality.tensors + 4
    assert whole.equality.weights == alone.equality.weights + 32 * 24 + 24 + 2 * 24


def test_the_private_folder_is_gone_afterwards(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    checkpoint = load_checkpoint(Recipe(name="case", source=str(copy)))
    assert list(scratch.iterdir()) == []
    shutil.rmtree(copy)
    assert checkpoint.encode(["바람이 불어 연이 높이 떴다"]).shape == (1, 256)
    shutil.copytree(DEMO, copy)
    prefixed(copy)
    with pytest.raises(CheckpointError):
        load_checkpoint(Recipe(name="case", source=str(copy)))
    assert list(scratch.iterdir()) == []


def test_known_ids_of_a_recipe_are_checked() -> None:
    known = {"text": "책장을 넘겼다", "ids": [2, 1, 3]}
    with pytest.raises(CheckpointError, match=r"its tokenizer gives \[2, .*, 3\] for '책장을 넘겼다'"):
        load_checkpoint(Recipe.model_validate({"name": "case", "source": str(DEMO), "known_ids": [known]}))
