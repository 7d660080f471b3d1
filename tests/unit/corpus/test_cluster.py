"""How the processors of a Ray cluster are divided among workers, and that errors can be sent."""

from __future__ import annotations

import pickle

import pytest

from exporter import errors
from exporter.corpus.cluster import shares
from exporter.errors import ExportError, GateError, ServerError


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
