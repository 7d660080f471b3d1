"""The command line: what it prints and where, its exit codes, and its answers to whatever is wrong with the input."""

from __future__ import annotations

import json
import os
import pickle
import pty
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import exporter
from exporter.recipe import list_recipes
from tests.conftest import SCRIPTS
from tests.support.manifests import edit_manifest
from tests.support.process import Done, refused, run_program, split_stages, succeeded
from tests.support.warm import CLI, WarmPython

SENTENCES = ["고양이가 창가에서 졸고 있다.", "", "The library closes at six.", "비가 오면 소풍은 다음 주로 미룬다."]


@pytest.fixture
def copy(twin: Path, tmp_path: Path) -> Path:
    """A copy of the twin to damage."""
    return Path(shutil.copytree(twin, tmp_path / "copy"))


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def write_recipe(path: Path, source: str | Path, text: str = "") -> Path:
    path.write_text(f"name: mine\nsource: {source}\n{text}", encoding="utf-8")
    return path


def nothing_published(folder: Path) -> bool:
    """Whether nothing at all was left below ``folder``: no bundle, no lock, no empty folder."""
    return not list(folder.rglob("*"))


class TestExport:
    def test_json_is_one_object_on_stdout_and_nothing_else(self, demo_export: tuple[Path, Done]) -> None:
        folder, done = demo_export
        succeeded(done)
        assert done.stdout.count("\n") == 1
        result = json.loads(done.stdout)
        assert result.keys() == {"bundle", "size_bytes", "stages", "manifest", "parity"}
        assert result["bundle"] == "artifacts/demo/fp16-onnxruntime"
        assert result["manifest"] == json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        assert result["parity"]["passed"]
        first, *_, last = [stage["name"] for stage in result["stages"]]
        assert (first, last) == ("load checkpoint", "publish")
        assert not any(stage["failed"] for stage in result["stages"])

    def test_a_line_for_each_stage_on_stderr_where_that_is_no_terminal(self, demo_export: tuple[Path, Done]) -> None:
        _, done = demo_export
        told, _ = split_stages(done.stderr)
        assert told == [stage["name"] for stage in json.loads(done.stdout)["stages"]]
        assert re.search(r"^load checkpoint: \d+\.\d s, AlbertModel, cls pooling, 256-d$", done.stderr, re.MULTILINE)

    def test_the_folder_holds_what_the_design_says(self, demo_fp16: Path) -> None:
        names = {path.name for path in demo_fp16.iterdir()}
        wanted = {"model.onnx", "tokenizer.json", "tokenizer_config.json", "config.json"}
        assert names == wanted | {
            "manifest.json",
            "parity.json",
            "fp16.json",
            "ranges.json",
            "report.html",
            "README.md",
        }
        assert stat.S_IMODE(demo_fp16.stat().st_mode) == 0o755

    def test_manifest_says_that_fp16_was_judged_on_a_cpu(self, demo_fp16: Path) -> None:
        manifest = json.loads((demo_fp16 / "manifest.json").read_text(encoding="utf-8"))
        assert manifest["validation"]["execution"] == "CPUExecutionProvider"
        assert "on a CPU" in manifest["validation"]["note"]
        assert manifest["validation"]["min_cosine"] >= 0.9999
        assert manifest["encoder"]["do_lower_case"] is True
        assert {"korsbert", "python", "torch", "onnxruntime"} <= manifest["tools"].keys()
        assert any("float16" in decision for decision in manifest["decisions"])

    def test_a_table_ends_an_export(self, python: WarmPython, twin: Path, tmp_path: Path) -> None:
        done = python.run(CLI, "export", "--model", twin, cwd=tmp_path)
        succeeded(done)
        for stage in (
            "stage",
            "load checkpoint",
            "fold into one graph",
            "check the files",
            "gate: fp32 on onnxruntime",
            "sweep: fp32 on onnxruntime",
            "publish",
            "total",
        ):
            assert stage in done.stdout
        assert "artifacts/twin/fp32-onnxruntime: the gate was passed" in done.stdout

    def test_progress_shows_on_a_terminal_and_on_stderr_only(self, tmp_path: Path) -> None:
        # The one step before the error is importing torch, and a line on the terminal says so.
        (tmp_path / "nothing-here").mkdir()
        theirs, ours = pty.openpty()
        process = subprocess.Popen(
            [SCRIPTS / "korsbert-export", "--model", tmp_path / "nothing-here", "--json"],
            stdout=subprocess.PIPE,
            stderr=ours,
            env=os.environ | {"TERM": "xterm"},
        )
        os.close(ours)
        shown = b""
        while chunk := _read(theirs):
            shown += chunk
        out, _ = process.communicate(timeout=600)
        os.close(theirs)
        assert process.returncode == 2
        assert out == b""
        assert b"importing torch" in shown
        assert b"no checkpoint" in shown

    @pytest.mark.parametrize(
        ("number", "told"), [(signal.SIGINT, "interrupted\n"), (signal.SIGTERM, ""), (signal.SIGHUP, "")]
    )
    def test_a_signal_ends_it_and_leaves_nothing(
        self, python: WarmPython, twin: Path, tmp_path: Path, number: signal.Signals, told: str
    ) -> None:
        running = python.start(CLI, "export", "--model", twin, "--out", tmp_path / "out")
        deadline = time.monotonic() + 300
        while not list(tmp_path.glob("out/twin/.*staging*")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(running.pid, number)
        done = running.wait()
        assert (done.status, split_stages(done.stderr)[1]) == (128 + number, told)
        assert not (tmp_path / "out").exists()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1024)
    except OSError:  # how Linux tells that the other end of a terminal was closed
        return b""


