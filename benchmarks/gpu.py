"""Everything on one GPU: parity of every engine, then speed against sentence-transformers and against the floor.

    python -m benchmarks.gpu --sts korsts-dev.tsv

One machine, no network. What cannot run there is listed with the reason. Results are written model by model; a run that
was cut off goes on with ``--resume``. ``--device cpu --size small --results /tmp/results`` is a dry run anywhere.
"""

from __future__ import annotations

import gc
import json
import re
import time
import traceback
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils.logging import disable_progress_bar

from benchmarks.floor import Ceilings, Size, measure_ceilings, size_of
from benchmarks.gpu_report import PROMISED_OF, render
from benchmarks.gpu_subjects import (
    ENGINES,
    TORCH_SUBJECTS,
    EngineSubject,
    Graphs,
    NumPy,
    Subject,
    open_engine,
    open_torch,
)
from benchmarks.results import arguments, twin, twin_recipe, work_folder
from benchmarks.sentences import add_text_options, sentences_of
from exporter.benchmark import evenly_spread, measure
from exporter.checkpoint import Checkpoint, load_checkpoint
from exporter.engines.cuda import find_gpu
from exporter.engines.cuda_graphs import GRAPH_AFTER
from exporter.errors import ExportError, first_line
from exporter.machine import machine, tool_versions
from exporter.recipe import load_recipe
from exporter.runtime.token_encoder import TOKENS_PER_ROW
from exporter.runtime.tokens import TextTokenizer, batches_by_length
from exporter.validator import Reference, validate
from exporter.validator.parity import compare
from exporter.validator.reference import format_loss_of, reference_of
from tests.support.twins import MEASURED

TOOLS = (
    "korsbert",
    "torch",
    "transformers",
    "sentence-transformers",
    "onnx",
    "onnxruntime-gpu",
    "onnxruntime",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "polygraphy",
    "flash-attn",
    "triton",
    "numpy",
)
SINGLES = 64  # sentences that are encoded alone in each round
SINGLE_ROUNDS = 3
WARM_UPS = GRAPH_AFTER + 1  # times all of the text is encoded before it is timed: what comes again is then captured
INPUT_SETS = 4  # rotated, so that no batch finds its own ids in a cache
BATCH_SIZES = (256, 32, 1)  # what needs the least time comes first
GRID_ROWS = (1, 8, 32, 128)
GRID_TOKENS = (32, 128, 256)


def main() -> None:
    """Measure each model asked for, and write JSON and Markdown to the results after each."""
    options = _options()
    disable_progress_bar()
    data = _begin(options)
    ceilings = Ceilings(**data["ceilings"])
    for name in options.model or sorted(MEASURED, key=lambda name: name != PROMISED_OF):  # what counts most comes first
        if data["models"].get(name, {}).get("complete"):
            print(f"{name}: measured already", flush=True)
            continue
        if time.monotonic() > options.until:
            print(f"{name}: out of time; --resume goes on", flush=True)
            break
        data["models"][name] = {}
        with work_folder(options.work) as work, _survived(name, data["models"][name]):
            for _ in _measure_model(name, data["models"][name], ceilings, options, work):
                _write(data, options.results)
            data["models"][name]["complete"] = True
        _write(data, options.results)
    print((options.results / f"{_name(data)}.md").read_text(encoding="utf-8"))


def _options() -> Namespace:
    parser = arguments(str(__doc__).splitlines()[0])
    add_text_options(parser)
    parser.add_argument("--model", action="append", choices=(*MEASURED, "demo"), help="by default all; repeatable")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu is a dry run")
    parser.add_argument("--sentences", type=int, default=1024, help="how many, evenly spread over the text")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds of the sentences; the median counts")
    parser.add_argument("--repeats", type=int, default=20, help="counted runs of each fixed shape")
    parser.add_argument("--subject", action="append", metavar="REGEX", help="only those whose name it is found in")
    parser.add_argument("--probes", type=int, default=10_000, help="judge by so many probes at most, for a dry run")
    parser.add_argument("--resume", action="store_true", help="keep what the results hold of this machine")
    parser.add_argument("--limit-s", type=float, default=float("inf"), help="begin no further model after so long")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; --device cpu --size small is a dry run")
    options.until = time.monotonic() + options.limit_s
    return options


