"""What ``korsbert embed`` tells on stderr where that is no terminal."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from exporter.cli import embed
from exporter.corpus.output import PartManifest
from exporter.corpus.plan import Identity, Part, Plan
from exporter.corpus.results import Counts
from exporter.corpus.rows import Place

PLAN = Plan(Identity("seal", {}, ()), (40,), tuple(Part(number, 0, Place(10 * number), 10, 0) for number in range(4)))
DONE = [PartManifest(0, "seal", "plan", "", None, Counts(rows=10))]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> StringIO:
    monkeypatch.setattr(embed, "_SECONDS_BETWEEN_LINES", 0)
    return StringIO()


def lines(told: StringIO) -> list[str]:
    return told.getvalue().splitlines()


def test_a_first_answer_without_rows(told: StringIO) -> None:
    """On a cluster, a task may only compare rows of a part that an earlier run has made."""
    with embed._progress(Console(file=told, width=200)) as shown:
        shown.plan(PLAN, DONE)
        shown.parts(0)
        shown.counts(Counts())
        shown.parts(1)
        shown.counts(Counts(rows=10, tokens=50))
    first, second = lines(told)[1:]
    assert first == "10 of 40 rows, 1 of 4 parts, 0 rows/s, 0 tokens/s"
    assert second.startswith("20 of 40 rows, 2 of 4 parts, ")
    assert second.endswith(" s left")


def test_what_is_done_before_there_is_a_plan(told: StringIO) -> None:
    with embed._progress(Console(file=told, width=200)) as shown:
        shown.stage("reading the input")
        shown.plan(PLAN, [])
    assert lines(told) == ["reading the input", "40 rows in 4 parts"]


def test_a_bar_shows_the_stage_and_the_parts(told: StringIO) -> None:
    with embed._progress(Console(file=told, width=200, force_terminal=True)) as shown:
        shown.stage("looking at the parts of earlier runs")
        (task,) = shown._bar.tasks
        assert task.description == "looking at the parts of earlier runs"
        shown.plan(PLAN, DONE)
        shown.parts(2)
        shown.counts(Counts(rows=20))
        assert task.description.startswith("3 of 4 parts, ")
        assert (task.completed, task.total) == (30, 40)
