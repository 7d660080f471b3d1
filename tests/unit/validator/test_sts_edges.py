"""Files of sentence pairs as they come from spreadsheets and other systems, and correlations at their edges."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from exporter.errors import InputError
from exporter.validator.sts import StsSet, correlate, read_sts

BOM = "\ufeff"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "score\tsentence1\tsentence2\n1\t물\t불\n2\t산\t강\n3\t해\t달\n"),
        ("a.TSV", "sentence2\tscore\tsentence1\r\n불\t1\t물\r\n강\t2\t산\r\n\r\n달\t3\t해\r\n"),
        ("a.csv", "물,불,1\n\n산,강,2\n해,달,3\n"),
        (
            "a.json",
            json.dumps(
                [
                    {"sentence1": first, "sentence2": second, "labels": {"real-label": score}}
                    for first, second, score in (("물", "불", 1), ("산", "강", 2), ("해", "달", 3))
                ]
            ),
        ),
    ],
)
@pytest.mark.parametrize("mark", ["", BOM], ids=["plain", "with a byte order mark"])
def test_pairs_and_scores_are_read(tmp_path: Path, name: str, content: str, mark: str) -> None:
    (tmp_path / name).write_bytes((mark + content).encode())
    sts = read_sts(tmp_path / name)
    assert sts.name == name
    assert (sts.first, sts.second) == (("물", "산", "해"), ("불", "강", "달"))
    np.testing.assert_array_equal(sts.scores, [1, 2, 3])
    assert sts.scores.dtype == np.float64


def test_quotes_are_text_in_tsv_and_hold_commas_and_lines_in_csv(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('score\tsentence1\tsentence2\n1\t"물\t불"\n2\t산\t강\n3\t해\t달\n')
    assert read_sts(tmp_path / "a.tsv").first[0] == '"물'
    (tmp_path / "a.csv").write_bytes('"물, 불\r\n그리고","""말""",1\n산,강,2\n해,달,3\n'.encode())
    sts = read_sts(tmp_path / "a.csv")
    assert (sts.first[0], sts.second[0]) == ("물, 불\r\n그리고", '"말"')


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.tsv", "", r"no header with score, sentence1 and sentence2 \(it has \[\]\)"),
        ("a.tsv", "score\tsentence1\n", r"it has \['score', 'sentence1'\]"),
        ("a.tsv", "score\tsentence1\tsentence2\n1\ta\tb\n\n2\tc\n", r"row 4: .* found \['c', '2'\]"),
        ("a.csv", "a,b,1\nc,d,viel\n", r"row 2: expected two sentences and a score, found \['c', 'd', 'viel'\]"),
        ("a.csv", "a,b,1\nc,d,2,3\n", "row 2: expected two sentences"),
        ("a.csv", "a,b,inf\nc,d,2\ne,f,1\n", "row 1: the score is inf"),
        ("a.csv", "a,b,1\nc,d,2\n", "2 pairs, and a correlation needs 3 or more"),
        ("a.json", '[{"sentence1": "a", "sentence2": "b", "labels": {"real-label": null}}]', "row 1"),
        ("a.json", '[{"sentence1": "a", "sentence2": "b", "labels": {}}]', "entry 1: no sentence1, sentence2"),
        ("a.json", '[{"sentence1": "a", "sentence2": "b", "labels": {"real-label": 1}}, 3]', "entry 2"),
        ("a.json", '\n{"a": 1,}', "not JSON: line 2: "),
        ("a.json", '"text"', "expected a list of objects, found str"),
        ("a.xlsx", "", "unknown kind of STS file"),
        ("a.csv", f'"{"가" * 140_000}\n', "cannot be read as rows: field larger than field limit"),
    ],
)
def test_a_file_that_is_not_one_is_refused_with_the_place(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=said) as failure:
        read_sts(tmp_path / name)
    assert failure.value.message.startswith(str(tmp_path / name))


def test_the_kinds_of_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError) as failure:
        read_sts(tmp_path / "a.xlsx")
    assert failure.value.next_step == "use one of .tsv, .json, .csv"


def test_an_unclosed_quote_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f'"{"가" * 140_000}\n', encoding="utf-8")
    with pytest.raises(InputError) as failure:
        read_sts(tmp_path / "a.csv")
    assert failure.value.next_step == "close every quote, and double quotes within a field"


def test_the_byte_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"ab,\xff,1\n")
    with pytest.raises(InputError, match="not UTF-8 at byte 3"):
        read_sts(tmp_path / "a.csv")


def test_a_folder_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(InputError, match=r"a\.json: cannot be read: Is a directory"):
        read_sts(tmp_path / "a.json")


def test_both_correlations_of_both_sides_in_points() -> None:
    rng = np.random.default_rng(3)
    sts = StsSet("set", ("",) * 20, ("",) * 20, rng.uniform(0, 5, 20))
    vectors = [rng.standard_normal((20, 8)).astype(np.float32) for _ in range(4)]
    score = correlate(sts, (vectors[0], vectors[1]), (vectors[2], vectors[3]))
    found = (score.reference_spearman, score.reference_pearson, score.candidate_spearman, score.candidate_pearson)
    expected = []
    for first, second in (vectors[:2], vectors[2:]):
        a, b = first.astype(np.float64), second.astype(np.float64)
        cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        expected += [100 * spearmanr(cosine, sts.scores).statistic, 100 * pearsonr(cosine, sts.scores).statistic]
    assert found == pytest.approx(tuple(expected))
    assert (score.name, score.pairs) == ("set", 20)
    assert score.spearman_drop == pytest.approx(expected[0] - expected[2])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_candidate_with_a_row_that_is_no_number_has_no_correlation(value: float) -> None:
    """A cosine of zero for that row would hide it."""
    sts = StsSet("set", ("",) * 3, ("",) * 3, np.array([1.0, 2.0, 3.0]))
    first, second = np.tile([1.0, 0.0], (3, 1)), np.array([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    broken = second.copy()
    broken[1, 0] = value
    score = correlate(sts, (first, second), (first, broken))
    assert score.reference_spearman == pytest.approx(100)
    assert np.isnan([score.candidate_spearman, score.candidate_pearson, score.spearman_drop]).all()


def test_cosines_that_are_all_equal_have_no_correlation() -> None:
    sts = StsSet("set", ("",) * 3, ("",) * 3, np.array([1.0, 2.0, 3.0]))
    first = np.tile([1.0, 0.0], (3, 1))
    score = correlate(sts, (first, first), (first, first))
    assert np.isnan([score.reference_spearman, score.reference_pearson]).all()
