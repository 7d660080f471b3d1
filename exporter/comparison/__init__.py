"""compare(): whether vectors that one side has made can be searched with another one.

A side is a bundle, a server, or vectors that were written. The path of a comparison:

    sides.py     open both                        npy.py      files of one array
    servers.py   a server                         texts.py    the texts of rows
    rows.py      two matrices of the same texts   summary.py  Markdown
    stored.py    codes and bits to numbers
    judging.py   searches, statistics, verdicts   search.py   exact search, in blocks
    bounds.py    what two gates allow together    speed.py    both in turns
    report.py    Comparison

Neighbors within A and within B may agree although no query of B finds anything in A: a rotation of all vectors changes
no similarity within. So queries of each side are searched in the vectors of the other.

Besides the vectors that are compared (``options.rows`` of them), memory does not grow with files: they are read in
blocks of rows. Neither torch nor the checkpoint is needed.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from exporter.comparison.judging import judged, judged_sts, mismatch, norms_of, note_on_norms, usable_rows
from exporter.comparison.options import CompareOptions, Watcher
from exporter.comparison.report import Comparison, Side
from exporter.comparison.rows import Compared, compared_rows
from exporter.comparison.search import Metric
from exporter.comparison.sides import AnySide, BundleSide, FileSide, OpenServer, opened_side
from exporter.comparison.speed import measured_speed
from exporter.errors import GateError, InputError
from exporter.recipe import Gate
from exporter.runtime.contract import VectorType
from exporter.targets import Precision
from exporter.validator import Check
from exporter.validator.sts import StsScore, correlate, read_sts

__all__ = ["CompareOptions", "Comparison", "Watcher", "compare"]


def compare(
    a: str,
    b: str,
    options: CompareOptions,
    open_servers: tuple[OpenServer, OpenServer],
    watcher: Watcher,
) -> Comparison:
    """Compare two sides.

    Args:
        a: Folder of a bundle, URL of a server, a file of vectors or a folder of them.
        b: The other.
        options: How.
        open_servers: What opens a URL, for A and for B.
        watcher: Who is told about progress.

    Returns:
        The comparison, passed or not.

    Raises:
        InputError: A side or a text cannot be used, or there are too few rows.
        BundleError: A bundle is damaged.
        ServerError: A server cannot be reached, or refuses.
        GateError: No row is finite on both sides.
        MissingDependencyError: A package for a side is not installed.
    """
    with ExitStack() as stack:
        watcher.on_stage("opening A and B")
        first, second = (
            stack.enter_context(opened_side(given, options, open_server))
            for given, open_server in zip((a, b), open_servers, strict=True)
        )
        if options.require_signature and not (isinstance(first, BundleSide) or isinstance(second, BundleSide)):
            raise InputError(
                "`require_signature` is given, and only bundles have a signature: neither A nor B is one",
                next_step="leave it out",
            )
        _settle(first, second)
        if options.sts and (isinstance(first, FileSide) or isinstance(second, FileSide)):
            raise InputError("`sts` is given, and vectors in a file encode nothing", next_step="leave it out")
        first.side, second.side = _sharing(first.side, second.side), _sharing(second.side, first.side)
        notes = _known_before(first.side, second.side)
        for note in notes:
            watcher.on_note(note)
        watcher.on_stage("A and B encode the text" if not isinstance(first, FileSide) else "reading vectors")
        rows = compared_rows(first, second, options)
        watcher.on_stage("searching")
        return _compared(first, second, rows, notes, options, watcher)


def _compared(
    a: AnySide, b: AnySide, rows: Compared, notes: list[str], options: CompareOptions, watcher: Watcher
) -> Comparison:
    rows, finite, told = usable_rows(rows)
    if finite.failures and not rows.text.rows:
        raise GateError(f"no vector can be compared: {'; '.join(finite.failures)}", report={})
    notes += told
    metric = _metric(a, b, options, notes)
    sides = tuple(
        replace(
            side.side,
            dimension=documents.shape[1],
            dtype=_dtype(side, other),
            norms=norms_of(documents) if len(documents) else None,
            judged_as=_judged_as(side.side, _dtype(side, other), asked),
        )
        for side, other, documents, asked in zip((a, b), (b, a), rows.documents, options.precisions, strict=True)
    )
    first, second = sides
    gates = (_gate(a, first, options), _gate(b, second, options))
    found = judged(rows, first, second, gates, metric, options)
    scores = _scores(a, b, options)
    verdicts = (*found.verdicts, *judged_sts(scores, gates))
    checks = [finite, *_checks(first, second, passed=all(verdict.passed for verdict in verdicts))]
    notes += _notes(rows, first, second, gates, options)
    speed = None
    if options.speed and isinstance(a, BundleSide) and isinstance(b, BundleSide):
        watcher.on_stage("measuring speed")
        speed, reason = measured_speed(a, b, rows.text.labels, rows.text.source, options.threads)
        notes += [reason] if reason else []
    return Comparison(
        first, second, rows.text, found.parity, found.search, verdicts, tuple(checks), scores, speed, tuple(notes)
    )


def _settle(a: AnySide, b: AnySide) -> None:
    """Decide what type and dimension vectors in files have; the other side may tell codes from bits."""
    known = [None if isinstance(side, FileSide) else side.side.dimension for side in (a, b)]
    if isinstance(a, FileSide):
        a.settle(known[1])
    if isinstance(b, FileSide):
        b.settle(known[0])


def _sharing(side: Side, other: Side) -> Side:
    """Return a side with what the other says of the bundle that both have: a server of it, or vectors that it made."""
    if side.bundle is None or side.bundle != other.bundle:
        return side
    return replace(side, precision=side.precision or other.precision, checkpoint=side.checkpoint or other.checkpoint)


def _known_before(a: Side, b: Side) -> list[str]:
    """Return what stands against a search before anything is encoded."""
    encoded = "vectors" not in (a.kind, b.kind)  # or the other side adapts to the file
    reason = mismatch(a, b) if encoded or a.kind == b.kind else None
    told = [f"{reason}: no vector of one can be searched with the other"] if reason else []
    if _other_checkpoint(a, b):
        told.append(
            "A and B were made from other weight files: unless these hold the same weights, vectors of one cannot be "
            "searched with the other"
        )
    return told


def _other_checkpoint(a: Side, b: Side) -> bool:
    return a.checkpoint is not None and b.checkpoint is not None and a.checkpoint != b.checkpoint


def _dtype(side: AnySide, other: AnySide) -> VectorType:
    """Return the type that vectors of a side were compared in: what encodes adapts to a file."""
    return other.side.dtype if isinstance(other, FileSide) and not isinstance(side, FileSide) else side.side.dtype


def _judged_as(side: Side, dtype: VectorType, asked: Precision | None) -> Precision:
    """Return whose gate counts: float16 vectors of a float32 model are as exact as float16."""
    precision = asked or side.precision or Precision.FP16
    return Precision.FP16 if dtype == "float16" and precision is Precision.FP32 else precision


def _gate(opened: AnySide, side: Side, options: CompareOptions) -> Gate:
    """Return the bounds of a side: a bundle's own count where they are stricter."""
    minimum = options.minimum_gate
    if isinstance(opened, BundleSide) and side.judged_as is opened.side.precision:
        return minimum.gate_for(opened.bundle.manifest)
    return minimum.gates.of(side.judged_as)


