"""Bulk embedding: a dataset in, a dataset with vectors out, and every row once.

    files.py     which files the input has          rows.py      their rows, in windows
    plan.py      parts: fixed ranges of rows        windows.py   a window of rows -> vectors
    places.py    a folder, or a prefix on a store   output.py    parts are written there and committed
    stores.py    errors of file systems             lease.py     the lock of a prefix
    scratch.py   folders that are filled
    worker.py    one process makes parts            sample.py    some vectors are encoded again
    cluster.py   workers on a Ray cluster           ray_actor.py what runs on its machines
    kuberay.py   a job for Ray on Kubernetes

A part is a function of its rows, the bundle and the options: whoever makes it, and however often, its vectors are the
same bytes. So a run that was interrupted goes on with the parts that are missing.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from exporter.bundle import Bundle
from exporter.corpus.cluster import REQUESTS_AT_ONCE, RayWorkers
from exporter.corpus.files import InputFile, input_files, takes_in
from exporter.corpus.job import Job, Workers
from exporter.corpus.options import EmbedEngine, EmbedOptions, OnError
from exporter.corpus.output import PLAN, SUCCESS, Output, PartManifest, schema_of, vector_type
from exporter.corpus.places import Place, opened_place, place_of
from exporter.corpus.plan import Identity, Part, Plan, make_plan, refuse_another, refuse_changed
from exporter.corpus.reading import columns_of
from exporter.corpus.results import Counts, Made, Sample, Seconds
from exporter.corpus.sample import sampled
from exporter.corpus.worker import Worker, bounded_threads, processor_of
from exporter.dependencies import require_all
from exporter.errors import BundleError, GateError, InputError, printable
from exporter.machine import cores
from exporter.runtime.facts import DOCUMENT_PROMPTS, first_prompt
from exporter.targets import Device

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
        tokens_per_second: Of the tokens that this run has encoded, padding left out.
        stages: Seconds by stage of this run, of all workers together.
        cpu_seconds_per_million_rows: Processor time of the workers; None where earlier runs have made everything.
        sample: The comparison at the end; None where nothing was to be written.
    """

    folder: str
    rows: int
    counts: Counts
    parts: int
    resumed: int
    seconds: float
    rows_per_second: float
    tokens_per_second: float
    stages: Seconds
    cpu_seconds_per_million_rows: float | None
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
        on_stage: Called with the name of what is done before there is a plan.
        on_parts: Called with the number of parts that have become complete.
    """

    on_plan: Callable[[Plan, Sequence[PartManifest]], None] = lambda *_: None
    on_counts: Callable[[Counts], None] = lambda _: None
    on_warning: Callable[[str], None] = lambda _: None
    on_stage: Callable[[str], None] = lambda _: None
    on_parts: Callable[[int], None] = lambda _: None


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
        InputError: The input cannot be read, a row of it cannot be encoded, the folder belongs to something else, or
            the bundle has no ranges for the type and the dimension of the vectors.
        GateError: A vector that was written is another than that of its text.
    """
    require_all(("fsspec", "pyarrow"))
    _refuse_options_of_clusters(options)
    if not out or not all(inputs):
        raise InputError(f"`{'inputs' if out else 'out'}` is empty", next_step="give a path or a URL")
    opened = _opened(bundle, options, progress)
    prompt_name = options.prompt_name or first_prompt(opened.manifest.encoder.prompts, DOCUMENT_PROMPTS)
    prompt = _prompt(opened, prompt_name)
    facts = _facts(opened, options, prompt)
    _refuse_missing_ranges(opened, options, facts["dimension"])
    files = input_files(inputs)
    _refuse_overlap(inputs, files, out)
    identity = Identity(opened.manifest.seal, _deciding(options, prompt), files)
    columns = columns_of(files, options.column, options.kept)
    schema = schema_of(columns, vector_type(options.dtype, facts["dimension"]), facts)
    gate = opened.manifest.recipe.gates.of(opened.manifest.engine.precision)
    job = Job(identity, columns, schema, prompt, gate, options)
    with opened_place(out, progress.on_warning) as place, _workers(job, opened, place, progress) as workers:
        started, output = time.perf_counter(), Output(place)
        plan, done = _plan(output, identity, options, progress)
        _refuse_recorded_faults(output, plan, done, options)
        progress.on_plan(plan, list(done.values()))
        counts = sum((manifest.counts for manifest in done.values()), Counts())
        made, sample = Made(), None
        if workers is not None:
            place.remove(SUCCESS)
            with _refusing_changes(identity, inputs, place.url):
                todo = [part for part in plan.parts if part not in done]
                made = workers.embed(todo, sampled(plan.parts), progress.on_counts)
            counts += made.counts
            sample = made.sample
            output.refuse_other_parts(plan)
            if not counts.encoded:
                progress.on_warning("no row has a vector" if counts.rows else "the input has no rows")
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
        tokens_per_second=made.counts.tokens / seconds,
        stages=made.seconds,
        cpu_seconds_per_million_rows=made.seconds.processor / made.counts.rows * 1e6 if made.counts.rows else None,
        sample=sample,
    )


