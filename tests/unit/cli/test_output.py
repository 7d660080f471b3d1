"""Tables hold text of strangers' manifests, and a terminal would obey its control characters."""

from __future__ import annotations

import pytest

from exporter.cli.columns import column_widths
from exporter.cli.output import print_table, table_width


def test_a_table_escapes_control_characters_and_keeps_lines(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("", "bun\x1bdle"), [("decision", "fine\x1b[3A\x1b[2K\nsecond line")])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "bun\\x1bdle" in out
    lines = [line.rstrip() for line in out.splitlines()]
    assert any(line.endswith("fine\\x1b[3A\\x1b[2K") for line in lines)
    assert any(line.endswith("second line") for line in lines)


CELLS = [
    ("encode the probes with PyTorch", "38.4 s", "729 probes of 2 to 256 tokens"),
    ("check the files", "2.2 s", "tokenizer: 729 texts and 12,800 vocabulary entries give the same ids; graph: 1 cast"),
    ("publish", "0.1 s", "5.4 MB in /home/somebody/artifacts/demo/fp16-onnxruntime/" + "0123456789abcdef" * 4),
]
WORDS = {word for row in CELLS for cell in row for word in cell.split() if len(word) < 22}


@pytest.mark.parametrize("columns", [60, 80, 120, 400])
def test_words_are_not_broken_and_lines_are_as_long_as_columns_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    print_table(("stage", "time", "result"), CELLS)
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) <= columns
    assert set(" ".join(lines).split()) >= WORDS
    folded = "".join("".join(line[30:] for line in lines).split())
    assert "0123456789abcdef" * 4 in folded


def test_a_pipe_without_columns_has_160(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert table_width() == 160
    monkeypatch.setenv("COLUMNS", "no number")
    assert table_width() == 160


@pytest.mark.parametrize(
    ("columns", "room", "whole", "widths"),
    [
        (["aa bb", "cc"], 9, 0, [5, 2]),
        (["aa bb", "cc"], 6, 0, [4, 2]),
        (["aa bb", "cc"], 4, 0, [2, 2]),
        (["aa bb", "cc"], 3, 0, None),
        (["aa bb", "ccc ddd"], 8, 1, [5, 3]),
        (["x" * 40, "cc"], 12, 0, [10, 2]),  # longer than a word: folded
        (["가나 다라", "cc"], 6, 0, [4, 2]),  # a Hangul syllable is two columns wide
    ],
)
def test_the_widest_column_is_narrowed_down_to_its_longest_word(
    columns: list[str], room: int, whole: int, widths: list[int] | None
) -> None:
    assert column_widths([[cell] for cell in columns], room, whole) == widths


def test_rows_become_lines_where_the_words_do_not_fit_beside_each_other(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    header = ("target", "builds", "why not", "what to do")
    print_table(
        header,
        [("fp16 on onnxruntime", "no", "onnxruntime-gpu is missing", "install onnxruntime-gpu")],
        whole_columns=1,
    )
    assert capsys.readouterr().out.splitlines() == [
        "fp16 on onnxruntime",
        "  builds: no",
        "  why not: onnxruntime-gpu is missing",
        "  what to do: install onnxruntime-gpu",
    ]