class TestUsage:
    def test_neither_model_nor_recipe(self, python: WarmPython) -> None:
        refused(python.run(CLI, "export"), 2, "give a model or a recipe, one of the two")

    def test_both_model_and_recipe(self, python: WarmPython, tmp_path: Path) -> None:
        recipe = write_recipe(tmp_path / "mine.yaml", "x/y")
        refused(python.run(CLI, "export", "--model", "demo", "--recipe", recipe), 2, "one of the two")

    def test_two_precisions(self, python: WarmPython) -> None:
        refused(python.run(CLI, "export", "--model", "demo", "--fp16", "--bf16"), 2, "--fp16 and --bf16")

    def test_bf16_on_the_cpu_of_onnxruntime(self, python: WarmPython, tmp_path: Path) -> None:
        done = python.run(CLI, "export", "--model", "demo", "--bf16", cwd=tmp_path)
        refused(done, 2, "onnxruntime's CPU provider cannot run bfloat16", "--backend openvino")
        assert nothing_published(tmp_path)

    def test_cuda_that_is_not_there(self, python: WarmPython, tmp_path: Path) -> None:
        import onnxruntime

        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            pytest.skip("this onnxruntime has the CUDA provider")
        done = python.run(CLI, "export", "--model", "demo", "--device", "cuda", cwd=tmp_path)
        refused(done, 3, "no CUDAExecutionProvider here", "pip install 'korsbert[gpu]'")

    @pytest.mark.parametrize("arguments", [("--backend", "caffe"), ("--device", "tpu"), ("--color",), ("one", "two")])
    def test_unknown_words_are_usage_errors(self, python: WarmPython, arguments: tuple[str, ...]) -> None:
        done = python.run(CLI, "export", "--model", "demo", *arguments)
        assert done.status == 2
        assert done.stdout == ""
        assert done.stderr.startswith("Usage: ")
        assert "Traceback" not in done.stderr

    def test_list_names_every_recipe(self, python: WarmPython) -> None:
        done = python.run(CLI, "list", "--json")
        names = [recipe["name"] for recipe in json.loads(done.stdout)["recipes"]]
        assert names == [recipe.name for recipe in list_recipes()]
        table = python.run(CLI, "list").stdout
        assert all(name in table for name in names)
        assert {recipe["proven_on"] for recipe in json.loads(done.stdout)["recipes"]} == {"weights", "rounded", "twin"}

    def test_version(self, python: WarmPython) -> None:
        done = python.run(CLI, "--version")
        assert (done.status, done.stdout, done.stderr) == (0, f"korsbert {version('korsbert')}\n", "")

    def test_help_of_both_commands_without_torch(self) -> None:
        code = "import sys; sys.modules['torch'] = sys.modules['onnx'] = None; from exporter.cli.main import {0}; {0}()"
        for entry in ("main", "export_main"):
            done = run_program([sys.executable, "-c", code.format(entry), "--help"])
            assert (done.status, done.stderr) == (0, "")
            assert done.stdout.startswith("Usage: ")


class TestModels:
    @pytest.mark.parametrize(
        ("wrong", "meant"), [("dmeo", "demo"), ("albert-smal", "albert-small"), ("ko-sbert", "ko-sbert-sts")]
    )
    def test_unknown_name_gets_the_nearest(self, python: WarmPython, wrong: str, meant: str) -> None:
        refused(python.run(CLI, "export", "--model", wrong), 2, repr(wrong), "did you mean", meant)

    def test_a_name_like_nothing_gets_all_names(self, python: WarmPython) -> None:
        names = ", ".join(recipe.name for recipe in list_recipes())
        refused(python.run(CLI, "export", "--model", "xyzzyxyzzy"), 2, f"one of {names}, a folder")

    @pytest.mark.parametrize("name", ["", "x" * 5000, "./nowhere", "a/b/c", "../demo/checkpoint", "/"])
    def test_odd_names(self, python: WarmPython, name: str) -> None:
        refused(python.run(CLI, "export", "--model", name), 2)

    def test_a_yaml_beside_a_folder_is_no_recipe_that_ships(self, python: WarmPython, tmp_path: Path) -> None:
        (tmp_path / "model").mkdir()
        write_recipe(tmp_path / "model.yaml", "x/y")
        refused(python.run(CLI, "export", "--model", tmp_path / "model"), 2, "no checkpoint: neither modules.json nor")

    def test_folder_that_is_no_checkpoint(self, python: WarmPython, tmp_path: Path) -> None:
        done = python.run(CLI, "export", "--model", tmp_path, "--out", tmp_path / "out")
        refused(done, 2, str(tmp_path), "neither modules.json nor config.json is there")
        assert nothing_published(tmp_path)

    def test_checkpoint_folder_that_is_not_there(self, python: WarmPython, tmp_path: Path) -> None:
        done = python.run(CLI, "export", "--model", "demo", "--checkpoint", tmp_path / "none", cwd=tmp_path)
        refused(done, 2, "no such folder")


