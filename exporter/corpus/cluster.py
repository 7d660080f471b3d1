"""Workers on a Ray cluster: actors of Ray Data, each with an engine of its own.

Ray starts, restarts and scales the actors and gives them parts. A part is committed by whoever makes it, so one that is
made twice does no harm. What travels is the job, the bundle and numbers of parts; actors read and write the rows.
"""

from __future__ import annotations

import faulthandler
import logging
import mmap
import os
import pickle
import re
import shutil
import socket
import stat
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from exporter.bundle import Bundle
from exporter.corpus.job import Job
from exporter.corpus.output import Output
from exporter.corpus.places import Place, place_of
from exporter.corpus.plan import Part
from exporter.corpus.results import Counts, Made, Sample
from exporter.corpus.worker import Worker
from exporter.dependencies import require
from exporter.errors import BundleError, ExportError, InputError, ServerError, first_line
from exporter.targets import Device
from exporter.version import __version__

_TRIES = 5  # of a part whose worker dies
_SECONDS_TO_ANSWER = 10  # of a cluster
_STDERR = 2
# A cluster that is started here reports no use to anybody, and warns of nothing that a user of ours could change.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
_ACTORS_THAT_CANNOT_START = 10  # one after another: machines come and go

_T = TypeVar("_T")


@dataclass(frozen=True)
class Shipment:
    """What an actor is made from.

    Attributes:
        version: Of korsbert.
        job: What the parts share.
        out: Path or URL of the output.
        folder: Of the bundle, where machines share it or have it.
        files: Those of the bundle, in the object store, for machines that have not.
        threads: CPU threads of an engine.
    """

    version: str
    job: Job
    out: str
    folder: Path
    files: Mapping[str, Any]
    threads: int


class RayWorkers:
    """Makes parts on a Ray cluster; see ``job.Workers``."""

    def __init__(self, shipment: Shipment, pool: Any, gpus: int, place: Place) -> None:
        self._shipment = shipment
        self._pool = pool
        self._gpus = gpus
        self._place = place

    @classmethod
    @contextmanager
    def opened(cls, job: Job, bundle: Bundle, place: Place) -> Iterator[RayWorkers]:
        """Yield workers on the cluster that the options name. Their engines start with the first part.

        Raises:
            ServerError: There is no such cluster, or it has no processors.
        """
        with _connected(job.options.address) as ray, _logging_errors_only():
            gpus = 1 if bundle.manifest.validation.device is Device.CUDA else 0
            threads, workers = _shares(ray.nodes(), job.options.threads, job.options.workers, gpus)
            strategy = require("ray.data").ActorPoolStrategy
            pool = (
                strategy(size=job.options.workers, max_tasks_in_flight_per_actor=1)
                if job.options.workers
                else strategy(min_size=1, initial_size=workers, max_tasks_in_flight_per_actor=1)
            )
            files = {path.name: ray.put(_mapped(path)) for path in sorted(bundle.folder.iterdir()) if path.is_file()}
            shipment = Shipment(__version__, job, place.url, bundle.folder.resolve(), files, threads)
            try:
                yield cls(shipment, pool, gpus, place)
            finally:
                Output(place).remove_partial_files()

    def embed(self, parts: Sequence[Part], on_counts: Callable[[Counts], None]) -> Made:
        """Write and commit parts, in any order; see ``job.Workers``."""
        made, states = Made(), {}
        for one, its_states in self._map(_Embedding, parts):
            made += one
            states.update(its_states)
            with suppress(OSError):  # of a terminal that is gone
                on_counts(one.counts)
        for part in parts:
            if states.get(part.number) != _state(self._place, part):
                self._place.remove(part.manifest)
                raise BundleError(
                    f"{self._place.url}/{part.name}: was written again after it was committed",
                    next_step="run the same command again: the part is made again",
                )
        return made

    def check(self, parts: Sequence[Part]) -> Sample:
        """Encode some rows of parts again, and compare; see ``job.Workers``."""
        return sum(self._map(_Checking, parts), Sample())

    def _map(self, actor: type[_Actor], parts: Sequence[Part]) -> Iterator[Any]:
        """Yield what actors return for the parts.

        Raises:
            ExportError: What an actor has raised.
            ServerError: The cluster gave up.
        """
        ray, data = require("ray"), require("ray.data")
        tasks = list(_tasks(parts, self._shipment.job))
        if not tasks:
            return
        context = data.DataContext.get_current().copy()
        context.enable_progress_bars = context.print_on_execution_start = False
        context.execution_no_progress_timeout_s = -1  # a part may take hours, and a machine may have to come first
        context.max_consecutive_actor_init_deaths = _ACTORS_THAT_CANNOT_START
        tries = ray.remote(_Tries).options(num_cpus=0, max_restarts=-1).remote()
        try:
            with data.DataContext.current(context):
                answers = data.from_items(
                    [{"parts": pickle.dumps(task)} for task in tasks], override_num_blocks=len(tasks)
                ).map_batches(
                    actor,
                    batch_size=1,
                    fn_constructor_args=(self._shipment, tries),
                    compute=self._pool,
                    num_cpus=self._shipment.threads,
                    num_gpus=self._gpus,
                )
                for row in answers.iter_rows():
                    answer = pickle.loads(row["answer"])  # noqa: S301 - of our own worker
                    if isinstance(answer, ExportError):
                        raise answer
                    yield answer
        except ray.exceptions.RayError as error:
            raise ServerError(
                f"the Ray cluster has given up: {first_line(error)}",
                next_step="look at the logs of its workers, and run the same command again: it goes on",
            ) from error


