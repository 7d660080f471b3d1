"""Peers: turns, groups, environments and files, without any peer."""

from __future__ import annotations

import subprocess
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import peer_contenders, peer_group, peers
from benchmarks.operations import Shape
from benchmarks.peer import PeerError, last_error
from benchmarks.peer_contenders import (
    CLASSES,
    CONTENDERS,
    OWN,
    REFERENCE,
    REQUIREMENTS,
    Step,
    environment,
    files_folder,
    is_korsbert,
    prepare,
)
from benchmarks.peer_programs import Job
from benchmarks.peer_texts import BATCH, SHORT, Text, texts_of
from benchmarks.peer_turns import LEAST_ROUNDS, MOST_ROUNDS, groups, memory_of, rotated, take_turns
from tests.support.checkpoints import save_checkpoint

TEXTS = ("first", "second")


class FakeWorker:
    """Answers with the given seconds, and notes when it was asked for what."""

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


def test_names_are_different_and_each_class_has_korsbert_and_peers() -> None:
    assert CONTENDERS[0].name == REFERENCE
    assert len({one.name for one in CONTENDERS}) == len(CONTENDERS)
    kinds = {(one.kind, is_korsbert(one.name)) for one in CONTENDERS}
    assert kinds == {(kind, ours) for kind in CLASSES for ours in (True, False)}
    assert all(is_korsbert(one.name) == (one.program == "korsbert_engines") for one in CONTENDERS)


def test_each_environment_has_pinned_requirements_and_no_other_torch() -> None:
    used = {one.environment for one in CONTENDERS} | {step.environment for one in CONTENDERS for step in one.steps}
    used -= {OWN}
    assert {file.stem for file in REQUIREMENTS.glob("*.txt")} == used
    for name in used:
        lines = (REQUIREMENTS / f"{name}.txt").read_text().splitlines()
        packages = dict(line.split("==") for line in lines if not line.startswith("#"))
        assert packages.get("torch") == ("2.13.0" if name != "fastembed-light-embed" else None)
        assert not [package for package in packages if package.startswith("nvidia")]


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
def test_the_last_error_is_found(said: str, error: str) -> None:
    assert last_error(said) == error


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
        assert Path(job_of(theirs).folder).name.startswith("onnx-")
        assert len(job_of(theirs).sentences) == peers.SMALL_CALIBRATION


def test_long_texts_are_sentences_in_a_row_up_to_the_limit(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, "bert", modules=("normalize",))
    sentences = [f"문장 {number}입니다." for number in range(200)]
    texts = texts_of(folder, sentences, 40, 3)
    assert len(texts["short"].alone) == 3
    assert max(texts["long"].tokens) <= 40
    assert np.mean(texts["long"].tokens) > 2 * np.mean(texts["short"].tokens)
    assert " ".join(texts["long"].all).split() == " ".join(sentences).split()
    texts["short"].shorten(1)
    assert len(texts["short"].block) == len(texts["short"].tokens) == BATCH


class FailingPeer:
    """A worker that encodes until a certain step."""

    def __init__(self, fails_in: str = "") -> None:
        self.fails_in = fails_in

    def seconds(self, texts: list[str], _: int) -> Any:
        return self._answer("fitting" if texts[0] == "all" else "rounds", 1.0)

    def seconds_alone(self, texts: list[str]) -> Any:
        return self._answer("alone", [1.0 for _ in texts])

    def vectors(self, texts: list[str], _: int) -> Any:
        return self._answer("vectors", np.ones((len(texts), 2), np.float32))

    def _answer(self, step: str, answer: Any) -> Any:
        if step == self.fails_in:
            raise PeerError("killed by signal 9")
        return answer


def measured(monkeypatch: pytest.MonkeyPatch, workers: dict[str, Any], refused: dict[str, str]) -> dict[str, Any]:
    monkeypatch.setattr("time.sleep", lambda _: None)
    texts = {SHORT: Text(["all"] * 40, ["a"], [3] * 40, ["all"] * 40)}
    monkeypatch.setattr(Text, "shorten", lambda text, _: text.__init__(text.all, ["a"], [3, 3], ["b", "c"], True))
    return peer_group.measure_group(workers, texts, Shape(1, 2, 8), refused, block_s=1, budget_s=0)


@pytest.mark.parametrize("step", ["fitting", "vectors", "rounds", "alone"])
def test_without_the_reference_a_run_ends_with_a_sentence(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    with pytest.raises(SystemExit, match=f"^{REFERENCE} cannot be measured: killed by signal 9$"):
        measured(monkeypatch, {REFERENCE: FailingPeer(step), "peer": FailingPeer()}, {})


@pytest.mark.parametrize("step", ["vectors", "rounds", "alone"])
def test_a_peer_that_fails_is_refused_and_the_others_are_measured(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    refused: dict[str, str] = {}
    workers = {REFERENCE: FailingPeer(), "bad": FailingPeer(step), "good": FailingPeer()}
    rows = measured(monkeypatch, workers, refused)
    assert list(rows) == list(workers) == [REFERENCE, "good"]
    assert refused == {"bad": "killed by signal 9"}
    assert rows["good"][SHORT]["operations_per_s"] == 2 * Shape(1, 2, 8).operations(3)
    assert rows["good"][SHORT]["min_cosine"] == pytest.approx(1)


def test_a_reference_that_cannot_load_ends_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def start(*_: object) -> Any:
        raise PeerError("OSError: no file")

    monkeypatch.setattr(peer_group, "start", start)
    job = Job("", "", "", 1, "")
    refused: dict[str, str] = {}
    with ExitStack() as stack:
        assert peer_group.start_workers(CONTENDERS[1:2], lambda _: job, tmp_path, refused, stack) == ({}, {})
        with pytest.raises(SystemExit, match=f"^{REFERENCE} cannot be measured: OSError: no file$"):
            peer_group.start_workers(CONTENDERS, lambda _: job, tmp_path, refused, stack)
    assert refused == dict.fromkeys((CONTENDERS[1].name, REFERENCE), "OSError: no file")


def test_files_depend_on_requirements_revision_and_calibration_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_contenders, "REQUIREMENTS", tmp_path)
    environments = {step.environment for one in CONTENDERS for step in one.steps} - {OWN}
    for name in environments:
        (tmp_path / f"{name}.txt").write_text("peer==1")
    fastembed = next(one for one in CONTENDERS if one.name == "fastembed qint8")
    korsbert = next(one for one in CONTENDERS if one.name == "korsbert openvino int8")
    peer, ours = files_folder(fastembed, b"text", "abc"), files_folder(korsbert, b"text", "abc")
    assert {files_folder(step, b"text", "other") for step in fastembed.steps} == {peer}  # it loads what they write
    assert peer != files_folder(fastembed, b"another", "abc")
    assert len({ours, files_folder(korsbert, b"another", "abc"), files_folder(korsbert, b"text", "def")}) == 3
    assert files_folder(CONTENDERS[0], b"text", "abc") == "."
    (tmp_path / "sentence-transformers-onnx.txt").write_text("peer==2")
    assert files_folder(fastembed, b"text", "abc") != peer


def test_a_part_does_not_replace_the_committed_tables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["peers", "--only", "fastembed fp32"])
    with pytest.raises(SystemExit) as ended:
        peers.main()
    assert ended.value.code == 2
    assert "--only would replace whole tables by a part of them; add --results" in capsys.readouterr().err