Damage = Callable[[Path], object]


def _module(kind: str) -> Damage:
    def damage(folder: Path) -> None:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        modules.append({"idx": 2, "name": "2", "path": "2_Last", "type": kind})
        (folder / "modules.json").write_text(json.dumps(modules))

    return damage


def _text(name: str, content: str) -> Damage:
    return lambda folder: (folder / name).write_text(content, encoding="utf-8")


def _json(name: str, **changes: Any) -> Damage:
    return lambda folder: edit_json(folder / name, **changes)


def _without_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / name).unlink()


def _half(name: str) -> Damage:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return damage


def _weights(change: Callable[[dict[Any, Any]], object]) -> Damage:
    def damage(folder: Path) -> None:
        import torch

        state = torch.load(folder / "pytorch_model.bin", weights_only=True)
        change(state)
        torch.save(state, folder / "pytorch_model.bin")

    return damage


def _drop_layer(state: dict[Any, Any]) -> None:
    for name in [name for name in state if ".layer.1." in name]:
        del state[name]


def _poison(state: dict[Any, Any]) -> None:
    state["encoder.layer.0.output.dense.bias"][3] = float("nan")


def _cut_vocabulary(state: dict[Any, Any]) -> None:
    state["embeddings.word_embeddings.weight"] = state["embeddings.word_embeddings.weight"][:1000].clone()


def _small_vocabulary(folder: Path) -> None:
    _weights(_cut_vocabulary)(folder)
    edit_json(folder / "config.json", vocab_size=1000)


DAMAGE: dict[str, tuple[Damage, tuple[str, ...]]] = {
    "unsupported module": (_module("sentence_transformers.models.CNN"), ("'sentence_transformers.models.CNN' cannot",)),
    "module of the user's own": (_module("mine.Module"), ("'mine.Module' cannot be folded",)),
    "Dense without files": (_module("sentence_transformers.models.Dense"), ("names a Dense", "2_Last/config.json")),
    "modules.json of names": (_text("modules.json", '["Transformer"]'), ("expected a list of objects",)),
    "modules.json no list": (_text("modules.json", "{}"), ("expected a JSON list, found dict",)),
    "modules.json no JSON": (_text("modules.json", "[{"), ("modules.json: not readable as JSON",)),
    "unsupported pooling": (
        _text("1_Pooling/config.json", '{"embedding_dimension": 64, "pooling_mode": "attention"}'),
        ("pooling mode: 'attention'",),
    ),
    "pooling without prompt": (
        _json("1_Pooling/config.json", include_prompt=False),
        ("Pooling with include_prompt=false cannot be folded",),
    ),
    "no pooling folder": (lambda folder: shutil.rmtree(folder / "1_Pooling"), ("names a Pooling", "1_Pooling")),
    "remote code": (_json("config.json", auto_map={"AutoModel": "code.Model"}), ("auto_map", "never run")),
    "unsupported architecture": (_json("config.json", model_type="gpt2"), ("'gpt2' cannot be folded", "albert")),
    "config.json no JSON": (_text("config.json", "model_type: bert"), ("config.json: not readable as JSON",)),
    "heads that do not divide": (_json("config.json", num_attention_heads=5), ("attention heads (5)",)),
    "other shapes": (_json("config.json", intermediate_size=96), ("other shapes than config.json states",)),
    "no tokenizer": (_without_tokenizer, ("no tokenizer",)),
    "tokenizer no JSON": (_half("tokenizer.json"), ("tokenizer.json: not readable as JSON",)),
    "tokenizer of another model": (_small_vocabulary, ("ids beyond the rows of its embedding table",)),
    "no room for a token": (_json("sentence_bert_config.json", max_seq_length=2), ("max_seq_length is 2",)),
    "length that is no number": (
        _json("sentence_bert_config.json", max_seq_length="all"),
        ("max_seq_length is 'all'",),
    ),
    "no weights": (lambda folder: (folder / "pytorch_model.bin").unlink(), ("no weights",)),
    "a layer missing": (_weights(_drop_layer), ("16 of 53 weights are missing", "encoder.layer.1.")),
    "NaN in a weight": (_weights(_poison), ("encoder.layer.0.output.dense.bias holds NaN",)),
    "keys that are no names": (_weights(lambda state: state.update({1: 2})), ("keys are no names",)),
    "truncated pickle": (_half("pytorch_model.bin"), ("pytorch_model.bin: damaged",)),
    "empty pickle": (_text("pytorch_model.bin", ""), ("pytorch_model.bin: damaged",)),
    "Git LFS pointer": (
        _text("pytorch_model.bin", "version https://git-lfs.github.com/spec/v1\n"),
        ("damaged or holds",),
    ),
    "truncated safetensors": (
        lambda folder: (folder / "model.safetensors").write_bytes(safetensors()[: len(safetensors()) // 2]),
        ("model.safetensors: damaged",),
    ),
    "safetensors with a garbage header": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 100 + safetensors()[100:]),
        ("model.safetensors: damaged",),
    ),
}


def safetensors() -> bytes:
    from safetensors.numpy import save

    return bytes(save({"embeddings.word_embeddings.weight": np.ones((100, 64), dtype=np.float32)}))


