from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from exporter.errors import InputError
from exporter.validator.sts import correlate, read_sts

PAIRS = [("기차가 섰다.", '그는 "곧"이라고 했다.', 0.5), ("비가 온다, 많이.", "눈이 온다.", 3.2), ("밥", "국", 4.75)]


def write(folder: Path, kind: str) -> Path:
    path = folder / f"set.{kind}"
    if kind == "tsv":
        rows = ["genre\tfilename\tyear\tid\tscore\tsentence1\tsentence2"]
        rows += [f"g\tf\t2012\t{n}\t{score}\t{a}\t{b}" for n, (a, b, score) in enumerate(PAIRS)]
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    elif kind == "json":
        entries = [{"sentence1": a, "sentence2": b, "labels": {"label": 1, "real-label": s}} for a, b, s in PAIRS]
        path.write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    else:
        import csv

        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(PAIRS)
    return path


@pytest.mark.parametrize("kind", ["tsv", "json", "csv"])
def test_three_formats_read_alike(tmp_path: Path, kind: str) -> None:
    sts = read_sts(write(tmp_path, kind))
    assert list(zip(sts.first, sts.second, sts.scores.tolist(), strict=True)) == PAIRS


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.txt", "x", "unknown kind of STS file"),
        ("a.tsv", "s1\ts2\n", "no header with score"),
        ("a.tsv", "score\tsentence1\tsentence2\nhigh\ta\tb\n", "row 2"),
        ("a.tsv", "score\tsentence1\tsentence2\n1.0\ta\n", "row 2"),
        ("a.csv", "a,b,nan\nc,d,1\ne,f,2\n", "row 1: the score is nan"),
        ("a.csv", "a,b\n", "row 1"),
        ("a.csv", "a,b,1\n", "1 pairs"),
        ("a.csv", "a,b,1\nc,d,1\ne,f,1\n", "every pair has the score 1"),
        ("a.json", "{}", "expected a list"),
        ("a.json", "[1", "not JSON: line 1"),
        ("a.json", '[{"sentence1": "a"}]', "entry 1"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, content: str, complaint: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=complaint) as error:
        read_sts(path)
    assert str(path) in str(error.value)


def test_a_missing_file_and_a_foreign_encoding(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_sts(tmp_path / "none.tsv")
    latin = tmp_path / "a.csv"
    latin.write_bytes("a,b,1\n한글,x,2\n".encode("cp949"))
    with pytest.raises(InputError, match="not UTF-8"):
        read_sts(latin)


def test_correlations_are_of_cosine_and_score(tmp_path: Path) -> None:
    sts = read_sts(write(tmp_path, "csv"))
    first = np.tile([1.0, 0.0], (3, 1))
    rising = np.array([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    score = correlate(sts, (first, rising), (first, rising[::-1]))
    assert score.reference_spearman == pytest.approx(100)
    assert score.candidate_spearman == pytest.approx(-100)
    assert score.spearman_drop == pytest.approx(200)
    assert np.isnan(correlate(sts, (first, rising), (first, first)).candidate_spearman)  # no order at all