def _metric(a: AnySide, b: AnySide, options: CompareOptions, notes: list[str]) -> Metric:
    if options.similarity is not None:
        return options.similarity
    stated = a.similarity or b.similarity
    if stated == "manhattan":
        notes.append("the model compares by Manhattan distance; neighbors were searched by Euclidean distance")
        return "euclidean"
    return stated or "cosine"


def _checks(a: Side, b: Side, *, passed: bool) -> list[Check]:
    """Return the checks on what the sides are: other weight files are no failure where their vectors agree."""
    reason = mismatch(a, b)
    checks = [
        Check("vectors", f"{a.dimension} dimensions, {a.dtype}", () if reason is None else (reason,)),
    ]
    if a.checkpoint is None or b.checkpoint is None:
        return [*checks, Check.skipped("checkpoint", "not both sides say what they were made from")]
    other = _other_checkpoint(a, b)
    told = () if not other or (passed and reason is None) else ("A and B were made from other checkpoints",)
    files = f"weight files {a.checkpoint[:12]} and {b.checkpoint[:12]}"
    return [*checks, Check("checkpoint", files, told)]


def _notes(rows: Compared, a: Side, b: Side, gates: tuple[Gate, Gate], options: CompareOptions) -> list[str]:
    text = rows.text
    notes = []
    if text.rows < min(text.rows_a, text.rows_b):
        notes.append(
            f"{text.rows:,} rows were compared of {text.rows_a:,} (A) and {text.rows_b:,} (B); among more texts, the "
            "nearest are nearer to each other, and fewer of them are found"
        )
    if rows.missing:
        notes.append(f"{rows.missing:,} rows of the sample are in one side only, and were left out")
    for name, side, asked in zip(("A", "B"), (a, b), options.precisions, strict=True):
        if side.precision is None and asked is None:
            notes.append(f"nothing says what {name} computes in: it is judged as {side.judged_as}")
    norms = note_on_norms(rows, a, gates)
    return [*notes, norms] if norms else notes


def _scores(a: AnySide, b: AnySide, options: CompareOptions) -> tuple[StsScore, ...]:
    if isinstance(a, FileSide) or isinstance(b, FileSide):
        return ()
    sets = [read_sts(path) for path in options.sts]
    return tuple(
        correlate(
            sts,
            (a.encode(sts.first, "text"), a.encode(sts.second, "text")),
            (b.encode(sts.first, "text"), b.encode(sts.second, "text")),
        )
        for sts in sets
    )
