"""Peers: turns, groups, figures, promises and the requests that processes answer, without any peer."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from benchmarks import peer_programs, peer_report, peers
from benchmarks.floor import operations, size_of
from benchmarks.matrix_rates import matrix_rates
from benchmarks.peer import PeerError, last_error
from benchmarks.peer_contenders import CLASSES, CONTENDERS, OWN, REFERENCE, REQUIREMENTS, Step, environment, prepare
from benchmarks.peer_operations import shape_of
from benchmarks.peer_programs import Job
from benchmarks.peer_report import publish_models, summarized, targets_of
from benchmarks.peer_turns import LEAST_ROUNDS, MOST_ROUNDS, Times, groups, memory_of, rotated, take_turns
from exporter.checkpoint import load_checkpoint
from exporter.recipe import find_recipe
from tests.support.checkpoints import save_checkpoint

TEXTS = ("first", "second")


class FakeWorker:
    """Takes the seconds that it is told, and writes down when it was asked for what."""

    def __init__(self, name: str, seconds: float, log: list[tuple[str, tuple[str, ...]]], fails_at: int = -1) -> None:
        self.name, self.taken, self.log, self.fails_at = name, seconds, log, fails_at

    def seconds(self, texts: Sequence[str], batch_size: int) -> float:
        if self.fails_at == sum(name == self.name for name, _ in self.log):
            raise PeerError("killed by signal 9")
        self.log.append((self.name, tuple(texts)))
        assert batch_size == 32
        return self.taken * len(self.log)

    def seconds_alone(self, texts: Sequence[str]) -> list[float]:
        return [self.taken for _ in texts]


def turns(workers: dict[str, FakeWorker], budget_s: float = 0.0) -> Any:
    ticks = iter(range(1000))
    return take_turns(
        workers, TEXTS, TEXTS, batch_size=32, budget_s=budget_s, pause_s=0, clock=lambda: float(next(ticks))
    )


def test_all_encode_the_same_in_each_round_and_another_begins() -> None:
    log: list[tuple[str, tuple[str, ...]]] = []
    found = turns({name: FakeWorker(name, 1.0, log) for name in "abc"})
    order = [name for name, _ in log]
    assert ["".join(order[start : start + 3]) for start in range(0, len(order), 3)] == ["abc", "bca", "cab", "abc"]
    assert {texts for _, texts in log} == {TEXTS}
    assert [len(times.batches_s) for times in found.times.values()] == [LEAST_ROUNDS] * 3  # the first is not counted
    assert min(found.times["a"].batches_s) > 3
    assert len(found.loads) == LEAST_ROUNDS


@pytest.mark.parametrize(("budget_s", "rounds"), [(0, LEAST_ROUNDS), (5, 5), (500, MOST_ROUNDS)])
def test_as_many_rounds_as_fit(budget_s: float, rounds: int) -> None:
    found = turns({"a": FakeWorker("a", 1.0, [])}, budget_s)
    assert len(found.times["a"].batches_s) == rounds


def test_a_worker_that_ends_is_left_out_and_the_others_go_on() -> None:
    log: list[tuple[str, tuple[str, ...]]] = []
    found = turns({"a": FakeWorker("a", 1.0, log), "b": FakeWorker("b", 1.0, log, fails_at=2)})
    assert found.failed == {"b": "killed by signal 9"}
    assert list(found.times) == ["a"]
    assert len(found.times["a"].batches_s) == LEAST_ROUNDS


def test_an_order_of_nobody_is_empty() -> None:
    assert rotated([], 3) == []


def test_groups_fit_into_memory_and_each_has_the_reference() -> None:
    weights, memory = 2_000_000_000, 18 * 2**30
    found = groups(CONTENDERS, weights, memory)
    assert len(found) > 1
    assert all(part[0].name == REFERENCE for part in found)
    assert [one for part in found for one in part[1:]] == list(CONTENDERS[1:])
    assert all(sum(memory_of(one, weights) for one in part) <= memory for part in found)
    assert groups(CONTENDERS, 1000, 2**40) == [list(CONTENDERS)]
    assert all(len(part) == 2 for part in groups(CONTENDERS, weights, 0))  # too little for two: they are tried


def test_ratios_are_those_within_rounds() -> None:
    reference = Times([2.0, 4.0, 8.0], [[0.1, 0.3], [0.2, 0.2], [0.2, 0.2]])
    found = summarized(Times([1.0, 4.0, 2.0], [[0.1, 0.1], [0.1, 0.1], [0.1, 0.1]]), reference, 64, 1e9)
    assert found["ratio"] == 2.0
    assert found["ratios"] == [1.0, 4.0]
    assert found["sentences_per_s"] == 32.0
    assert found["operations_per_s"] == 5e8
    assert found["p50_ms"] == pytest.approx(100)
    assert found["p50_ratio"] == pytest.approx(2)


def row(name: str, kind: str, ratio: float) -> dict[str, Any]:
    figures = {
        "sentences_per_s": 10 * ratio,
        "ratio": ratio,
        "ratios": [ratio, ratio],
        "p50_ms": 10 / ratio,
        "p50_ratio": ratio,
        "operations_per_s": 1e9 * ratio,
        "batches_s": [1.0],
        "min_cosine": 0.5,
        "loads": [0.1],
    }
    return {"name": name, "class": kind, "short": figures, "long": figures, "versions": {"tool": "1"}}


DATA: dict[str, Any] = {
    "like": "BERT-base",
    "size": "full",
    "revision": "abc1234",
    "processor": "a processor",
    "text": "text.tsv",
    "threads": 2,
    "batch_size": 32,
    "texts": {kind: {"sentences": 64, "tokens": 12.5} for kind in ("short", "long")},
    "prepared_s": 60,
    "measured_s": 120,
    "groups": [["all"]],
    "parameters": 110_000_000,
    "linear_weights": 85_000_000,
    "ceilings": [{"fp32": {"torch": 4e9}, "bf16": {"torch": 8e9}, "int8": {"torch": 1e10, "OpenVINO": 2e10}}] * 2,
    "rows": [
        row(REFERENCE, "fp32", 1.0),
        row("slow peer", "fp32", 1.5),
        row("korsbert onnxruntime fp32", "fp32", 2.0),
        row("fast peer", "int8", 5.0),
        row("korsbert openvino int8", "int8", 4.0),
        row("korsbert onnxruntime int8", "int8", 3.0),
    ],
    "refused": {"a peer": "ValueError: Trying to export a modernbert model"},
    "not_chosen": [],
}


def test_the_best_of_each_class_are_compared() -> None:
    targets = targets_of("klue-sroberta", DATA)
    assert [(target.name.partition(":")[0], round(target.value, 3), target.met) for target in targets] == [
        ("klue-sroberta, sentences, fp32", 1.333, True),
        ("klue-sroberta, sentences, int8", 0.8, False),
        ("klue-sroberta, long texts, fp32", 1.333, True),
        ("klue-sroberta, long texts, int8", 0.8, False),
    ]
    assert "the best peer (fast peer)" in targets[1].name


@pytest.mark.parametrize("change", [{"size": "small"}, {"not_chosen": ["fastembed fp32"]}])
def test_a_dry_run_and_a_part_keep_no_promise(change: dict[str, Any]) -> None:
    assert targets_of("klue-sroberta", {**DATA, **change}) == []
    assert targets_of("modernbert", DATA) == []


def test_a_result_says_who_is_ahead_and_what_was_refused_and_keeps_other_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = copy.deepcopy(DATA)
    other["like"] = "another model"
    publish_models(tmp_path, "modernbert", other, peers.MODELS)
    publish_models(tmp_path, "klue-sroberta", DATA, peers.MODELS)
    assert list(json.loads((tmp_path / "peers.json").read_text())["models"]) == ["klue-sroberta", "modernbert"]
    text = (tmp_path / "peers.md").read_text()
    assert text.index("## klue-sroberta") < text.index("## modernbert")
    assert "- sentences, int8: fast peer is 1.25 times korsbert openvino int8. It reaches 25% of the ceiling" in text
    assert "slow peer is" not in text
    assert "- a peer: ValueError: Trying to export a modernbert model" in text
    assert "| int8 | **fast peer** | 50.0 | 5.00x | 5.00 to 5.00 | 2.00 | 5.00x | 0.500000 | 25% |" in text
    assert (
        "| sentences | fp32 | onnxruntime fp32 | slow peer | 1.33x | 1.33x (onnxruntime fp32 and slow peer) |" in text
    )
    assert text in capsys.readouterr().out


def test_names_are_different_and_each_class_has_korsbert_and_peers() -> None:
    assert CONTENDERS[0].name == REFERENCE
    assert len({one.name for one in CONTENDERS}) == len(CONTENDERS)
    assert {(one.kind, one.ours) for one in CONTENDERS} == {(kind, ours) for kind in CLASSES for ours in (True, False)}
    assert all(one.ours == (one.program == "korsbert_engines") for one in CONTENDERS)


def test_each_environment_has_pinned_requirements_and_no_other_torch() -> None:
    used = {one.environment for one in CONTENDERS} | {step.environment for one in CONTENDERS for step in one.steps}
    used -= {OWN}
    assert {file.stem for file in REQUIREMENTS.glob("*.txt")} == used
    for name in used:
        lines = (REQUIREMENTS / f"{name}.txt").read_text().splitlines()
        packages = dict(line.split("==") for line in lines if not line.startswith("#"))
        assert packages.get("torch") == ("2.13.0" if name != "fastembed-light-embed" else None)
        assert not [package for package in packages if package.startswith("nvidia")]


def test_each_program_is_there() -> None:
    programs = {one.program for one in CONTENDERS} | {step.program for one in CONTENDERS for step in one.steps}
    assert programs == {file.stem for file in Path(peer_programs.__file__).parent.glob("*.py")} - {"__init__"}


def test_an_environment_that_cannot_be_made_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: Sequence[str], **_: object) -> subprocess.CompletedProcess[str]:
        said = "WARNING: one\nERROR: No matching distribution found for peer==9\nWARNING: a notice"
        return subprocess.CompletedProcess(command, int("pip" in command), said)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(PeerError, match="cannot be installed: ERROR: No matching distribution found for peer==9"):
        environment("fastembed-light-embed", tmp_path)
    assert not list(tmp_path.rglob("ready"))


def test_a_step_that_failed_is_not_tried_again_in_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    def start(step: Step, *_: object) -> None:
        started.append(step.variant)
        raise PeerError("ValueError: unsupported")

    monkeypatch.setattr("benchmarks.peer_contenders.start", start)
    failed: dict[Step, str] = {}
    sharing = [one for one in CONTENDERS if one.folder == "onnx"]
    for contender in sharing:
        with pytest.raises(PeerError, match="unsupported"):
            prepare(contender, lambda step: Job("", str(tmp_path / step.folder), step.variant, 1, ""), tmp_path, failed)
    assert len(sharing) > 1
    assert started == ["model"]


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("Traceback\n  line\nImportError: too new.\nTry: pip install -U\n", "ImportError: too new."),
        ("a.b.SomeError: first\nValueError: last", "ValueError: last"),
        ("only this\n", "only this"),
        ("", "it ended without a word"),
    ],
)
def test_the_last_error_is_told(said: str, error: str) -> None:
    assert last_error(said) == error


def test_a_process_times_batches_and_single_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[list[str], int]] = []

    def encode(texts: list[str], batch_size: int) -> list[list[float]]:
        asked.append((texts, batch_size))
        return [[float(len(text)), 1.0] for text in texts]

    module = ModuleType("benchmarks.peer_programs.fake")
    module.load = lambda _: encode  # type: ignore[attr-defined]
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
    assert list(answers[0][0]) == ["numpy"]
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


def test_files_of_korsbert_are_of_one_revision_and_not_of_other_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Namespace(size="small", threads=1)
    ours, theirs = CONTENDERS[-1], CONTENDERS[1]
    for revision, kept in (("abc1234", True), ("abc1234-dirty", False)):
        monkeypatch.setattr(peers, "revision", lambda revision=revision: revision)
        built = Path(peers._jobs("klue-sroberta", tmp_path, options, tmp_path)(ours).folder)
        built.mkdir(parents=True)
        job_of = peers._jobs("klue-sroberta", tmp_path, options, tmp_path)
        assert built.is_dir() is kept
        monkeypatch.setattr(peers, "revision", lambda: "def5678")
        assert Path(job_of(ours).folder) == built
        assert Path(job_of(theirs).folder).name == "onnx"
        assert len(job_of(theirs).sentences) == peers.SMALL_CALIBRATION


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


@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta"])
def test_operations_are_those_of_the_floor(tmp_path: Path, architecture: str) -> None:
    folder = save_checkpoint(tmp_path, architecture, modules=("normalize",))
    config = load_checkpoint(find_recipe(str(folder))).model[0].auto_model.config
    size = size_of(config, layer_weights=1)
    shape = shape_of(folder)
    assert [shape.operations(tokens) for tokens in (1, 17)] == [operations(size, 1, tokens) for tokens in (1, 17)]
    assert peer_programs.pooling_of(str(folder)) == ("mean", True)
    assert peer_programs.max_seq_length(str(folder)) > 0


def test_modules_that_the_programs_do_not_have_are_refused(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, "bert", modules=("dense",))
    with pytest.raises(ValueError, match="only mean or cls pooling is written here"):
        peer_programs.pooling_of(str(folder))


def test_long_texts_are_sentences_in_a_row_up_to_the_limit(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, "bert", modules=("normalize",))
    sentences = [f"문장 {number}입니다." for number in range(200)]
    texts = peers._texts(folder, sentences, 40, 3)
    assert len(texts["short"].alone) == 3
    assert max(texts["long"].tokens) <= 40
    assert np.mean(texts["long"].tokens) > 2 * np.mean(texts["short"].tokens)
    assert " ".join(texts["long"].all).split() == " ".join(sentences).split()
    texts["short"].shorten(1)
    assert len(texts["short"].block) == len(texts["short"].tokens) == peers.BATCH


def test_rates_are_measured_in_every_class() -> None:
    rates = matrix_rates(1, (16, 64, 64))
    assert set(rates) == set(peer_report._RATE_OF.values())
    assert all(rate > 1e3 for libraries in rates.values() for rate in libraries.values())
    assert set(rates["int8"]) > {"ONNX Runtime MatMulInteger", "ONNX Runtime QLinearMatMul", "OpenVINO"}
