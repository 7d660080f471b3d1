"""The GPU benchmark, dry: every step of it runs on the CPU, and says that no figure is of a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.gpu import BATCH_SIZES, main

DRY = ["gpu", "--device", "cpu", "--size", "small", "--rounds", "1", "--repeats", "1"]
FEW = ["--sentences", "12", "--probes", "12", "--model", "ko-sbert-multitask"]


@pytest.mark.slow
def test_a_dry_run_measures_what_it_can_and_names_what_it_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*DRY, *FEW, "--results", str(tmp_path)]
    for part in ("transformers fp32$", "transformers fp16, Flash", "korsbert onnx", "korsbert tensorrt fp16"):
        command += ["--subject", part]
    monkeypatch.setattr("sys.argv", command)
    main()
    data = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    model = data["models"]["ko-sbert-multitask"]
    assert model["complete"]
    status = {label: facts["status"] for label, facts in model["subjects"].items()}
    assert not [text for text in status.values() if text.startswith("failed")], status
    assert status["sentence-transformers fp32"] == status["korsbert onnxruntime fp16"] == "measured"
    assert status["korsbert onnxruntime int8"] == "measured"
    assert status["korsbert tensorrt fp16"].startswith("unavailable: tensorrt is not installed")
    assert model["subjects"]["korsbert onnxruntime fp16"]["gate"] == "passed"
    assert model["subjects"]["korsbert onnxruntime fp16"]["min_cosine"] > 0.9999
    assert [(m["batch_size"], m["from"]) for m in model["sentences_measured"]] == [
        (size, origin) for size in BATCH_SIZES for origin in ("strings", "token ids")
    ]
    assert {(cell["rows"], cell["tokens"]) for cell in model["grid"]} == {
        (rows, tokens) for rows in (1, 8, 32, 128) for tokens in (32, 128)
    }
    assert all(figures["of_floor"] > 0 for cell in model["grid"] for figures in cell["subjects"].values())
    assert data["gpu"] is None
    assert (tmp_path / "gpu.md").read_text(encoding="utf-8").startswith("# A dry run on the CPU: no figure of a GPU")

    capsys.readouterr()
    monkeypatch.setattr("sys.argv", [*command, "--resume"])
    main()
    assert "ko-sbert-multitask: measured already" in capsys.readouterr().out
    assert json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8")) == data
