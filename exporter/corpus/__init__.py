"""Bulk embedding: a dataset in, a dataset with vectors out, and every row once.

    files.py     which files the input has          rows.py      their rows, in windows
    plan.py      parts: fixed ranges of rows        windows.py   a window of rows -> vectors
    places.py    a folder, or a prefix on a store   output.py    parts are written there and committed
    stores.py    errors of file systems             lease.py     the lock of a prefix
    scratch.py   files on their way to a store
    worker.py    one process makes parts            sample.py    some vectors are encoded again
    cluster.py   workers on a Ray cluster           ray_actor.py what runs on its machines
    kuberay.py   a job for Ray on Kubernetes

A part is a function of its rows, the bundle and the options: whoever makes it, and however often, its vectors are the
same bytes. So a run that was interrupted goes on with the parts that are missing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from exporter.bundle import Bundle
from exporter.corpus.cluster import RayWorkers
from exporter.corpus.files import input_files, takes_in
from exporter.corpus.job import Job, Workers
from exporter.corpus.options import EmbedEngine, EmbedOptions
from exporter.corpus.output import PLAN, SUCCESS, Output, PartManifest, schema_of, vector_type
from exporter.corpus.places import Place, opened_place
from exporter.corpus.plan import Identity, Part, Plan, make_plan, refuse_another
from exporter.corpus.reading import columns_of
from exporter.corpus.results import Counts, Made, Sample, Seconds
from exporter.corpus.sample import sampled
from exporter.corpus.worker import Worker
from exporter.dependencies import require_all
from exporter.errors import BundleError, GateError, InputError
from exporter.machine import cores, machine
from exporter.runtime.facts import DOCUMENT_PROMPTS, first_prompt

__all__ = ["EmbedOptions", "EmbedReport", "Progress", "embed"]

_OF_CLUSTERS = ("address", "workers", "stall_timeout")
_NOT_DECIDING = {
    *("dry_run", "on_error", "prompt_name", "require_signature", "resume", "threads", "engine"),
    *_OF_CLUSTERS,
}
"""Options that no byte of a part depends on; of a prompt, its text decides."""


@dataclass(frozen=True)
class EmbedReport:
    """What a run came to.

    Attributes:
        folder: Path or URL of the output.
        rows: Of the input.
        counts: Of all parts that are there, also of those of earlier runs.
        parts: How many the output has.
        resumed: How many of them earlier runs have made.
        seconds: Of this run, wall-clock time.
        rows_per_second: Of the rows of this run.
        stages: Seconds by stage of this run, of all workers together.
        cpu_seconds_per_million_rows: Processor time of the workers.
        sample: The comparison at the end; None where nothing was to be written.
    """

    folder: str
    rows: int
    counts: Counts
    parts: int
    resumed: int
    seconds: float
    rows_per_second: float
    stages: Seconds
    cpu_seconds_per_million_rows: float
    sample: Sample | None

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON data."""
        return asdict(self)


@dataclass(frozen=True)
class Progress:
    """Who is told about progress.

    Attributes:
        on_plan: Called with the plan, and the parts that earlier runs have made.
        on_counts: Called with the counts of rows that are written: of a window, or on a cluster of a part.
        on_warning: Called with warnings.
    """

    on_plan: Callable[[Plan, Sequence[PartManifest]], None] = lambda *_: None
    on_counts: Callable[[Counts], None] = lambda _: None
    on_warning: Callable[[str], None] = lambda _: None


def embed(
    bundle: Path, inputs: Sequence[str], out: str, options: EmbedOptions, progress: Progress = Progress()
) -> EmbedReport:
    """Encode the texts of a dataset, and write their vectors as Parquet.

    Args:
        bundle: Folder of a bundle.
        inputs: Files, folders and globs of Parquet, Arrow, JSON Lines, CSV or plain text, here or on an object store.
        out: Folder of the output.
        options: How.
        progress: Who is told about it.

    Raises:
        BundleError: The bundle is damaged, or has not been validated.
        InputError: The input cannot be read, a row of it cannot be encoded, or the folder belongs to something else.
        GateError: A vector that was written is another than that of its text.
    """
    require_all(("fsspec", "pyarrow"))
    _refuse_options_of_clusters(options)
    opened = _opened(bundle, options, progress)
    prompt_name = options.prompt_name or first_prompt(opened.manifest.encoder.prompts, DOCUMENT_PROMPTS)
    prompt = _prompt(opened, prompt_name)
    files = input_files(inputs)
    if any(takes_in(given, out) for given in inputs):
        raise InputError(f"{out}: lies in the input", next_step="choose another `out`")
    identity = Identity(opened.manifest.seal, _deciding(options, prompt), files)
    columns = columns_of(files, options.column, options.kept)
    facts = _facts(opened, options, prompt)
    schema = schema_of(columns, vector_type(options.dtype, facts["dimension"]), facts)
    gate = opened.manifest.recipe.gates.of(opened.manifest.engine.precision)
    job = Job(identity, columns, schema, prompt, gate, options)
    with opened_place(out, progress.on_warning) as place, _workers(job, opened, place, progress) as workers:
        started, output = time.perf_counter(), Output(place)
        plan, done = _plan(output, identity, options)
        progress.on_plan(plan, list(done.values()))
        counts = sum((manifest.counts for manifest in done.values()), Counts())
        made, sample = Made(), None
        if workers is not None:
            place.remove(SUCCESS)
            with _refusing_changes(identity, inputs, place.url):
                todo = [part for part in plan.parts if part not in done]
                made = workers.embed(todo, sampled(plan.parts), progress.on_counts)
            if options.engine is EmbedEngine.RAY:
                _warn_of_other_processors(opened, made, progress)
            counts += made.counts
            sample = made.sample
            output.refuse_other_parts(plan)
            place.write(SUCCESS, _success(facts, plan, counts))
        seconds = time.perf_counter() - started
    return EmbedReport(
        folder=place.url,
        rows=sum(plan.rows),
        counts=counts,
        parts=len(plan.parts),
        resumed=len(done),
        seconds=seconds,
        rows_per_second=made.counts.rows / seconds,
        stages=made.seconds,
        cpu_seconds_per_million_rows=made.seconds.processor / max(made.counts.rows, 1) * 1e6,
        sample=sample,
    )


