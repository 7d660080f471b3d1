"""Workers on a Ray cluster: a pool of actors of Ray Data, which Ray starts, restarts and scales.

Ray starts, restarts and scales the actors and gives them parts. A part is committed by whoever makes it, so one that is
made twice does no harm. What travels is the job, the bundle and numbers of parts; actors read and write the rows.
"""

from __future__ import annotations

import logging
import mmap
import os
import pickle
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from exporter.bundle import Bundle
from exporter.corpus.files import Format
from exporter.corpus.job import Job
from exporter.corpus.output import Output
from exporter.corpus.places import Place
from exporter.corpus.plan import Part
from exporter.corpus.ray_actor import PartMaker, Shipment, State, Task, Tries, state_of
from exporter.corpus.results import Counts, Made
from exporter.dependencies import require
from exporter.errors import BundleError, ExportError, InputError, ServerError, first_line
from exporter.targets import Device
from exporter.version import __version__

_SECONDS_TO_ANSWER = 10  # of a cluster
# A cluster that is started here reports no use to anybody, and warns of nothing that a user of ours could change.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
_ACTORS_THAT_CANNOT_START = 10  # one after another: machines come and go
REQUESTS_AT_ONCE = 16
"""To an object store, which answers each of them in some 20 ms."""


class RayWorkers:
    """Makes parts on a Ray cluster; see ``job.Workers``.

    Args:
        shipment: What actors are made from.
        files: Those of the bundle by name, in the object store.
        gpus: Of a worker, 0 or 1.
        place: Where parts go.
        on_processor: See ``opened``.
        on_parts: See ``opened``.
    """

    def __init__(
        self,
        shipment: Shipment,
        files: Mapping[str, Any],
        gpus: int,
        place: Place,
        on_processor: Callable[[str], None],
        on_parts: Callable[[int], None],
    ) -> None:
        self._shipment = shipment
        self._files = files
        self._gpus = gpus
        self._place = place
        self._on_processor = on_processor
        self._on_parts = on_parts

    @classmethod
    @contextmanager
    def opened(
        cls,
        job: Job,
        bundle: Bundle,
        place: Place,
        on_warning: Callable[[str], None],
        on_processor: Callable[[str], None] = lambda _: None,
        on_parts: Callable[[int], None] = lambda _: None,
    ) -> Iterator[RayWorkers]:
        """Yield workers on the cluster that the options name. Their engines start with the first part.

        Args:
            job: What the parts share.
            bundle: Whose engine encodes.
            place: Where parts go.
            on_warning: Called with warnings.
            on_processor: Called once with the name of each kind of processor or GPU that has encoded something.
            on_parts: Called with the number of parts that a worker has committed.

        Raises:
            ServerError: There is no such cluster, or it has no processors yet and nobody says what a worker needs.
        """
        try:
            with _connected(job.options.address) as ray, _errors_of(ray), _without_logging():
                gpus = 1 if bundle.manifest.validation.device is Device.CUDA else 0
                threads, room = shares(ray.nodes(), job.options.threads, job.options.workers, gpus)
                if not room:
                    gpu = " and a GPU" if gpus else ""
                    on_warning(f"no machine of the Ray cluster has {threads} CPUs{gpu} yet: waiting for one")
                files = {
                    path.name: ray.put(_mapped(path)) for path in sorted(bundle.folder.iterdir()) if path.is_file()
                }
                shipment = Shipment(job, place.url, bundle.folder.resolve(), threads, max(room, 1))
                yield cls(shipment, files, gpus, place, on_processor, on_parts)
        finally:  # after the workers have ended with the connection: until then they write
            Output(place).remove_partial_files()

    def embed(self, parts: Sequence[Part], sampled: Sequence[Part], on_counts: Callable[[Counts], None]) -> Made:
        """Write and commit parts, in any order, and compare rows of each when it is there; see ``job.Workers``."""
        made = Made()
        states: dict[int, State] = {}
        for one, its_states in self._answers(list(_tasks(parts, sampled, self._shipment.job))):
            new = sorted(one.processors - made.processors)
            made += one
            states.update(its_states)
            with suppress(OSError):  # of a terminal that is gone
                for processor in new:
                    self._on_processor(processor)
                self._on_parts(len(its_states))
                on_counts(one.counts)
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as threads:
            states_now = list(threads.map(partial(state_of, self._place), parts))
        for part, now in zip(parts, states_now, strict=True):
            self._refuse_unless_committed(part, states.get(part.number), now)
        return made

    def _refuse_unless_committed(self, part: Part, state: State | None, now: State) -> None:
        """Compare a part with what its worker has seen: one that was thought dead may have gone on writing it."""
        if state is None:
            raise ServerError(f"the Ray cluster has not made {part.name}", next_step="run the same command again")
        if None not in now and now == state:
            return
        if now[0] is None:
            raise BundleError(
                f"{self._place.url}/{part.name}: is not there, and a worker has written it",
                next_step="choose an `out` that all machines share",
            )
        if Output(self._place).committed(part, self._shipment.job.identity) is None:
            self._place.remove(part.manifest)
            raise BundleError(
                f"{self._place.url}/{part.name}: was written again after it was committed",
                next_step="run the same command again: the part is made again",
            )

    def _answers(self, tasks: Sequence[Task]) -> Iterator[tuple[Made, dict[int, State]]]:
        """Yield what actors return for tasks.

        Raises:
            ExportError: What an actor has raised.
            ServerError: The cluster gave up.
        """
        ray, data = require("ray"), require("ray.data")
        if not tasks:
            return
        shipment, workers = self._shipment, self._shipment.job.options.workers
        context = data.DataContext()  # a program that uses Ray Data itself may drop tasks that fail
        context.enable_progress_bars = context.print_on_execution_start = False
        context.execution_no_progress_timeout_s = -1  # a part may take hours, and a machine may have to come first
        context.max_consecutive_actor_init_deaths = _ACTORS_THAT_CANNOT_START
        context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0  # an actor has one task at a time
        pool = {"size": min(workers, len(tasks))} if workers else {"initial_size": min(shipment.room, len(tasks))}
        tries = ray.remote(Tries).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
        with data.DataContext.current(context):
            answers = data.from_items(
                [{"task": pickle.dumps(task)} for task in tasks], override_num_blocks=len(tasks)
            ).map_batches(
                PartMaker,
                batch_size=1,
                fn_constructor_args=(__version__, pickle.dumps(shipment), self._files, tries),
                compute=data.ActorPoolStrategy(**pool, max_tasks_in_flight_per_actor=1),
                num_cpus=shipment.threads,
                num_gpus=self._gpus,
            )
            for row in answers.iter_rows():
                answer = pickle.loads(row["answer"])  # noqa: S301 - of our own worker
                if isinstance(answer, ExportError):
                    raise answer
                yield answer


@contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Yield the module ``ray``, connected: to where the caller already is, or to ``address`` until the end."""
    ray = require("ray")
    require("ray.data")
    ours = not ray.is_initialized()
    if not ours and address is not None:
        raise InputError("this program is connected to a Ray cluster already", next_step="leave `address` out")
    if ours:
        _refuse_client(address)
        _connect(ray, address)
    try:
        if ray.util.client.ray.is_connected():
            _refuse_client("ray://")
        yield ray
    finally:
        if ours:
            ray.shutdown()


def _refuse_client(address: str | None) -> None:
    if address is not None and address.startswith("ray://"):
        raise InputError(
            f"{address}: Ray Data does not run through Ray's client",
            next_step="submit the command to the cluster, by `ray job submit` or a RayJob, with `address=auto`",
        )


def _connect(ray: Any, address: str | None) -> None:
    """Connect, and leave the signals and the environment of this process as they are."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if address is not None and (found := re.fullmatch(r"\[?(.+?)\]?:(\d{1,5})", address)):
            socket.create_connection((found[1], int(found[2])), _SECONDS_TO_ANSWER).close()  # Ray would try for minutes
        with _environment(_QUIET):
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises plain exceptions too
        ray.shutdown()
        raise ServerError(
            f"{address or 'Ray'}: no Ray cluster answers: {first_line(error)}",
            next_step="start one with `ray start`, or name another `address`",
        ) from error
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set those environment variables that are not set. At the end, all are as they were."""
    before = dict(os.environ)
    os.environ.update({name: value for name, value in variables.items() if name not in before})
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]


@contextmanager
def _errors_of(ray: Any) -> Iterator[None]:
    try:
        yield
    except ray.exceptions.RayError as error:
        raise ServerError(
            f"the Ray cluster has given up: {first_line(error)}",
            next_step="look at the logs of its workers, and run the same command again: it goes on",
        ) from error


@contextmanager
def _without_logging() -> Iterator[None]:
    """Keep Ray Data from logging tracebacks of errors that are raised here."""
    logger = logging.getLogger("ray.data")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def shares(nodes: Sequence[Mapping[str, Any]], threads: int | None, workers: int | None, gpus: int) -> tuple[int, int]:
    """Return the threads of a worker, and how many workers the machines of a cluster have room for now.

    Args:
        nodes: What ``ray.nodes()`` returns.
        threads: What is asked for, if anything is. By default, so many that all machines are busy.
        workers: How many are asked for, if a number is.
        gpus: How many GPUs a worker needs, 0 or 1.

    Raises:
        ServerError: There is no machine for a worker yet, and ``threads`` is not given.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    machines = [(int(one.get("CPU", 0)), int(one.get("GPU", 0))) for one in alive]
    machines = [(cpus, accelerators) for cpus, accelerators in machines if cpus and accelerators >= gpus]

    def room(count: int) -> int:
        return sum(min(cpus // count, accelerators) if gpus else cpus // count for cpus, accelerators in machines)

    if threads is None:
        if not machines:
            raise ServerError("the Ray cluster has no machine for a worker yet", next_step="give `threads`")
        wanted = workers or sum(accelerators if gpus else 1 for _, accelerators in machines)
        largest = max(cpus for cpus, _ in machines)
        threads = next((count for count in range(largest, 1, -1) if room(count) >= wanted), 1)
    return threads, room(threads)


def _tasks(parts: Sequence[Part], sampled: Sequence[Part], job: Job) -> Iterator[Task]:
    """Yield tasks of one part, or of the parts of a file that is read from its beginning: compressed, or a stream."""
    wanted, chosen = set(parts), set(sampled)
    for number, of_file in groupby(sorted(wanted | chosen, key=attrgetter("number")), key=attrgetter("file")):
        some = list(of_file)
        is_parquet = job.identity.files[number].format is Format.PARQUET
        whole = not is_parquet and any(part.place.from_the_beginning for part in some)
        for together in [some] if whole else ([part] for part in some):
            yield Task([part for part in together if part in wanted], [part for part in together if part in chosen])


def _mapped(path: Path) -> np.ndarray:
    """Return the bytes of a file, which are read when Ray copies them."""
    if not path.stat().st_size:
        return np.empty(0, np.uint8)
    with path.open("rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
