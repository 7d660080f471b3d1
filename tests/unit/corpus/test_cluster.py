"""How the processors of a Ray cluster are divided among workers, and that errors can be sent."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from exporter import errors
from exporter.corpus import EmbedOptions
from exporter.corpus.cluster import RayWorkers, shares
from exporter.corpus.files import Format, InputFile
from exporter.corpus.job import Job
from exporter.corpus.places import place_of
from exporter.corpus.plan import Identity, Part
from exporter.corpus.ray_actor import Shipment, State, Task
from exporter.corpus.results import Counts, Made
from exporter.corpus.rows import Columns, Place
from exporter.errors import ExportError, GateError, ServerError
from exporter.recipe import Gates
from exporter.targets import Precision


def nodes(*machines: tuple[int, int]) -> list[dict[str, object]]:
    """Return what ``ray.nodes()`` says of machines with so many CPUs and GPUs."""
    return [{"Alive": True, "Resources": {"CPU": float(cpus), "GPU": float(gpus)}} for cpus, gpus in machines]


@pytest.mark.parametrize(
    ("machines", "workers", "gpus", "wanted"),
    [
        ([(8, 0)], None, 0, (8, 1)),
        ([(8, 0), (8, 0)], None, 0, (8, 2)),
        ([(8, 0), (8, 0)], 4, 0, (4, 4)),
        ([(8, 0)], 3, 0, (2, 4)),
        ([(5, 0), (1, 0)], 2, 0, (2, 2)),
        ([(16, 0), (8, 0)], 2, 0, (8, 3)),
        ([(7, 0), (2, 0)], 2, 0, (3, 2)),
        ([(1, 0)], 4, 0, (1, 1)),
        ([(0, 0), (4, 0)], None, 0, (4, 1)),
        ([(64, 0), (4, 1), (4, 1)], 2, 1, (4, 2)),
        ([(2, 0), (64, 8)], None, 1, (8, 8)),
        ([(16, 2)], 1, 1, (16, 1)),
    ],
)
def test_threads_of_a_worker_and_room(
    machines: list[tuple[int, int]], workers: int | None, gpus: int, wanted: tuple[int, int]
) -> None:
    assert shares(nodes(*machines), None, workers, gpus) == wanted


def test_given_threads_are_kept() -> None:
    assert shares(nodes((8, 0), (3, 0)), 3, None, 0) == (3, 3)
    assert shares(nodes((8, 0)), 64, None, 0) == (64, 0), "no machine has room"
    assert shares([], 2, None, 0) == (2, 0)


def test_a_machine_that_is_gone_does_not_count() -> None:
    gone = {"Alive": False, "Resources": {"CPU": 64.0}}
    assert shares([gone, *nodes((2, 0))], None, None, 0) == (2, 1)


def test_no_machine_and_no_threads() -> None:
    with pytest.raises(ServerError, match="no machine for a worker yet"):
        shares([], None, None, 0)
    with pytest.raises(ServerError, match="no machine for a worker yet"):
        shares(nodes((8, 0)), None, None, 1)


@pytest.mark.parametrize("kind", [kind for kind in vars(errors).values() if isinstance(kind, type)])
def test_an_error_is_the_same_behind_pickle(kind: type[BaseException]) -> None:
    """A worker sends what it raises."""
    if not issubclass(kind, ExportError):
        return
    error = kind("what", report={"a": 1}, next_step="how") if kind is GateError else kind("what", next_step="how")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (kind, str(error), vars(error))


class Answering(RayWorkers):
    """Workers whose answers are known."""

    answers: Sequence[tuple[Made, dict[int, State]]] = ()

    def _answers(self, tasks: Sequence[Task]) -> Iterator[tuple[Made, dict[int, State]]]:  # noqa: ARG002
        yield from self.answers


@pytest.fixture
def told() -> list[object]:
    return []


@pytest.fixture
def workers(told: list[object], tmp_path: Path) -> Answering:
    identity = Identity("seal", {}, (InputFile("in.jsonl", Format.JSONL, 1, "1"),))
    job = Job(identity, Columns("text", ()), None, "", Gates().of(Precision.FP32), EmbedOptions())
    shipment, place = Shipment(job, str(tmp_path), tmp_path, 1, 1), place_of(str(tmp_path))
    return Answering(shipment, {}, 0, place, on_processor=told.append, on_parts=told.append)


def test_each_kind_of_processor_is_told_once_and_with_its_first_answer(workers: Answering, told: list[object]) -> None:
    workers.answers = [
        (Made(Counts(rows=rows), processors=frozenset({name})), {})
        for rows, name in ((1, "a"), (2, "a"), (3, "b"), (4, "a"))
    ]
    workers.embed([], [], lambda counts: told.append(counts.rows))
    # With each answer: the processor if it is new, how many parts are complete, and the rows.
    assert told == ["a", 0, 1, 0, 2, "b", 0, 3, 0, 4]


def test_parts_are_looked_at_side_by_side(
    workers: Answering, told: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an object store, each look is a request that takes its time."""
    parts = [Part(number, 0, Place(number), 1, number) for number in range(2)]
    workers.answers = [(Made(), {part.number: ("1", "2")}) for part in parts]
    meeting = threading.Barrier(2, timeout=60)

    def state(name: str) -> str:
        meeting.wait()
        return "1" if name.endswith(".parquet") else "2"

    monkeypatch.setattr(workers._place, "state", state)
    workers.embed(parts, [], lambda _: None)
    assert told == [1, 1]