class TestCheckpoints:
    @pytest.mark.parametrize("damage", DAMAGE)
    def test_damaged(self, python: WarmPython, copy: Path, tmp_path: Path, damage: str) -> None:
        inflict, told = DAMAGE[damage]
        inflict(copy)
        done = python.run(CLI, "export", "--model", copy, "--out", tmp_path / "out")
        refused(done, 2, str(copy), *told)
        assert nothing_published(tmp_path / "out")

    @pytest.mark.parametrize("kind", ["today's file", "file of torch before 1.6", "bare pickle", "in a Dense"])
    def test_pickle_with_code_in_it_is_not_run(self, python: WarmPython, copy: Path, tmp_path: Path, kind: str) -> None:
        import torch

        trap = tmp_path / "sprung"
        weights = copy / "pytorch_model.bin"
        if kind == "in a Dense":
            _module("sentence_transformers.models.Dense")(copy)
            (copy / "2_Last").mkdir()
            config = {"in_features": 64, "out_features": 8, "activation_function": "torch.nn.modules.linear.Identity"}
            (copy / "2_Last" / "config.json").write_text(json.dumps(config))
            weights = copy / "2_Last" / "pytorch_model.bin"
        if kind == "bare pickle":
            weights.write_bytes(pickle.dumps(Trap(trap)))
        else:
            zipped = kind != "file of torch before 1.6"
            torch.save({"linear.weight": Trap(trap)}, weights, _use_new_zipfile_serialization=zipped)
        done = python.run(CLI, "export", "--model", copy, "--out", tmp_path / "out")
        refused(done, 2, str(weights), "holds code, and weights are data")
        assert not trap.exists()
        # The trap is armed: pickle itself springs it.
        if kind == "bare pickle":
            pickle.loads(weights.read_bytes())
            assert trap.exists()

    @pytest.mark.parametrize(
        ("fact", "expected", "found"),
        [
            ("pooling", "[cls]", "('mean',)"),
            ("dimension", "768", "64"),
            ("architecture", "AlbertModel", "'BertModel'"),
            ("max_seq_length", "512", "128"),
            ("do_lower_case", "true", "False"),
        ],
    )
    def test_disagreement_with_the_recipe_names_both_values(
        self, python: WarmPython, twin: Path, tmp_path: Path, fact: str, expected: str, found: str
    ) -> None:
        recipe = write_recipe(tmp_path / "mine.yaml", twin, f"expect:\n  {fact}: {expected}\n")
        done = python.run(CLI, "export", "--recipe", recipe, cwd=tmp_path)
        shown = {"[cls]": "('cls',)", "true": "True", "AlbertModel": "'AlbertModel'"}.get(expected, expected)
        refused(done, 2, "recipe 'mine'", f"{fact} is {found}, the recipe expects {shown}")
        assert nothing_published(tmp_path / "artifacts")

    def test_all_disagreements_are_told_at_once(self, python: WarmPython, twin: Path, tmp_path: Path) -> None:
        done = python.run(CLI, "export", "--model", "demo", "--checkpoint", twin, cwd=tmp_path)
        refused(done, 2, "architecture is", "pooling is", "dimension is", "max_seq_length is", "do_lower_case is")


class Trap:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


