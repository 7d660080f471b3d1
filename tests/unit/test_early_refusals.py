"""What an export is refused for by its options, its files and the small files of its checkpoint comes before torch."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.checkpoint.configuration import MODEL_TYPES, missing_versions, transformer_rules
from exporter.checkpoint.rules import _STEERING
from exporter.recipe import recipes_folder
from tests.support.process import Done, refused, run_program

DEMO = recipes_folder() / "demo" / "checkpoint"
# The command line, and what it must not have imported by its end. transformers is what takes as long as torch.
CLI = """
import sys
from exporter.cli.main import main
try:
    main()
finally:
    slow = {"torch", "transformers", "sentence_transformers", "optimum"} & sys.modules.keys()
    if slow:
        print("imported", sorted(slow))
"""


def korsbert(*arguments: str | Path, cwd: Path) -> Done:
    return run_program([sys.executable, "-c", CLI, *arguments], cwd=cwd)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the demo's checkpoint, to be changed."""
    return shutil.copytree(DEMO, tmp_path / "checkpoint")


def changed(name: str, **keys: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps({**content, **keys}), encoding="utf-8")

    return change


def removed(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def written(name: str, content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return write


def cut_short(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def in_other_order(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    modules[0]["type"], modules[1]["type"] = modules[1]["type"], modules[0]["type"]
    modules[0]["path"], modules[1]["path"] = modules[1]["path"], modules[0]["path"]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (changed("config.json", model_type="gpt2"), "architecture 'gpt2' cannot be folded"),
        (changed("config.json", auto_map={"AutoModel": "x.y"}), "the model is code on the hub (auto_map)"),
        (changed("config.json", is_decoder=True), "is_decoder is True"),
        (changed("config.json", quantization_config={"bits": 4}), "'quantization_config' controls what a library"),
        (changed("config.json", architectures=["AlbertForSequenceClassification"]), "a classifier or a reranker"),
        (written("config.json", b"{"), "config.json: not readable as JSON"),
        (removed("config.json"), "config.json: cannot be read"),
        (removed("modules.json"), "there is no modules.json, so the pooling is unknown"),
        (in_other_order, "Pooling then Transformer"),
        (changed("1_Pooling/config.json", include_prompt=False), "Pooling with include_prompt=false"),
        (removed("tokenizer.json"), "no tokenizer"),
        (written("tokenizer.json", b"[]"), "tokenizer.json: expected a JSON dict"),
        (written("adapter_config.json", b"{}"), "adapters cannot be folded"),
        (removed("model.safetensors"), "no weights"),
        (cut_short, "damaged safetensors file"),
        (written("model.safetensors", b""), "damaged safetensors file"),
    ],
)
def test_a_checkpoint_is_refused_without_torch(
    checkpoint: Path, tmp_path: Path, change: Callable[[Path], None], told: str
) -> None:
    change(checkpoint)
    done = korsbert("export", "--model", checkpoint, cwd=tmp_path)
    refused(done, 2, f"{checkpoint}", told)
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--model", "empty"), "no checkpoint: neither modules.json nor config.json is there"),
        (("--model", "demo", "--checkpoint", "nowhere"), "nowhere: no such folder"),
        (("--model", "demo", "--revision", "main"), "a local folder has no revision 'main'"),
        (("--model", "demo", "--max-seq-length", "257"), "serves at most 256 tokens"),
        (("--model", "demo", "--bf16"), "cannot run bfloat16"),
        (("--model", "demo", "--version-compatible"), "does not support --version-compatible"),
        (("--model", "demo", "--int8", "--calibration", "nowhere.txt"), "nowhere.txt: cannot be read"),
        (("--model", "demo", "--int8", "--calibration", "empty.txt"), "empty.txt: no sentence in it"),
        (("--model", "demo", "--int8", "--calibration", "empty"), "empty: cannot be read: Is a directory"),
        (("--model", "demo", "--sts", "empty.txt"), "empty.txt: unknown kind of STS file"),
        (("--model", "demo", "--out", "taken"), "already exists"),
        (("--model", "demo", "--out", "taken", "--force"), "not a bundle, and --force only replaces bundles"),
        (("--recipe", "recipe.yaml"), "nam: unknown key, did you mean 'name'?"),
    ],
)
def test_options_are_refused_without_torch(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text("nam: x\nsource: y/z\n", encoding="utf-8")
    place = tmp_path / "taken" / "demo" / "fp32-onnxruntime"
    place.mkdir(parents=True)
    (place / "notes.txt").write_text("mine", encoding="utf-8")
    refused(korsbert("export", *arguments, cwd=tmp_path), 2, told)
    assert (place / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_a_place_that_cannot_be_written_to_is_refused_without_torch(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    told = "notes.txt/out/demo/fp32-onnxruntime: cannot be written: Not a directory"
    arguments = ("export", "--model", "demo", "--out", "notes.txt/out")
    refused(korsbert(*arguments, cwd=tmp_path), 2, told, "choose another --out")
    dry = korsbert(*arguments, "--dry-run", "--json", cwd=tmp_path)
    assert (dry.status, told in dry.stderr) == (2, True)
    assert told in json.loads(dry.stdout)["refusal"]


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("--backends", "tensorrt", "--precisions", "fp32"), 3, "this machine can build and run none of 1 engines"),
        (("--precisions", "fp17"), 2, "--precisions is 'fp17'"),
        (("--out", "taken"), 2, "fp32-onnxruntime: already exists, and the winner may go there"),
        (("--out", "notes.txt"), 2, "notes.txt/demo/fp32-onnxruntime: cannot be written: Not a directory"),
    ],
    ids=["none available", "no such precision", "taken", "not writable"],
)
def test_tuning_is_refused_without_torch(tmp_path: Path, arguments: tuple[str, ...], status: int, told: str) -> None:
    (tmp_path / "taken" / "demo" / "fp32-onnxruntime").mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    refused(korsbert("tune", "--model", "demo", *arguments, cwd=tmp_path), status, told)


@pytest.mark.parametrize(
    ("arguments", "told", "advice"),
    [
        (("--backend", "openvino"), "the openvino backend does not support --opset", "leave it out"),
        (("--device", "cuda"), "--opset is for older versions of ONNX Runtime on the CPU, and the device is cuda", ""),
        (("--opset", "16"), "--opset is 16", "17"),
    ],
    ids=["openvino", "cuda", "too old"],
)
def test_a_lower_opset_that_makes_no_sense_is_refused_without_torch(
    tmp_path: Path, arguments: tuple[str, ...], told: str, advice: str
) -> None:
    refused(korsbert("export", "--model", "demo", "--opset", "20", *arguments, cwd=tmp_path), 2, told, advice)


def test_a_bundle_that_is_none_is_refused_without_torch(tmp_path: Path) -> None:
    refused(korsbert("validate", ".", cwd=tmp_path), 2, "not a bundle")
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    refused(korsbert("golden", "demo", "--out", "notes.txt", cwd=tmp_path), 2, "notes.txt")


@pytest.mark.parametrize("model_type", [one for one in MODEL_TYPES if not missing_versions(one)])
def test_no_class_has_a_field_that_steers_a_loader(model_type: str) -> None:
    """Without the class, every key that looks as if it steered a loader is refused. So no class may have such a one."""
    known = transformer_rules(model_type, "config.json").known
    assert [key for key in known if _STEERING.fullmatch(key)] == []