@contextmanager
def _refusing_changes(identity: Identity, inputs: Sequence[str], where: str) -> Iterator[None]:
    """Look at the input once more at the end, also where a vector differs: its text may be another one now."""
    try:
        yield
    except GateError:
        refuse_changed(identity, input_files(inputs), where)
        raise
    refuse_changed(identity, input_files(inputs), where)


def _workers(
    job: Job, bundle: Bundle, place: Place, progress: Progress
) -> AbstractContextManager[Workers] | AbstractContextManager[None]:
    """Return those who make the parts; nobody on a dry run."""
    if job.options.dry_run:
        return nullcontext()
    if job.options.engine is EmbedEngine.RAY:
        on_processor = partial(_warn_of_another_processor, bundle, progress)
        return RayWorkers.opened(job, bundle, place, progress.on_warning, on_processor, progress.on_parts)
    return _own_worker(job, bundle, place, progress)


@contextmanager
def _own_worker(job: Job, bundle: Bundle, place: Place, progress: Progress) -> Iterator[Worker]:
    threads = job.options.threads
    with (
        nullcontext() if threads is None else bounded_threads(threads),
        Worker.opened(job, bundle, place, threads=threads or cores(), on_parts=progress.on_parts) as worker,
    ):
        yield worker


def _opened(bundle: Path, options: EmbedOptions, progress: Progress) -> Bundle:
    encodes = options.engine is EmbedEngine.LOCAL and not options.dry_run
    opened = Bundle.open(bundle, require_signature=options.require_signature, for_encoding=encodes)
    if not opened.validated:
        raise BundleError(f"{bundle}: has not been validated", next_step="validate it and record the result first")
    if encodes:
        _warn_of_another_processor(opened, progress, processor_of(opened.manifest.validation.device))
    return opened


def _warn_of_another_processor(bundle: Bundle, progress: Progress, processor: str) -> None:
    """Warn where a GPU, or without one a processor, is not of the kind that the bundle has passed its gate on."""
    proven = (bundle.record or bundle.manifest).machine
    gpu = proven.get("gpu")
    if bundle.manifest.validation.device is Device.CUDA:
        stated = gpu.get("name") if isinstance(gpu, dict) else None
    else:
        stated = proven.get("processor")
    if stated != processor:
        named = "hardware that it does not name" if stated is None else printable(str(stated))
        progress.on_warning(f"the bundle was validated on {named}, and not on {processor}: validate it there too")


def _refuse_options_of_clusters(options: EmbedOptions) -> None:
    defaults = EmbedOptions()
    given = [name for name in _OF_CLUSTERS if getattr(options, name) != getattr(defaults, name)]
    if options.engine is EmbedEngine.LOCAL and given:
        raise InputError(f"`{given[0]}` is for a cluster", next_step="add `engine=ray`, or leave it out")


