"""What runs in the environments of peers: requests, pooling, and checkpoints that older libraries can load."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from benchmarks import peer_programs
from benchmarks.peer_contenders import (
    CONTENDERS,
)
from benchmarks.peer_programs import Job, korsbert_engines, sentence_transformers_onnx
from benchmarks.peer_programs.korsbert_engines import search_facts
from exporter.precisions.int8.judge import Loss
from exporter.precisions.int8.search import Assignment
from exporter.recipe import find_recipe
from tests.support.checkpoints import save_checkpoint


def test_each_program_is_there() -> None:
    programs = {one.program for one in CONTENDERS} | {step.program for one in CONTENDERS for step in one.steps}
    assert programs == {file.stem for file in Path(peer_programs.__file__).parent.glob("*.py")} - {"__init__"}


def test_a_process_times_batches_and_single_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[list[str], int]] = []

    def encode(texts: list[str], batch_size: int) -> list[list[float]]:
        asked.append((texts, batch_size))
        return [[float(len(text)), 1.0] for text in texts]

    module = ModuleType("benchmarks.peer_programs.fake")
    module.load = lambda _: encode  # type: ignore[attr-defined]
    module.facts = lambda job: {"threads": job.threads}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "benchmarks.peer_programs.fake", module)
    job = {"checkpoint": "", "folder": "", "variant": "", "threads": 1, "text": "", "libraries": ["numpy"]}
    monkeypatch.setattr("sys.argv", ["", "fake", "serve", json.dumps(job)])
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "1")
    request = {"texts": ["a", "bcd"], "batch_size": 32, "alone": False, "vectors": True}
    answers: list[tuple[Any, bytes]] = []
    peer_programs.main(
        lambda: [request, {**request, "alone": True, "vectors": False}],
        lambda content, values=b"": answers.append((content, values)),
    )
    assert answers[0][0] == {"versions": {"numpy": np.__version__}, "facts": {"threads": 1}}
    assert len(answers[1][0]["seconds"]) == 1
    assert np.frombuffer(answers[1][1], np.float32).reshape(answers[1][0]["shape"]).tolist() == [[1.0, 1.0], [3.0, 1.0]]
    assert len(answers[2][0]["seconds"]) == 2
    assert asked == [(["a", "bcd"], 32), (["a"], 32), (["bcd"], 32)]


@pytest.mark.parametrize(("config", "lower"), [({"do_lower_case": True}, True), ({"max_seq_length": 8}, False)])
def test_text_is_lower_cased_where_sentence_transformers_does(
    tmp_path: Path, config: dict[str, Any], lower: bool
) -> None:
    (tmp_path / "modules.json").write_text(json.dumps([{"path": ""}]))
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps(config))
    assert peer_programs.lower_cases(str(tmp_path)) is lower


def test_sorted_batches_come_back_in_order() -> None:
    seen: list[list[str]] = []

    def encode_batch(texts: list[str]) -> peer_programs.Vectors:
        seen.append(texts)
        return np.array([[len(text)] for text in texts], np.float32)

    vectors = peer_programs.by_length(encode_batch)(["aa", "a", "aaaa", "aaa"], 3)
    assert vectors[:, 0].tolist() == [2, 1, 4, 3]
    assert seen == [["aaaa", "aaa", "aa"], ["a"]]


def test_padding_is_not_pooled() -> None:
    hidden = np.array([[[3.0, 4.0], [9.0, 9.0]], [[0.0, 2.0], [2.0, 0.0]]])
    mask = np.array([[1, 0], [1, 1]])
    assert peer_programs.pooled(hidden, mask, "mean", normalize=False).tolist() == [[3.0, 4.0], [1.0, 1.0]]
    assert peer_programs.pooled(hidden, mask, "cls", normalize=True).tolist() == [
        pytest.approx([0.6, 0.8]),
        pytest.approx([0.0, 1.0]),
    ]


def test_modules_that_the_programs_do_not_have_are_refused(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, "bert", modules=("dense",))
    with pytest.raises(ValueError, match="only mean or cls pooling is written here"):
        peer_programs.pooling_of(str(folder))


def test_korsbert_keeps_what_the_search_for_int8_found(tmp_path: Path) -> None:
    gate = find_recipe("demo").gates.of("int8")
    lost = {"neighbor_overlap": 1.0, "max_relative_error": 0.0, "max_norm_error": 0.0}
    good, bad = (Loss(cosine, cosine, cosine, **lost) for cosine in (1.0, 0.5))
    found = [search_facts(Assignment(frozenset(), 0.25, 1.0, loss), gate, 64) for loss in (good, bad)]
    assert found == [{"passed": passed, "share": 0.25, "sentences": 64} for passed in (True, False)]
    job = Job("", str(tmp_path), "int8 openvino", 1, "")
    assert korsbert_engines.facts(job) == {}
    (tmp_path / "int8-openvino").mkdir()
    (tmp_path / "int8-openvino" / "search.json").write_text(json.dumps(found[0]))
    assert korsbert_engines.facts(job) == found[0]


def test_a_newer_checkpoint_is_rewritten_for_older_libraries(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "saved", "modernbert", modules=("normalize",))
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    (tmp_path / "scratch").mkdir()
    readable = sentence_transformers_onnx._readable(folder, tmp_path / "scratch")
    assert readable != folder
    assert [module["type"] for module in json.loads((readable / "modules.json").read_text())] == [
        f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling", "Normalize")
    ]
    tokenizer = json.loads((readable / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert tokenizer["model_input_names"] == ["input_ids", "attention_mask"]
    assert tokenizer["model_max_length"] == peer_programs.max_seq_length(str(folder))
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before  # it was only read
    original, copied = (
        SentenceTransformer(str(path), device="cpu").encode(["문장", "two"]) for path in (folder, readable)
    )
    assert np.array_equal(original, copied)
    assert sentence_transformers_onnx._readable(readable, tmp_path / "other") == readable  # nothing is newer in it
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["BertTokenizer", "TokenizersBackend"])
def test_only_what_is_newer_is_rewritten(tmp_path: Path, name: str) -> None:
    folder = save_checkpoint(tmp_path / "saved", "bert", modules=("normalize",))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
    (folder / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Transformer", "path": ""}]))
    readable = sentence_transformers_onnx._readable(folder, tmp_path)
    assert (readable == folder) is (name == "BertTokenizer")
    assert json.loads((readable / "modules.json").read_text())[0]["type"] == "sentence_transformers.models.Transformer"