def _begin(options: Namespace) -> dict[str, Any]:
    """Return the results so far, or new ones with the machine's facts and the two rates of its floor."""
    gpu = find_gpu() if options.device == "cuda" else None
    facts = {
        "device": options.device,
        "size": options.size,
        "gpu": None if gpu is None else asdict(gpu),
        "machine": machine(),
        "tools": tool_versions(TOOLS),
    }
    path = options.results / f"{_name(facts)}.json"
    if options.resume and path.is_file():
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if any(data.get(key) != value for key, value in facts.items()):
            raise SystemExit(f"{path}: of another machine, size or versions; without --resume it is replaced")
        return data
    return {**facts, "ceilings": asdict(measure_ceilings(options.device)), "models": {}}


def _name(data: dict[str, Any]) -> str:
    """Return what the files of results are called: ``gpu-nvidia-h200``, and ``gpu`` for a dry run."""
    words = "" if data["gpu"] is None else data["gpu"]["name"].lower()
    return "-".join(["gpu", *re.findall(r"[a-z0-9]+", words)])


def _write(data: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = _name(data)
    partial = folder / f".{name}.partial"
    partial.write_text(json.dumps(data, ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(folder / f"{name}.json")
    (folder / f"{name}.md").write_text(render(data), encoding="utf-8")


def _measure_model(
    name: str, result: dict[str, Any], ceilings: Ceilings, options: Namespace, work: Path
) -> Iterator[None]:
    """Fill ``result`` step by step, and yield after each step what there is to write."""
    recipe = load_recipe(twin_recipe(name, options.size, work))
    folder = twin(name, options.size, work)
    checkpoint = load_checkpoint(recipe, folder=folder, device=options.device)
    reference = _with_format_losses(_fewer(reference_of(checkpoint), options.probes), checkpoint)
    size = size_of(checkpoint.model[0].auto_model.config, _layer_weights(checkpoint))
    sentences = evenly_spread(sentences_of(options), options.sentences)
    tokenizer = TextTokenizer(checkpoint.tokenizer)
    rows = dict(zip(sentences, tokenizer.ids([checkpoint.facts.prompt + text for text in sentences]), strict=True))
    result.update(_text_facts(options, sentences, list(rows.values())), size=asdict(size), subjects={}, grid=[])
    graphs = Graphs(checkpoint, reference)
    subjects: dict[str, Subject] = {}
    for label, opener in _openers(folder, checkpoint, graphs, recipe, options, work):
        facts: dict[str, Any] = {}
        result["subjects"][label] = facts
        with _survived(label, facts):
            before = _free_bytes(options.device)
            subject = opener()
            facts["gate"] = _judge(subject, reference, recipe, label)
            subject.encode(sentences, max(BATCH_SIZES))
            facts |= {"execution": subject.execution, "memory_mib": _used_mib(before, options.device)}
            facts["min_cosine"] = _min_cosine(subject, reference)
            subjects[label] = subject
        yield
    try:
        yield from _measure_sentences(subjects, sentences, rows, tokenizer, result, options)
        yield from _measure_grid(subjects, checkpoint, size, ceilings, result, options)
    finally:
        for label, subject in subjects.items():
            result["subjects"][label]["execution"] = subject.execution
            subject.close()
        subjects.clear()
        torch.compiler.reset()
        _collect(options.device)


def _openers(
    folder: Path, checkpoint: Checkpoint, graphs: Graphs, recipe: Any, options: Namespace, work: Path
) -> Iterator[tuple[str, Any]]:
    """Yield a name and a function that opens it for every subject asked for."""
    wanted = options.subject or [""]
    for spec in TORCH_SUBJECTS:
        if any(re.search(part, spec.name) for part in wanted):
            yield spec.name, lambda spec=spec: open_torch(spec, folder, options.device)
    for backend, precision in ENGINES:
        label = f"korsbert {backend} {precision}"
        if any(re.search(part, label) for part in wanted):
            place = work / "engines" / f"{folder.name}-{backend}-{precision}"
            yield (
                label,
                lambda b=backend, p=precision, f=place: open_engine(
                    b, p, graphs, checkpoint, recipe, f, options.device
                ),
            )


@contextmanager
def _survived(label: str, facts: dict[str, Any]) -> Iterator[None]:
    """Note why a subject is not there, and go on: one that breaks must not take the others' results along."""
    print(f"{label} ...", flush=True)
    started = time.monotonic()
    try:
        yield
        facts["status"] = "measured"
    except ExportError as error:
        facts["status"] = f"unavailable: {error.message}"
    except Exception as error:  # noqa: BLE001
        facts["status"] = f"failed: {type(error).__name__}: {first_line(error)}"
        traceback.print_exc()
    print(f"{label}: {facts['status']} ({time.monotonic() - started:.0f} s)", flush=True)


def _judge(subject: Subject, reference: Reference, recipe: Any, label: str) -> str:
    """Hold an engine against its recipe's gate; what is no engine of ours has none."""
    if not isinstance(subject, EngineSubject):
        return ""
    report = validate(reference, subject.encoder, recipe.gates.of(subject.precision), label, subject.precision)
    failed = "; ".join(str(verdict) for verdict in report.verdicts if not verdict.passed)
    return f"failed: {failed}" if failed else "passed"


def _min_cosine(subject: Subject, reference: Reference) -> float:
    vectors = subject.encode(reference.texts, 32)
    return float(np.nan_to_num(compare(reference.vectors, vectors, reference.token_ids).cosine, nan=-1.0).min())


def _measure_sentences(
    subjects: dict[str, Subject],
    sentences: list[str],
    rows: dict[str, list[int]],
    tokenizer: TextTokenizer,
    result: dict[str, Any],
    options: Namespace,
) -> Iterator[None]:
    """Time real sentences at every batch size, from strings and from token ids, all subjects in turns."""
    result["sentences_measured"] = []
    if not subjects:
        return
    for batch_size in BATCH_SIZES:
        text = evenly_spread(sentences, min(len(sentences), SINGLES) if batch_size == 1 else len(sentences))
        for origin in ("strings", "token ids"):
            encoders = {
                label: subject.encode if origin == "strings" else _from_ids(subject, rows, tokenizer)
                for label, subject in subjects.items()
            }
            encoders = _working(encoders, text, batch_size, result["subjects"])
            if not encoders:
                continue
            singles = len(text) if batch_size == 1 else 1
            rounds = min(options.rounds, SINGLE_ROUNDS) if batch_size == 1 else options.rounds
            timed = measure(encoders, text, batch_size=batch_size, rounds=rounds, singles=singles)
            real = sum(len(rows[sentence]) for sentence in text)
            result["sentences_measured"].append(
                {
                    "batch_size": batch_size,
                    "from": origin,
                    "subjects": [
                        {**one.to_dict(), "tokens_per_s": round(one.sentences_per_s * real / len(text), 1)}
                        for one in timed
                    ],
                }
            )
            yield


def _working(
    encoders: dict[str, Any], text: list[str], batch_size: int, facts: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Return the encoders that get through the text, warmed up; the others' facts say what stopped them."""
    working = {}
    for label, encode in encoders.items():
        try:
            for _ in range(WARM_UPS):
                encode(text, batch_size)
        except (ExportError, RuntimeError) as error:  # torch's own running out of memory is a RuntimeError
            facts[label][f"at batch {batch_size}"] = f"failed: {first_line(error)}"
        else:
            working[label] = encode
    return working


def _from_ids(subject: Subject, rows: dict[str, list[int]], tokenizer: TextTokenizer) -> Any:
    """Return an encoder that has tokenized already: what is left is to sort, pad and compute."""

    def encode(sentences: list[str], batch_size: int) -> None:
        ids = [rows[sentence] for sentence in sentences]
        lengths = [len(row) for row in ids]
        for batch in batches_by_length(lengths, batch_size=batch_size, token_budget=batch_size * TOKENS_PER_ROW):
            subject.run(*tokenizer.pad([ids[row] for row in batch]))

    return encode


def _measure_grid(
    subjects: dict[str, Subject],
    checkpoint: Checkpoint,
    size: Size,
    ceilings: Ceilings,
    result: dict[str, Any],
    options: Namespace,
) -> Iterator[None]:
    """Time full batches of fixed lengths, all subjects in turns, inputs rotated."""
    rng = np.random.default_rng(0)
    for tokens in GRID_TOKENS:
        if tokens > checkpoint.facts.max_seq_length:
            continue
        for rows in GRID_ROWS:
            sets = [_random_batch(rng, rows, tokens, checkpoint) for _ in range(INPUT_SETS)]
            cell: dict[str, Any] = {"rows": rows, "tokens": tokens, "subjects": {}}
            result["grid"].append(cell)
            taken_ms: dict[str, list[tuple[float, float]]] = {label: [] for label in subjects}
            for repeat in range(-INPUT_SETS, options.repeats):  # a warm-up with each of the sets
                for label, subject in subjects.items():
                    if label in cell["subjects"]:
                        continue  # it broke at this shape
                    try:
                        timed = subject.timed_ms(*sets[repeat % INPUT_SETS])
                    except (ExportError, RuntimeError) as error:
                        cell["subjects"][label] = {"status": f"failed: {first_line(error)}"}
                        continue
                    if repeat >= 0:
                        taken_ms[label].append(timed)
            for label, pairs in taken_ms.items():
                if label not in cell["subjects"]:
                    floor_ms = ceilings.floor_ms(size, rows, tokens, subjects[label].matrix_type)
                    cell["subjects"][label] = _grid_figures(pairs, rows, tokens, floor_ms)
            yield


def _grid_figures(pairs: Sequence[tuple[float, float]], rows: int, tokens: int, floor_ms: float) -> dict[str, float]:
    device_ms, wall_ms = (np.array(column) for column in zip(*pairs, strict=True))
    p50_ms = float(np.median(device_ms))
    return {
        "p50_ms": round(p50_ms, 4),
        "p99_ms": round(float(np.percentile(device_ms, 99)), 4),
        "wall_p50_ms": round(float(np.median(wall_ms)), 4),
        "sentences_per_s": round(1000 * rows / p50_ms, 1),
        "tokens_per_s": round(1000 * rows * tokens / p50_ms, 1),
        "floor_ms": round(floor_ms, 4),
        "of_floor": round(floor_ms / p50_ms, 4),
    }


def _random_batch(rng: np.random.Generator, rows: int, tokens: int, checkpoint: Checkpoint) -> tuple[NumPy, NumPy]:
    vocabulary = checkpoint.model[0].auto_model.config.vocab_size
    ids = rng.integers(checkpoint.pad_token_id + 5, vocabulary, (rows, tokens), dtype=np.int64)
    return ids, np.ones_like(ids)


def _text_facts(options: Namespace, sentences: list[str], rows: list[list[int]]) -> dict[str, Any]:
    """Return what the text is, none of it, and how much of our batches of it is padding."""
    lengths = [len(row) for row in rows]
    source = options.sts or options.text
    return {
        "text": source.name if source else "the calibration sentences that ship",
        "sentences": len(sentences),
        "tokens_per_sentence": round(float(np.mean(lengths)), 2),
        "longest": max(lengths),
        "padding_share": {str(size): round(padding_share(lengths, size), 4) for size in BATCH_SIZES},
        "padding_share_unsorted": {str(size): round(_unsorted_padding(lengths, size), 4) for size in BATCH_SIZES},
    }


def padding_share(lengths: Sequence[int], batch_size: int) -> float:
    """Return the share of padding among all tokens that our batches, sorted by length, put through a model."""
    batches = batches_by_length(lengths, batch_size=batch_size, token_budget=batch_size * TOKENS_PER_ROW)
    padded = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)
    return 1 - sum(lengths) / padded


def _unsorted_padding(lengths: Sequence[int], batch_size: int) -> float:
    """Return the same for batches in the order of the text."""
    batches = [lengths[start : start + batch_size] for start in range(0, len(lengths), batch_size)]
    return 1 - sum(lengths) / sum(len(batch) * max(batch) for batch in batches)


def _layer_weights(checkpoint: Checkpoint) -> int:
    """Count the weights that every token passes: all but embedding tables and what no vector depends on."""
    named = checkpoint.model[0].auto_model.named_parameters()  # shared ones once
    return sum(
        value.numel()
        for name, value in named
        if not (("embeddings." in name and name.endswith("embeddings.weight")) or name.startswith("pooler."))
    )


def _fewer(reference: Reference, count: int) -> Reference:
    if count >= len(reference.probes):
        return reference
    return Reference(reference.probes[:count], reference.vectors[:count], reference.token_ids[:count], reference.sts)


def _with_format_losses(reference: Reference, checkpoint: Checkpoint) -> Reference:
    """Return the reference with what PyTorch itself loses in 16 bits, which widens a gate as it does in an export."""
    probes = (reference.texts, reference.vectors, reference.token_ids)
    losses = {name: format_loss_of(checkpoint, name, *probes) for name in ("fp16", "bf16")}
    return replace(reference, format_losses={name: loss for name, loss in losses.items() if loss is not None})


def _free_bytes(device: str) -> int:
    _collect(device)
    return torch.cuda.mem_get_info()[0] if device == "cuda" else 0


def _used_mib(free_before: int, device: str) -> float | None:
    """Return how much less of the GPU is free, in MiB; None on a CPU."""
    return round((free_before - torch.cuda.mem_get_info()[0]) / 2**20, 1) if device == "cuda" else None


def _collect(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