class TestFiles:
    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("expects:\n  dimension: 64\n", "expects: unknown key, did you mean 'expect'?"),
            ("gates:\n  fp16:\n    min_cosin: 0.9\n", "gates.fp16.min_cosin: unknown key, did you mean 'min_cosine'?"),
            ("shapes:\n  batch: {min: 4, opt: 2, max: 8}\n", "min <= opt <= max"),
            ("expect: [\n", "not YAML"),
            ("revision: 7\n", "revision"),
        ],
    )
    def test_recipe(self, python: WarmPython, tmp_path: Path, text: str, told: str) -> None:
        recipe = write_recipe(tmp_path / "mine.yaml", "x/y", text)
        refused(python.run(CLI, "export", "--recipe", recipe), 2, str(recipe), told)

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            (b"", "mine.yaml: a recipe is a mapping of keys"),
            ("이름: \xff".encode("latin-1", "ignore") + b"\xff", "not YAML"),
            (b"- one\n- two\n", "this is list"),
        ],
    )
    def test_recipe_that_is_none(self, python: WarmPython, tmp_path: Path, content: bytes, told: str) -> None:
        (tmp_path / "mine.yaml").write_bytes(content)
        refused(python.run(CLI, "export", "--recipe", tmp_path / "mine.yaml"), 2, told)

    def test_recipe_that_is_not_there(self, python: WarmPython, tmp_path: Path) -> None:
        refused(python.run(CLI, "export", "--recipe", tmp_path / "no.yaml"), 2, "cannot be read: No such file")

    @pytest.mark.parametrize(
        ("name", "content", "told"),
        [
            ("empty.txt", b"", "no sentence in it"),
            ("blank.txt", b"\n  \n\t\n", "no sentence in it"),
            ("latin.txt", "café".encode("latin-1"), "not UTF-8 at byte 3"),
            ("cp949.txt", "가을 하늘".encode("cp949"), "not UTF-8 at byte 0"),
            ("lines.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', "line 2: no JSON object with a text field"),
            ("lines.jsonl", b'{"text": 5}\n', "line 1: text is int"),
            ("absent.txt", None, "cannot be read: No such file"),
        ],
    )
    def test_calibration(
        self, python: WarmPython, twin: Path, tmp_path: Path, name: str, content: bytes | None, told: str
    ) -> None:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        done = python.run(CLI, "export", "--model", twin, "--calibration", tmp_path / name, cwd=tmp_path)
        refused(done, 2, name, told)
        assert nothing_published(tmp_path / "artifacts")

    @pytest.mark.parametrize(
        ("name", "content", "told"),
        [
            ("bad.tsv", "genre\tsentence1\tsentence2\nx\t하나\t둘\n", "no header with score, sentence1 and sentence2"),
            (
                "bad.tsv",
                "score\tsentence1\tsentence2\n1\t하나\t둘\nhigh\t셋\t넷\n",
                "row 3: expected two sentences and",
            ),
            (
                "bad.tsv",
                "score\tsentence1\tsentence2\n1\t하나\t둘\n2\t셋\n",
                "row 3: expected two sentences and a score",
            ),
            ("bad.tsv", "", "no header"),
            ("bad.csv", "하나,둘,1.0\n셋,넷\n", "row 2: expected two sentences and a score"),
            ("bad.csv", "하나,둘,nan\n", "row 1: the score is nan"),
            ("bad.csv", "가,나,3\n다,라,3\n마,바,3\n", "every pair has the score 3"),
            ("bad.csv", "가,나,3\n", "1 pairs"),
            ("bad.json", "[{", "not JSON"),
            ("bad.json", '{"sentence1": "하나"}', "expected a list of objects, found dict"),
            ("bad.json", '[{"sentence1": "하나", "sentence2": "둘", "score": 1}]', "entry 1: no sentence1, sentence2"),
            ("bad.json", '["하나"]', "entry 1: no sentence1, sentence2"),
            ("bad.xlsx", "PK", "unknown kind of STS file"),
            ("absent.tsv", None, "cannot be read: No such file"),
        ],
    )
    def test_sts(
        self, python: WarmPython, twin: Path, tmp_path: Path, name: str, content: str | None, told: str
    ) -> None:
        if content is not None:
            (tmp_path / name).write_text(content, encoding="utf-8")
        done = python.run(CLI, "export", "--model", twin, "--sts", tmp_path / name, cwd=tmp_path)
        refused(done, 2, name, told)
        assert nothing_published(tmp_path / "artifacts")

    def test_sts_that_is_not_utf8(self, python: WarmPython, twin: Path, tmp_path: Path) -> None:
        (tmp_path / "old.csv").write_bytes("하나,둘,1.0\n".encode("cp949"))
        done = python.run(CLI, "export", "--model", twin, "--sts", tmp_path / "old.csv", cwd=tmp_path)
        refused(done, 2, "old.csv: not UTF-8 at byte 0")

    def test_place_that_cannot_be_written(self, python: WarmPython, twin: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        done = python.run(CLI, "export", "--model", twin, "--out", tmp_path / "file")
        refused(done, 2, f"{tmp_path / 'file'}/twin/fp32-onnxruntime: cannot be written", "--out")
        assert (tmp_path / "file").read_text() == "mine"

    def test_a_bundle_that_is_there_stays_without_force(
        self, python: WarmPython, twin: Path, twin_bundle: Path, tmp_path: Path
    ) -> None:
        place = tmp_path / "twin" / "fp32-onnxruntime"
        shutil.copytree(twin_bundle, place)
        done = python.run(CLI, "export", "--model", twin, "--out", tmp_path)
        refused(done, 2, f"{place}: already exists", "--force")
        exporter.Bundle.open(place)


class TestBundles:
    @pytest.mark.parametrize("command", ["show", "validate", "encode", "bench"])
    def test_a_folder_that_is_no_bundle(self, python: WarmPython, tmp_path: Path, command: str) -> None:
        refused(python.run(CLI, command, tmp_path), 2, f"{tmp_path}: not a bundle", "give the folder of a bundle")

    def test_show(self, python: WarmPython, twin_bundle: Path) -> None:
        done = python.run(CLI, "show", twin_bundle)
        assert (done.status, done.stderr) == (0, "")
        for part in ("BertModel, mean pooling, 64-d, 128 tokens", "fp32 on onnxruntime", "all hashes match"):
            assert part in done.stdout
        result = json.loads(python.run(CLI, "show", twin_bundle, "--json").stdout)
        assert result["manifest"]["encoder"]["dimension"] == 64
        assert len(result["parity"]["rows"]) >= 640

    def test_show_holds_the_files_against_their_hashes(
        self, python: WarmPython, twin_bundle: Path, tmp_path: Path
    ) -> None:
        bundle = Path(shutil.copytree(twin_bundle, tmp_path / "bundle"))
        (bundle / "parity.json").unlink()
        refused(python.run(CLI, "show", bundle), 2, f"{bundle / 'parity.json'}: missing")

    def test_validate_writes_junit_that_parses(
        self, python: WarmPython, twin: Path, twin_bundle: Path, tmp_path: Path
    ) -> None:
        done = python.run(
            CLI, "validate", twin_bundle, "--checkpoint", twin, "--junit", tmp_path / "junit.xml", "--json"
        )
        succeeded(done)
        result = json.loads(done.stdout)
        assert done.stdout.count("\n") == 1
        suite = ET.parse(tmp_path / "junit.xml").getroot()
        assert suite.tag == "testsuite"
        assert suite.get("failures") == "0"
        parts = [part["name"] for part in (*result["verdicts"], *result["checks"])]
        assert [case.get("name") for case in suite.iter("testcase")] == parts
        assert {"tokenizer", "weights", "graph", "dataflow", "lookup", "sweep"} <= set(parts)
        assert [path.name for path in tmp_path.iterdir()] == ["junit.xml"]

    @pytest.mark.slow
    def test_validate_finds_the_demo_where_it_ships(self, python: WarmPython, demo_fp16: Path, tmp_path: Path) -> None:
        # From any folder, and not on the hub: a manifest keeps the recipe, not where its file stood.
        done = python.run(CLI, "validate", demo_fp16, cwd=tmp_path, environment={"HF_HUB_OFFLINE": "1"})
        succeeded(done)
        assert "min cosine" in done.stdout
        assert "FAILED" not in done.stdout

    def test_validate_fails_with_junit_and_the_worst_sentence(
        self, python: WarmPython, twin: Path, twin_bundle: Path, tmp_path: Path
    ) -> None:
        bundle = with_impossible_gate(Path(shutil.copytree(twin_bundle, tmp_path / "bundle")))
        done = python.run(CLI, "validate", bundle, "--checkpoint", twin, "--junit", tmp_path / "junit.xml")
        assert done.status == 1
        assert "FAILED" in done.stdout
        assert "worst: “" in done.stderr
        suite = ET.parse(tmp_path / "junit.xml").getroot()
        failed = [case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None]
        assert failed == ["max relative error", "sweep"]
        assert suite.get("failures") == "2"

    @pytest.mark.slow
    def test_validate_records_a_pending_bundle_only_when_it_is_asked_to(
        self, python: WarmPython, twin: Path, twin_bundle: Path, tmp_path: Path
    ) -> None:
        bundle = Path(shutil.copytree(twin_bundle, tmp_path / "pending"))
        edit_manifest(bundle, lambda manifest: manifest["validation"].update(state="pending"))
        record = bundle / "validation.json"
        done = python.run(CLI, "validate", bundle, "--checkpoint", twin)
        hint = f"{bundle}: passed, but the bundle still counts as unvalidated: --record records the result\n"
        succeeded(done, hint)
        assert not record.exists()
        done = python.run(CLI, "validate", bundle, "--checkpoint", twin, "--record", "--json")
        succeeded(done, f"{record}: recorded that the bundle passed\n")
        assert json.loads(done.stdout)["passed"]
        assert record.exists()
        done = python.run(CLI, "validate", bundle, "--checkpoint", twin)  # which needs no hint now
        succeeded(done)
        gates = tmp_path / "gates.yaml"
        gates.write_text("gates: {fp32: {max_relative_error: 1.0e-300}}", encoding="utf-8")
        before = record.read_bytes()
        assert python.run(CLI, "validate", bundle, "--checkpoint", twin, "--gates", gates).status == 1
        assert record.read_bytes() == before
        done = python.run(CLI, "validate", bundle, "--checkpoint", twin, "--gates", gates, "--record")
        assert done.status == 1
        assert done.stderr.endswith(f"{bundle}: has no record of validation, because it failed\n")
        assert not record.exists()

    def test_validate_refuses_to_record_before_any_work(
        self, python: WarmPython, twin_bundle: Path, tmp_path: Path
    ) -> None:
        done = python.run(CLI, "validate", twin_bundle, "--record", "--checkpoint", tmp_path)  # nothing reads that
        refused(done, 2, "validated before it was published, so there is nothing to record", "without --record")
        assert not (twin_bundle / "validation.json").exists()

    def test_validate_against_other_weights(self, python: WarmPython, twin_bundle: Path, tmp_path: Path) -> None:
        from tests.support.twins import build_twin

        other = build_twin("ko-sbert-multitask", tmp_path / "twin", seed=1)
        done = python.run(CLI, "validate", twin_bundle, "--checkpoint", other)
        refused(done, 2, "made from other weights", "--checkpoint")

    def test_validate_needs_the_folder_that_a_bundle_only_names(self, python: WarmPython, twin_bundle: Path) -> None:
        done = python.run(CLI, "validate", twin_bundle)
        refused(done, 2, "made from a local folder, twin, and does not say where", "--checkpoint FOLDER")

    def test_junit_that_cannot_be_written(
        self, python: WarmPython, twin: Path, twin_bundle: Path, tmp_path: Path
    ) -> None:
        done = python.run(CLI, "validate", twin_bundle, "--checkpoint", twin, "--junit", tmp_path / "no" / "junit.xml")
        refused(done, 2, "junit.xml: cannot be written: No such file")


def with_impossible_gate(bundle: Path) -> Path:
    """Ask of a bundle's recipe what no floating point number can give."""
    edit_manifest(bundle, lambda manifest: manifest["recipe"]["gates"]["fp32"].update(max_relative_error=1e-300))
    return bundle


class TestEncode:
    def test_a_file(self, python: WarmPython, twin_bundle: Path, tmp_path: Path) -> None:
        (tmp_path / "text.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
        done = python.run(CLI, "encode", twin_bundle, tmp_path / "text.txt", "--out", tmp_path / "vectors")
        assert (done.status, done.stdout) == (0, "")
        assert done.stderr == f"4 x 64 float32 in {tmp_path / 'vectors'}\n"
        vectors = np.load(tmp_path / "vectors")
        with exporter.load(twin_bundle) as encoder:
            np.testing.assert_array_equal(vectors, encoder.encode(SENTENCES))
        assert vectors.dtype == np.float32
        assert {path.name for path in tmp_path.iterdir()} == {"text.txt", "vectors"}

    @pytest.mark.parametrize("precision", ["int8", "ubinary", "float16"])
    def test_stored_vectors(self, python: WarmPython, twin_bundle: Path, tmp_path: Path, precision: Any) -> None:
        options = ("--precision", precision, "--truncate-dim", "12")
        text = "\n".join(SENTENCES).encode()
        with exporter.load(twin_bundle, truncate_dim=12) as encoder:
            wanted = encoder.encode(SENTENCES, precision=precision)
        done = python.run(CLI, "encode", twin_bundle, *options, stdin=text)
        assert done.status == 0, done
        printed = np.array([json.loads(line) for line in done.stdout.splitlines()])
        np.testing.assert_array_equal(printed.astype(wanted.dtype), wanted)
        for given, rows in ((text, len(SENTENCES)), (b"", 0)):
            done = python.run(CLI, "encode", twin_bundle, *options, "--out", tmp_path / "vectors", stdin=given)
            assert done.stderr == f"{rows} x {wanted.shape[1]} {wanted.dtype} in {tmp_path / 'vectors'}\n"
            assert np.load(tmp_path / "vectors").dtype == wanted.dtype

    def test_stored_vectors_that_the_bundle_has_no_ranges_for(self, python: WarmPython, twin_bundle: Path) -> None:
        options = ("--precision", "int8", "--truncate-dim", "12", "--normalize")
        done = python.run(CLI, "encode", twin_bundle, *options, stdin=b"a\n")
        assert (done.status, done.stdout) == (2, "")
        assert "no ranges of normalized vectors of 12 dimensions, only of 64" in done.stderr

    def test_a_named_prompt(self, python: WarmPython, twin_bundle: Path, tmp_path: Path) -> None:
        bundle = Path(shutil.copytree(twin_bundle, tmp_path / "bundle"))
        edit_manifest(bundle, lambda manifest: manifest["encoder"].update(prompts={"query": "질문: "}))
        done = python.run(CLI, "encode", bundle, "--prompt-name", "query", stdin="가\n".encode())
        assert (done.status, done.stderr) == (0, "")
        with exporter.load(bundle) as encoder:
            np.testing.assert_array_equal(np.float32(json.loads(done.stdout)), encoder.encode("질문: 가"))
        done = python.run(CLI, "encode", bundle, "--prompt-name", "title", stdin="가\n".encode())
        assert (done.status, done.stdout) == (2, "")
        assert done.stderr == "error: the model has no prompt 'title'\n  next: its prompts are: query\n"

    def test_the_text_itself_is_not_overwritten(self, python: WarmPython, twin_bundle: Path, tmp_path: Path) -> None:
        text = tmp_path / "text.txt"
        text.write_text("가\n", encoding="utf-8")
        (tmp_path / "link").symlink_to(text)
        for out in (text, tmp_path / "link"):
            done = python.run(CLI, "encode", twin_bundle, text, "--out", out)
            refused(done, 2, f"{out}: is the text to encode")
        assert text.read_text(encoding="utf-8") == "가\n"

    def test_stdin_to_json_lines(self, python: WarmPython, twin_bundle: Path) -> None:
        done = python.run(CLI, "encode", twin_bundle, stdin="\r\n".join([*SENTENCES, ""]).encode())
        assert (done.status, done.stderr) == (0, "")
        rows = np.array([json.loads(line) for line in done.stdout.splitlines()], dtype=np.float32)
        with exporter.load(twin_bundle) as encoder:
            np.testing.assert_array_equal(rows, encoder.encode(SENTENCES))

    def test_rows_are_lines_as_wc_counts_them(self, python: WarmPython, twin_bundle: Path) -> None:
        text = "앞\u2028뒤\n\x0b탭\x0c\x85\n\n끝\n"
        done = python.run(CLI, "encode", twin_bundle, stdin=text.encode())
        assert len(done.stdout.splitlines()) == text.count("\n") == 4

    @pytest.mark.parametrize("content", [b"", "\ufeff".encode()])
    def test_an_empty_file_gives_no_rows(
        self, python: WarmPython, twin_bundle: Path, tmp_path: Path, content: bytes
    ) -> None:
        (tmp_path / "empty.txt").write_bytes(content)
        done = python.run(CLI, "encode", twin_bundle, tmp_path / "empty.txt", "--out", tmp_path / "no.npy")
        assert done.status == 0
        assert np.load(tmp_path / "no.npy").shape == (0, 64)
        assert python.run(CLI, "encode", twin_bundle).stdout == ""

    def test_text_that_is_not_utf8(self, python: WarmPython, twin_bundle: Path, tmp_path: Path) -> None:
        (tmp_path / "old.txt").write_bytes(b"abc\n" + "한글".encode("cp949"))
        refused(python.run(CLI, "encode", twin_bundle, tmp_path / "old.txt"), 2, "old.txt: not UTF-8 at byte 4")
        refused(python.run(CLI, "encode", twin_bundle, stdin=b"\xff"), 2, "stdin: not UTF-8 at byte 0")

    def test_text_that_is_not_there(self, python: WarmPython, twin_bundle: Path, tmp_path: Path) -> None:
        refused(python.run(CLI, "encode", twin_bundle, tmp_path), 2, "cannot be read: Is a directory")
        refused(python.run(CLI, "encode", twin_bundle, tmp_path / "no.txt"), 2, "cannot be read: No such file")

    @pytest.mark.parametrize("out", ["", ".", "no/where.npy", "file/inside.npy"])
    def test_output_that_cannot_be_written(
        self, python: WarmPython, twin_bundle: Path, tmp_path: Path, out: str
    ) -> None:
        (tmp_path / "file").touch()
        done = python.run(CLI, "encode", twin_bundle, "--out", out, stdin=b"a\n", cwd=tmp_path)
        refused(done, 2, "cannot be written")
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def test_output_on_a_full_disk_leaves_what_was_there(
        self, python: WarmPython, twin_bundle: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "out.npy").write_bytes(b"before")
        code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); {CLI}"
        text = b"a\n" * 100
        done = python.run(code, "encode", twin_bundle, "--out", tmp_path / "out.npy", stdin=text)
        refused(done, 2, "out.npy: cannot be written: File too large")
        assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]

    def test_output_to_a_device_or_through_a_link(self, python: WarmPython, twin_bundle: Path, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "link").symlink_to(tmp_path / "real.npy")
        reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        for out in ("pipe", "link"):
            done = python.run(CLI, "encode", twin_bundle, "--out", tmp_path / out, stdin=b"a\n")
            assert done.status == 0, done
        assert os.read(reading, 10_000).startswith(b"\x93NUMPY")
        os.close(reading)
        assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
        assert (tmp_path / "link").is_symlink()
        assert np.load(tmp_path / "real.npy").shape == (1, 64)

    def test_normalize_and_batch_size(self, python: WarmPython, twin_bundle: Path) -> None:
        text = "\n".join(SENTENCES).encode()
        done = python.run(CLI, "encode", twin_bundle, "--normalize", "--batch-size", "1", stdin=text)
        rows = np.array([json.loads(line) for line in done.stdout.splitlines()])
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
        done = python.run(CLI, "encode", twin_bundle, "--batch-size", "0", stdin=text)
        assert done.status == 2
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize("command", ["encode", "list", "list --json"])
    def test_a_reader_that_stops_is_no_traceback_and_no_failed_gate(
        self, twin_bundle: Path, tmp_path: Path, command: str
    ) -> None:
        (tmp_path / "many.txt").write_text("가\n" * 2000, encoding="utf-8")
        arguments = f"{command} {twin_bundle} {tmp_path / 'many.txt'}" if command == "encode" else command
        reader, writer = os.pipe()
        os.close(reader)  # before anything is written
        done = subprocess.run(
            [SCRIPTS / "korsbert", *arguments.split()], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
        )
        os.close(writer)
        assert (done.returncode, done.stderr) == (141, "")

    def test_a_full_disk_behind_stdout(self) -> None:
        done = run_program(["sh", "-c", f"{SCRIPTS / 'korsbert'} list > /dev/full"])
        refused(done, 2, "the disk is full")


class TestMissingPackages:
    @pytest.mark.parametrize(
        ("package", "told"),
        [
            ("torch", "torch is not installed"),
            ("transformers", "transformers is not installed"),
            ("sentence_transformers", "sentence_transformers is not installed"),
            ("optimum", "optimum is not installed"),
            ("onnxscript", "onnxscript is not installed"),
        ],
    )
    def test_export_names_the_extra(self, tmp_path: Path, package: str, told: str) -> None:
        done = run_program([sys.executable, "-c", without(package), "export", "--model", "demo"], cwd=tmp_path)
        refused(done, 3, told, "pip install 'korsbert[export]'")

    def test_a_package_that_another_one_needs(self) -> None:
        # regex is no dependency of korsbert itself, but transformers does not import without it.
        done = run_program([sys.executable, "-c", without("regex"), "export", "--model", "demo"])
        refused(done, 3, "regex is not installed, which sentence_transformers needs", "korsbert[export]")

    @pytest.mark.parametrize(("package", "extra"), [("onnxruntime", "cpu")])
    def test_encode_names_the_engine(self, twin_bundle: Path, package: str, extra: str) -> None:
        done = run_program([sys.executable, "-c", without(package), "encode", twin_bundle], stdin=b"a\n")
        refused(done, 3, f"{package} is not installed", f"pip install 'korsbert[{extra}]'")

    def test_openvino(self, python: WarmPython, twin: Path, tmp_path: Path) -> None:
        code = f"import sys; sys.modules['openvino'] = None; {CLI}"
        done = python.run(code, "export", "--model", twin, "--backend", "openvino", cwd=tmp_path)
        refused(done, 3, "openvino is not installed", "pip install 'korsbert[openvino]'")

    def test_validate_names_the_extra(self, twin_bundle: Path) -> None:
        done = run_program([sys.executable, "-c", without("torch"), "validate", twin_bundle])
        refused(done, 3, "torch is not installed", "pip install 'korsbert[export]'")


def without(package: str) -> str:
    """Statements that run the command as where a package is not installed."""
    return f"import sys; sys.modules[{package!r}] = None; {CLI}"
