"""What a bundle says of its int8: what became of each candidate and why. JSON, plot, table and page agree."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from exporter.precisions.int8.judge import Loss
from exporter.precisions.int8.report import Tried, candidates_of, candidates_table, plot_of
from exporter.precisions.int8.search import Assignment
from exporter.recipe import Gate
from exporter.report.int8 import Int8, note_of
from exporter.report.int8 import plot_of as plot_of_page

GATE = Gate(min_cosine=0.97, mean_cosine=0.99)
EXACT = Loss(1.0, 1.0, 1.0, 1.0, 0.0, 0.0)


def assignment(share: float, min_cosine: float, mean_cosine: float = 1.0) -> Assignment:
    loss = replace(EXACT, min_cosine=min_cosine, mean_cosine=mean_cosine)
    return Assignment(frozenset({f"to {share}"}), share, share + (1 - share) / 3, loss)


FASTEST, FASTER, CHOSEN, SLOWER = (
    assignment(0.0, 0.995, mean_cosine=0.985),  # the emulator refuses it, by its mean
    assignment(0.1, 0.98),
    assignment(0.2, 0.99),
    assignment(0.4, 0.999),
)
FRONTIER = (FASTEST, FASTER, CHOSEN, SLOWER)
TRIED = (
    Tried(FASTER, replace(EXACT, min_cosine=0.9715)),  # its engine is worse than the emulator says
    Tried(CHOSEN, replace(EXACT, min_cosine=0.988)),
)


def said(*tried: Tried) -> dict[str, Any]:
    return {
        "scheme": {"fallback_dtype": "fp32"},
        "text": "120 held-out sentences (calibration: the sentences that ship)",
        "gate": {"min_cosine": 0.97, "mean_cosine": 0.99, "margin": 0.8},
        "candidates": candidates_of(FRONTIER, tried or TRIED, GATE),
    }


def test_each_candidate_says_what_became_of_it_and_why() -> None:
    assert [(one["label"], one["result"], one["reason"]) for one in said()["candidates"]] == [
        ("A", "rejected", "emulated, it uses 150% of what the gate allows (mean cosine); 80% is the most"),
        ("B", "rejected", "its engine uses 95% of what the gate allows (min cosine); 80% is the most"),
        ("C", "chosen", "the fastest that passes: its engine uses 40% of what the gate allows (min cosine)"),
        ("D", "not needed", "slower than the chosen one"),
    ]


def test_where_none_passes_with_the_margin_the_least_loss_is_chosen() -> None:
    close, closest = replace(EXACT, min_cosine=0.9712), replace(EXACT, min_cosine=0.973)
    found = said(Tried(FASTER, close), Tried(SLOWER, close), Tried(CHOSEN, closest))["candidates"]
    assert found[2]["result"] == "chosen"
    assert found[2]["reason"] == (
        "none stays below 80%, and this one loses least: its engine uses 90% of what the gate allows (min cosine)"
    )
    assert found[3]["reason"] == "its engine uses 96% of what the gate allows (min cosine); 80% is the most"


def test_a_faster_one_that_passes_was_passed_over() -> None:
    found = candidates_of(FRONTIER, [Tried(CHOSEN, EXACT)], GATE)
    assert found[1]["result"] == "not tried"
    assert found[1]["reason"].startswith("the search passed it over; emulated, it uses 67% of what")


def test_losses_are_those_of_the_emulator_and_of_the_engine() -> None:
    first, second, *_ = said()["candidates"]
    assert first["engine"] is None
    assert (first["emulated"]["mean_cosine"], second["engine"]["min_cosine"]) == (0.985, 0.9715)
    assert second["emulated"]["min_cosine"] == 0.98
    assert second["engine"]["budget_used"] == pytest.approx(0.95)


def test_plot_card_and_page_say_the_same() -> None:
    content = said()
    read = Int8.model_validate(content)
    card, page = candidates_table(content), plot_of_page(read)
    plot = "".join(ET.fromstring(plot_of(content)).itertext())
    assert content["text"] in card
    assert content["text"] in page.note
    assert content["text"] in plot
    rows = [[cell.strip(" *") for cell in line.split("|")[1:-1]] for line in card.splitlines() if line.startswith("|")]
    for one, row, told in zip(content["candidates"], rows[2:], page.rows, strict=True):
        assert (row[0], row[5], row[6]) == (told[0], told[1], told[-1]) == (one["label"], one["result"], one["reason"])
        assert row[1] == told[2] == f"{one['share_excluded']:.1%}"
    for one in content["candidates"][:2]:  # what is faster than the chosen one
        wanted = f"{one['label']} is faster and was refused: {one['reason']}."
        assert wanted in note_of(read)
        assert re.sub(r"\s", "", wanted) in re.sub(r"\s", "", plot)


def test_the_plot_can_be_read_whatever_the_file_of_calibration_text_is_called() -> None:
    made = plot_of({**said(), "text": "<b> & \x1b[31m\udcff.txt"})
    assert "<b> & \\x1b[31m\\udcff.txt" in "".join(ET.fromstring(made).itertext())


def test_the_plot_has_the_label_of_each_candidate_and_equal_data_give_equal_bytes() -> None:
    made = plot_of(said())
    assert made == plot_of(said())
    root = ET.fromstring(made)
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"A", "B", "C", "D", "0.01", "chosen"} <= set(texts)
    assert b"var(" not in made  # a file of its own has no page that says what the colors are
    names = {element.get("id") for element in root.iter()}
    for element in root.iter("{http://www.w3.org/2000/svg}use"):
        assert str(element.get("href")).removeprefix("#") in names


def note_about(frontier: Sequence[Assignment], *tried: Tried) -> str:
    content = {**said(), "candidates": candidates_of(frontier, tried, GATE)}
    return note_of(Int8.model_validate(content)).partition(" take no part in the choice. ")[2]


def test_the_fastest_is_called_so_also_where_a_slower_one_was_refused() -> None:
    assert note_about((CHOSEN, SLOWER), Tried(CHOSEN, EXACT)) == "A is the fastest candidate."
    worse, bad = replace(EXACT, min_cosine=0.971), replace(EXACT, min_cosine=0.9705)
    assert note_about((CHOSEN, SLOWER), Tried(SLOWER, bad), Tried(CHOSEN, worse)) == "A is the fastest candidate."


def test_a_faster_one_that_was_not_tried_is_told() -> None:
    assert note_about((FASTER, CHOSEN), Tried(CHOSEN, EXACT)) == (
        "A is faster and was not tried: the search passed it over; emulated, it uses 67% of what the gate allows "
        "(min cosine)."
    )


def test_candidates_side_by_side_have_one_label() -> None:
    near = assignment(0.2001, 0.991)
    content = {**said(), "candidates": candidates_of((FASTER, CHOSEN, near), [Tried(near, EXACT)], GATE)}
    texts = [element.text for element in ET.fromstring(plot_of(content)).iter("{http://www.w3.org/2000/svg}text")]
    assert {"A", "B, C"} <= set(texts)
