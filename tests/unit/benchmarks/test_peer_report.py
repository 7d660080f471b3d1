"""Tables and promises of the comparison with peers: figures, who is ahead, and by how much."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import peer_report, peers
from benchmarks.peer_contenders import (
    REFERENCE,
)
from benchmarks.peer_report import advantage, publish_models, summarized, targets_of
from benchmarks.peer_texts import LONG, SHORT
from benchmarks.peer_turns import Times


def test_ratios_are_those_within_rounds() -> None:
    reference = Times([2.0, 4.0, 8.0], [[0.1, 0.3], [0.2, 0.2], [0.2, 0.2]])
    found = summarized(Times([1.0, 4.0, 2.0], [[0.1, 0.1], [0.1, 0.1], [0.1, 0.1]]), reference, 64, 1e9)
    assert found["ratio"] == 2.0
    assert found["ratios"] == [1.0, 4.0]
    assert found["sentences_per_s"] == 32.0
    assert found["operations_per_s"] == 5e8
    assert found["p50_ms"] == pytest.approx(100)
    assert found["p50_ratio"] == pytest.approx(2)
    assert found["batches_s"] == [1.0, 4.0, 2.0]
    assert found["alone_s"] == pytest.approx([0.1, 0.1, 0.1])


def row(name: str, kind: str, ratio: float, group: int = 0, **facts: Any) -> dict[str, Any]:
    figures = {
        "sentences_per_s": 10 * ratio,
        "ratio": ratio,
        "ratios": [ratio, ratio],
        "p50_ms": 10 / ratio,
        "p50_ratio": ratio,
        "operations_per_s": 1e9 * ratio,
        "batches_s": [1 / ratio],
        "alone_s": [0.01 / ratio],
        "min_cosine": 0.5,
        "loads": [0.1],
    }
    texts = {SHORT: figures, LONG: dict(figures)}
    return {"name": name, "class": kind, **texts, "versions": {"tool": "1"}, "facts": facts, "group": group}


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
        row("korsbert openvino int8", "int8", 4.0, passed=True, share=0.125, sentences=64),
        row("korsbert onnxruntime int8", "int8", 3.0, passed=True, share=0.0, sentences=64),
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


def test_int8_that_missed_the_gate_keeps_no_promise() -> None:
    data = copy.deepcopy(DATA)
    data["rows"][4]["facts"]["passed"] = False
    targets = targets_of("klue-sroberta", data)
    assert [round(target.value, 3) for target in targets] == [1.333, 0.6, 1.333, 0.6]  # of the other engine
    data["rows"][5]["facts"]["passed"] = False
    assert [round(target.value, 3) for target in targets_of("klue-sroberta", data)] == [1.333, 1.333]


def test_what_the_search_for_int8_found_is_stated() -> None:
    data = copy.deepcopy(DATA)
    data["rows"][5]["facts"]["passed"] = False
    passed, missed = "".join(peer_report._searches(data)).splitlines()[-2:]
    assert passed == (
        "- korsbert openvino int8: the assignment passed the gate on held-out text; "
        "12.5% of the work of all MatMuls is not in int8; 64 calibration sentences."
    )
    assert missed.startswith("- korsbert onnxruntime int8: the assignment DID NOT PASS the gate on held-out text; 0.0%")
    data["rows"] = data["rows"][:4]
    assert list(peer_report._searches(data)) == []


def test_rows_of_a_group_are_compared_within_rounds_and_others_by_their_ratios() -> None:
    ours, peer = row("korsbert onnxruntime fp32", "fp32", 2.0), row("peer", "fp32", 1.0)
    for times in ("batches_s", "alone_s"):
        ours[SHORT][times], peer[SHORT][times] = [1.0, 2.0, 3.0], [3.0, 2.0, 3.3]
    assert np.median(peer[SHORT]["batches_s"]) / np.median(ours[SHORT]["batches_s"]) == 1.5
    assert advantage(ours, peer, SHORT, "ratio") == pytest.approx(1.1)
    assert advantage(peer, ours, SHORT, "p50_ratio") == pytest.approx(1 / 1.1)
    assert advantage({**ours, "group": 1}, peer, SHORT, "ratio") == 2.0


def test_the_promise_is_held_against_the_peer_that_is_nearest_within_rounds() -> None:
    data = copy.deepcopy(DATA)
    rows = {one["name"]: one for one in data["rows"]}
    rows[REFERENCE][SHORT]["batches_s"] = [0.55]  # by its ratio it is behind the slow peer
    target = targets_of("klue-sroberta", data)[0]
    assert f"the best peer ({REFERENCE})" in target.name
    assert target.value == pytest.approx(1.1)


def test_a_peer_may_be_ahead_in_latency_only() -> None:
    data = copy.deepcopy(DATA)
    data["rows"] = data["rows"][:3]
    assert "".join(peer_report._ahead(data)) == (
        "No peer has a higher throughput than korsbert's best engine of its class."
        "No peer has a lower median latency (p50) than korsbert's best engine of its class."
    )
    slow = data["rows"][1][SHORT]
    slow |= {"alone_s": [0.004], "p50_ms": 4.0}
    batches, alone = peer_report._ahead(data)
    assert batches.startswith("No peer has a higher throughput")
    assert alone.startswith(
        "Peers with a lower median latency (p50):\n\n- sentences, fp32: slow peer is 1.25 times as fast"
    )
    assert "long texts" not in alone


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
    ahead = (
        "- sentences, int8: fast peer is 1.25 times as fast as korsbert openvino int8. It reaches 25% of the ceiling"
    )
    assert text.count(ahead) == 4  # of two models, in batches and alone
    assert "korsbert's int8:\n\n- korsbert openvino int8: the assignment passed" in text
    assert "slow peer is" not in text
    assert "- a peer: ValueError: Trying to export a modernbert model" in text
    assert "| int8 | **fast peer** | 50.0 | 5.00x | 5.00 to 5.00 | 2.00 | 5.00x | 0.500000 | 25% |" in text
    assert (
        "| sentences | fp32 | onnxruntime fp32 | slow peer | 1.33x | 1.33x (onnxruntime fp32 and slow peer) |" in text
    )
    assert text in capsys.readouterr().out
