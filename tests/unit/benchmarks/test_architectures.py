"""Rows of the table of architectures: those of earlier runs are kept, and what was refused is not compared."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import architectures

ROW = {
    "model": "xlm-roberta-large",
    "weights": "seeded",
    "parameters": 560_000_000,
    "precision": "fp32",
    "backend": "onnxruntime",
    "exit_code": 0,
    "wall_s": 60.0,
    "load": [0.1, 2.0],
    "peak_bytes": 6 * 2**30,
    "file_bytes": 10**9,
    "revision": "abc1234",
    "processor": "a processor",
    "min_cosine": 0.999,
}


def exports(name: str, _: Path, targets: Sequence[str]) -> Iterator[dict[str, Any]]:
    for target in targets:
        precision, backend = target.split("-")
        yield {**ROW, "model": name, "precision": precision, "backend": backend, "revision": "new"}


def test_a_run_replaces_its_rows_and_keeps_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [ROW, {**ROW, "precision": "fp16"}, {**ROW, "model": "a model of the past"}]
    (tmp_path / "architectures.json").write_text(json.dumps({"runs": before}))
    monkeypatch.setattr(architectures, "_checkpoint", lambda *_: tmp_path)
    monkeypatch.setattr(architectures, "_exports", exports)
    arguments = ["", "--model", "xlm-roberta-large", "--target", "fp16-onnxruntime", "--results", str(tmp_path)]
    monkeypatch.setattr("sys.argv", arguments)
    architectures.main()
    runs = json.loads((tmp_path / "architectures.json").read_text())["runs"]
    assert [(run["precision"], run["revision"]) for run in runs] == [("fp32", "abc1234"), ("fp16", "new")]
    text = (tmp_path / "architectures.md").read_text()
    assert "Not measured: multilingual-e5-small; all-mpnet-base-v2;" in text
    assert "xlm-roberta-large as int8-onnxruntime, int8_dynamic-onnxruntime, fp32-openvino," in text
    assert "| xlm-roberta-large fp32 on onnxruntime: peak memory, GiB | 6 | <= 6.715 | met |" in text


def test_what_was_refused_keeps_no_promise() -> None:
    assert len(architectures._targets(ROW)) == 1
    assert architectures._targets({**ROW, "exit_code": 1}) == []
    (minutes,) = architectures._targets({**ROW, "model": architectures.LONG, "wall_s": 1801.0})
    assert not minutes.met