class _Tries:
    """Counts how often parts were begun. Ray begins a part again, for ever, when its worker has died."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, part: int) -> int:
        """Count, and return how often this part was begun."""
        self._begun[part] += 1
        return self._begun[part]


class _Actor:
    """Has a worker. What it raises on purpose is an answer: Ray would wrap it in errors of its own."""

    def __init__(self, shipment: Shipment, tries: Any) -> None:
        self._shipment = shipment
        self._tries = tries
        self._place = place_of(shipment.out)
        self._opened = ExitStack()
        self._worker: Worker | None = None

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        (parts,) = (pickle.loads(task) for task in batch["parts"])  # noqa: S301 - of our own driver
        self._alive()
        try:
            self._refuse_another_try(parts[0])
            answer: object = self._do(self._opened_worker(), parts)
        except ExportError as error:
            answer = error
        finally:
            faulthandler.cancel_dump_traceback_later()
        return {"answer": [pickle.dumps(answer)]}

    def _do(self, worker: Worker, parts: Sequence[Part]) -> object:
        raise NotImplementedError

    def _refuse_another_try(self, part: Part) -> None:
        if require("ray").get(self._tries.begin.remote(part.number)) > _TRIES:
            file = self._shipment.job.identity.files[part.file]
            raise ServerError(
                f"{file.url}: {_TRIES} workers have died, each on the rows from {part.place.row} on",
                next_step="look at the logs of the Ray cluster: memory may be too small, or `stall_timeout` too short",
            )

    def _opened_worker(self) -> Worker:
        if self._worker is None:
            shipment = self._shipment
            if shipment.version != __version__:
                raise InputError(f"a worker has korsbert {__version__}, and this is {shipment.version}")
            opened = Worker.opened(
                shipment.job, _bundle_here(shipment), self._place, threads=shipment.threads, on_batch=self._alive
            )
            self._worker = self._opened.enter_context(opened)
        return self._worker

    def _alive(self) -> None:
        """End this process unless this is called again in time. Ray then starts another one."""
        faulthandler.dump_traceback_later(self._shipment.job.options.stall_timeout, exit=True, file=_STDERR)


class _Embedding(_Actor):
    def _do(self, worker: Worker, parts: Sequence[Part]) -> tuple[Made, dict[int, str | None]]:
        made = worker.embed(parts, lambda _: None)
        return made, {part.number: _state(self._place, part) for part in parts}


class _Checking(_Actor):
    def _do(self, worker: Worker, parts: Sequence[Part]) -> Sample:
        return worker.check(parts)


@contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Yield the module ``ray``, connected: to where the caller already is, or to ``address`` until the end."""
    ray = require("ray")
    if ray.is_initialized():
        yield ray
        return
    if address is not None and address.startswith("ray://"):
        raise InputError(
            f"{address}: Ray Data does not run through Ray's client",
            next_step="submit the command to the cluster, by `ray job submit` or a RayJob, with `address=auto`",
        )
    try:
        if address is not None and (found := re.fullmatch(r"(.+):(\d{1,5})", address)):
            socket.create_connection((found[1], int(found[2])), _SECONDS_TO_ANSWER).close()  # Ray would try for minutes
        with _environment(_QUIET):
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        raise ServerError(
            f"{address or 'Ray'}: no Ray cluster answers: {first_line(error)}",
            next_step="start one with `ray start`, or name another `address`",
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set those environment variables that are not set, until the end."""
    missing = variables.keys() - os.environ.keys()
    os.environ.update({name: variables[name] for name in missing})
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]


@contextmanager
def _logging_errors_only() -> Iterator[None]:
    require("ray.data")  # sets the level when it is imported
    logger = logging.getLogger("ray.data")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _shares(nodes: Sequence[Mapping[str, Any]], threads: int | None, workers: int | None, gpus: int) -> tuple[int, int]:
    """Return the threads of a worker, and how many workers the machines of a cluster have room for."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    cpus = [int(resources["CPU"]) for resources in alive if resources.get("CPU", 0) >= 1]
    if not cpus:
        if threads is None:
            raise ServerError("the Ray cluster has no processors yet", next_step="say how many `threads` a worker has")
        return threads, 1
    accelerators = int(sum(resources.get("GPU", 0) for resources in alive))
    wanted = workers or (accelerators if gpus else len(cpus))
    threads = threads or min(max(1, sum(cpus) // max(wanted, 1)), max(cpus) if workers else min(cpus))
    room = sum(count // threads for count in cpus)
    return threads, max(1, min(room, accelerators) if gpus else room)


def _tasks(parts: Sequence[Part], job: Job) -> Iterator[list[Part]]:
    """Yield lists of parts that one worker makes: one part, or those of a file that is read from its beginning."""
    for number, of_file in groupby(parts, key=attrgetter("file")):
        if job.identity.files[number].compressed:
            yield list(of_file)
        else:
            yield from ([part] for part in of_file)


def _state(place: Place, part: Part) -> str | None:
    try:
        return place.state(part.name)
    except FileNotFoundError:
        return None


def _mapped(path: Path) -> np.ndarray:
    """Return the bytes of a file, which are read when Ray copies them."""
    if not path.stat().st_size:
        return np.empty(0, np.uint8)
    with path.open("rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def _bundle_here(shipment: Shipment) -> Bundle:
    """Open the bundle: in its own folder if this machine has it, else in one that is filled from the object store."""
    seal = shipment.job.identity.bundle
    with suppress(ExportError, OSError):
        bundle = Bundle.open(shipment.folder, for_encoding=True)
        if bundle.manifest.seal == seal:
            return bundle
    bundles = _own_folder()
    target = bundles / seal
    if not target.exists():
        partial = Path(tempfile.mkdtemp(prefix=f".{seal[:12]}-", dir=bundles))
        try:
            for name, content in shipment.files.items():
                (partial / name).write_bytes(require("ray").get(content))
            with suppress(OSError):  # another worker of this machine was first
                partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return Bundle.open(target, for_encoding=True)


def _own_folder() -> Path:
    """Return a folder for bundles that nobody else on this machine can write to."""
    folder = Path(tempfile.gettempdir()) / f"korsbert-bundles-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o077:
        raise InputError(f"{folder}: belongs to somebody else", next_step="remove it, or set TMPDIR for the workers")
    return folder