def _refuse_missing_ranges(bundle: Bundle, options: EmbedOptions, dimension: int) -> None:
    """Refuse codes of vectors that the bundle has no ranges for, before an old output is removed."""
    if not options.normalize or options.dtype not in ("int8", "uint8"):
        return
    known = sorted(bundle.ranges().normalized)
    if dimension not in known:
        raise InputError(
            f"the bundle has no ranges for {options.dtype} codes of normalized vectors of {dimension} dimensions",
            next_step=f"choose a `truncate_dim` that it has them for ({', '.join(map(str, known))}), or leave out "
            "`normalize`",
        )


def _refuse_overlap(inputs: Sequence[str], files: Sequence[InputFile], out: str) -> None:
    """Refuse an output in the input, whose parts would be read, and an input in the output, which could be removed.

    Raises:
        InputError: One lies in the other, or there is no file system for ``out``.
    """
    folder = place_of(out).url.rstrip("/")
    if any(takes_in(given, out) for given in inputs):
        raise InputError(f"{out}: lies in the input", next_step="choose another `out`")
    for file in files:
        if (os.path.realpath(file.url) if file.is_local else file.url).startswith(f"{folder}/"):
            raise InputError(f"{file.url}: lies in the output {out}", next_step="choose another `out`")


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


def _plan(
    output: Output, identity: Identity, options: EmbedOptions, progress: Progress
) -> tuple[Plan, dict[Part, PartManifest]]:
    """Return the plan, and the parts that earlier runs have made."""
    plan = output.plan()
    if plan is None or not options.resume:
        progress.on_stage("reading the input")
        new = make_plan(identity, options.rows_per_part)
        if not options.dry_run:
            if plan is not None:
                progress.on_warning(f"removing what an earlier run has written: {len(plan.parts):,} parts")
                output.clear()
            output.place.write(PLAN, new.to_json())
        return new, {}
    refuse_another(plan.identity, identity, output.place.url)
    progress.on_stage("looking at the parts of earlier runs")
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as threads:
        found = list(threads.map(partial(output.committed, identity=identity), plan.parts))
    return plan, {part: made for part, made in zip(plan.parts, found, strict=True) if made is not None}


def _refuse_recorded_faults(
    output: Output, plan: Plan, done: Mapping[Part, PartManifest], options: EmbedOptions
) -> None:
    """Refuse to stop at rows that cannot be encoded, where an earlier run has recorded some."""
    if options.on_error is OnError.RECORD:
        return
    for part, manifest in done.items():
        if faults := manifest.counts.faults:
            told = ", ".join(f"{count:,} {fault}" for fault, count in sorted(faults.items()))
            raise InputError(
                f"{plan.identity.files[part.file].url}: an earlier run has recorded rows that cannot be encoded in "
                f"{output.place.url}/{part.name}: {told}",
                next_step="go on with `on_error=record`, or correct these rows and choose another `out`",
            )


def _facts(bundle: Bundle, options: EmbedOptions, prompt: str) -> dict[str, Any]:
    """Return what the metadata of every part says of its vectors."""
    facts = bundle.manifest.encoder
    if options.truncate_dim is not None and options.truncate_dim > facts.dimension:
        raise InputError(
            f"`truncate_dim` is {options.truncate_dim}, and the vectors have {facts.dimension} dimensions",
            next_step="choose fewer, or leave it out",
        )
    dimension = min([facts.dimension, *filter(None, (facts.truncate_dim, options.truncate_dim))])
    return {
        "bundle": bundle.manifest.seal,
        "recipe": bundle.manifest.recipe.name,
        "precision": str(bundle.manifest.engine.precision),
        "dimension": dimension,
        "dtype": options.dtype,
        "normalized": options.normalize or (facts.modules[-1:] == ("Normalize",) and dimension == facts.dimension),
        "similarity": facts.similarity,
        "prompt": prompt,
        "text_column": options.column,
    }


def _success(facts: dict[str, Any], plan: Plan, counts: Counts) -> bytes:
    content = {**facts, "parts": len(plan.parts), "counts": asdict(counts)}
    return f"{json.dumps(content, ensure_ascii=False, indent=1)}\n".encode()
