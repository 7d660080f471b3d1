"""What runs on the machines of a Ray cluster: actors, each with an engine of its own.

An actor reads the rows of a part itself, writes them and commits the part.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import shutil
import stat
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from exporter.bundle import Bundle
from exporter.corpus.job import Job
from exporter.corpus.output import Output
from exporter.corpus.places import Place, place_of
from exporter.corpus.plan import Part
from exporter.corpus.results import Counts, Made
from exporter.corpus.scratch import remove_left_scratch_folders, scratch_folder
from exporter.corpus.worker import Worker, bounded_threads
from exporter.dependencies import require
from exporter.errors import BundleError, ExportError, InputError, ServerError, first_line
from exporter.version import __version__

_TRIES = 5  # of a part whose worker dies
_STDERR = 2
_FILLING = "filling-"  # a folder that is not the bundle yet


@dataclass(frozen=True)
class Shipment:
    """What an actor is made from.

    Attributes:
        job: What the parts share.
        out: Path or URL of the output.
        folder: Of the bundle, where machines share it or have it.
        threads: CPU threads of an engine.
        room: How many actors the cluster has room for at the start.
    """

    job: Job
    out: str
    folder: Path
    threads: int
    room: int


@dataclass(frozen=True)
class Task:
    """What an actor does at a time: parts that it writes, and parts of which it compares rows."""

    parts: Sequence[Part]
    sampled: Sequence[Part]


class Tries:
    """Counts how often parts were begun. Ray begins a part again, for ever, when its worker has died."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, part: int) -> int:
        """Count, and return how often this part was begun."""
        self._begun[part] += 1
        return self._begun[part]


class PartMaker:
    """An actor: a worker, opened with its first task. What it raises is an answer, as Ray would wrap it.

    Args:
        version: Of the korsbert that sends it.
        shipment: A pickled ``Shipment``.
        files: Those of the bundle by name, in the object store, for machines that do not have it.
        tries: Handle of ``Tries``.
    """

    def __init__(self, version: str, shipment: bytes, files: Mapping[str, Any], tries: Any) -> None:
        self._version = version
        self._pickled = shipment
        self._files = files
        self._tries = tries
        self._opened = ExitStack()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Do one task: ``batch`` has one row, and so has what is returned."""
        try:
            answer: object = self._do(batch["task"][0])
        except ExportError as error:
            answer = error
        except Exception as error:  # noqa: BLE001 - Ray would show its own frames, and not the cause
            answer = ServerError(
                f"a worker on the Ray cluster has failed: {type(error).__name__}: {first_line(error)}",
                next_step="look at the logs of the cluster, and run the same command again: it goes on",
            )
        finally:
            faulthandler.cancel_dump_traceback_later()
        return {"answer": [pickle.dumps(answer)]}

    def _do(self, pickled: bytes) -> tuple[Made, dict[int, State]]:
        if self._version != __version__:
            raise InputError(f"a worker has korsbert {__version__}, and this is {self._version}")
        self._alive()
        task: Task = pickle.loads(pickled)  # noqa: S301 - of our own driver
        todo, done = self._todo(task.parts)
        for part in (*todo, *task.sampled)[:1]:
            self._refuse_another_try(part)
        made = self._worker.embed(todo, task.sampled, lambda _: None)
        states = {part.number: state_of(self._place, part) for part in task.parts}
        return replace(made, counts=made.counts + done), states

    def _todo(self, parts: Sequence[Part]) -> tuple[list[Part], Counts]:
        """Return the parts to make, and the counts of those that a worker which died has made: of a compressed file."""
        todo, done = [], Counts()
        for part in parts:
            manifest = self._output.committed(part, self._shipment.job.identity) if len(parts) > 1 else None
            if manifest is None:
                todo.append(part)
            else:
                done += manifest.counts
        return todo, done

    def _refuse_another_try(self, part: Part) -> None:
        if require("ray").get(self._tries.begin.remote(part.number)) > _TRIES:
            file = self._shipment.job.identity.files[part.file]
            raise ServerError(
                f"{file.url}: {_TRIES} workers have died, each on the rows from {part.place.row} on",
                next_step="look at the logs of the Ray cluster: memory may be too small, or `stall_timeout` too short",
            )

    @cached_property
    def _shipment(self) -> Shipment:
        shipment: Shipment = pickle.loads(self._pickled)  # noqa: S301 - of our own driver
        return shipment

    @cached_property
    def _place(self) -> Place:
        return place_of(self._shipment.out)

    @cached_property
    def _output(self) -> Output:
        return Output(self._place)

    @cached_property
    def _worker(self) -> Worker:
        threads = self._shipment.threads
        self._opened.enter_context(bounded_threads(threads))
        bundle = _bundle_here(self._shipment, self._files)
        opened = Worker.opened(self._shipment.job, bundle, self._place, threads=threads, on_progress=self._alive)
        return self._opened.enter_context(opened)

    def _alive(self) -> None:
        """End this process unless this is called again in time. Ray then starts another one."""
        faulthandler.dump_traceback_later(self._shipment.job.options.stall_timeout, exit=True, file=_STDERR)


State = tuple[str | None, str | None]


def state_of(place: Place, part: Part) -> State:
    """Return the states of a part's file and of its manifest, None where there is none."""

    def state(name: str) -> str | None:
        try:
            return place.state(name)
        except FileNotFoundError:
            return None

    return state(part.name), state(part.manifest)


def _bundle_here(shipment: Shipment, files: Mapping[str, Any]) -> Bundle:
    """Open the bundle: in its own folder if this machine has it, else in one that is filled from the object store.

    Raises:
        BundleError: What was sent is another bundle: it was replaced when the run began.
    """
    seal = shipment.job.identity.bundle
    target = _own_folder() / seal
    remove_left_scratch_folders(_FILLING, target.parent)
    for folder in (shipment.folder, target):
        with suppress(ExportError, OSError):
            return _bundle_of(folder, seal)
    with scratch_folder(_FILLING, target.parent) as partial:
        for name, content in files.items():
            (partial / name).write_bytes(require("ray").get(content))
        _bundle_of(partial, seal)
        with suppress(OSError):  # it is there: another worker of this machine was first, or a file of it was removed
            partial.rename(target)
        with suppress(ExportError):
            return _bundle_of(target, seal)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        return _bundle_of(target, seal)


def _bundle_of(folder: Path, seal: str) -> Bundle:
    bundle = Bundle.open(folder, for_encoding=True)
    if bundle.manifest.seal != seal:
        raise BundleError(f"{folder}: is another bundle than that of the run", next_step="run the command again")
    return bundle


def _own_folder() -> Path:
    """Return a folder for bundles that nobody else on this machine can write to."""
    folder = Path(tempfile.gettempdir()) / f"korsbert-bundles-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o077:
        raise InputError(f"{folder}: belongs to somebody else", next_step="remove it, or set TMPDIR for the workers")
    return folder