@contextmanager
def _refusing_changes(identity: Identity, inputs: Sequence[str], where: str) -> Iterator[None]:
    """Look at the input once more at the end, also where a vector differs: its text may be another one now."""
    try:
        yield
    except GateError:
        refuse_another(identity, replace(identity, files=input_files(inputs)), where)
        raise
    refuse_another(identity, replace(identity, files=input_files(inputs)), where)


def _workers(
    job: Job, bundle: Bundle, place: Place, progress: Progress
) -> AbstractContextManager[Workers] | AbstractContextManager[None]:
    """Return those who make the parts; nobody on a dry run."""
    if job.options.dry_run:
        return nullcontext()
    if job.options.engine is EmbedEngine.RAY:
        return RayWorkers.opened(job, bundle, place, progress.on_warning)
    return Worker.opened(job, bundle, place, threads=job.options.threads or cores())


def _opened(bundle: Path, options: EmbedOptions, progress: Progress) -> Bundle:
    encodes = options.engine is EmbedEngine.LOCAL and not options.dry_run
    opened = Bundle.open(bundle, require_signature=options.require_signature, for_encoding=encodes)
    if not opened.validated:
        raise BundleError(f"{bundle}: has not been validated", next_step="validate it and record the result first")
    if encodes:
        _warn_of_other_processors(opened, Made(processors=frozenset({machine()["processor"]})), progress)
    return opened


def _warn_of_other_processors(bundle: Bundle, made: Made, progress: Progress) -> None:
    proven = bundle.manifest.machine.get("processor")
    for processor in sorted(made.processors - {proven}):
        progress.on_warning(f"the bundle was validated on {proven}, and not on {processor}: validate it there too")


def _refuse_options_of_clusters(options: EmbedOptions) -> None:
    defaults = EmbedOptions()
    given = [name for name in _OF_CLUSTERS if getattr(options, name) != getattr(defaults, name)]
    if options.engine is EmbedEngine.LOCAL and given:
        raise InputError(f"`{given[0]}` is for a cluster", next_step="add `engine=ray`, or leave it out")


def _prompt(bundle: Bundle, name: str | None) -> str:
    facts = bundle.manifest.encoder
    if name is None:
        return facts.prompt
    if name not in facts.prompts:
        known = ", ".join(facts.prompts) or "none"
        raise InputError(f"the model has no prompt {name!r}", next_step=f"its prompts are: {known}")
    return facts.prompts[name]


def _deciding(options: EmbedOptions, prompt: str) -> dict[str, Any]:
    return {**options.model_dump(mode="json", exclude=_NOT_DECIDING), "prompt": prompt}


def _plan(output: Output, identity: Identity, options: EmbedOptions) -> tuple[Plan, dict[Part, PartManifest]]:
    """Return the plan, and the parts that earlier runs have made."""
    plan = output.plan()
    if plan is None or not options.resume:
        new = make_plan(identity, options.rows_per_part)
        if not options.dry_run:
            if plan is not None:
                output.clear()
            output.place.write(PLAN, new.to_json())
        return new, {}
    refuse_another(plan.identity, identity, output.place.url)
    found = ((part, output.committed(part, identity)) for part in plan.parts)
    return plan, {part: manifest for part, manifest in found if manifest is not None}


def _facts(bundle: Bundle, options: EmbedOptions, prompt: str) -> dict[str, Any]:
    """Return what the metadata of every part says of its vectors."""
    facts = bundle.manifest.encoder
    return {
        "bundle": bundle.manifest.seal,
        "recipe": bundle.manifest.recipe.name,
        "precision": str(bundle.manifest.engine.precision),
        "dimension": min([facts.dimension, *filter(None, (facts.truncate_dim, options.truncate_dim))]),
        "dtype": options.dtype,
        "normalized": options.normalize,
        "similarity": facts.similarity,
        "prompt": prompt,
        "text_column": options.column,
    }


def _success(facts: dict[str, Any], plan: Plan, counts: Counts) -> bytes:
    content = {**facts, "parts": len(plan.parts), "counts": asdict(counts)}
    return f"{json.dumps(content, ensure_ascii=False, indent=1)}\n".encode()
