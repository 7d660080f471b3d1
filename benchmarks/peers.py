"""korsbert beside every peer on a CPU: speed by class of precision, parity, and the share of what the machine can do.

    python -m benchmarks.peers --work FOLDER --sts korsts-dev.tsv

Peers have environments of their own (`requirements/`), which this command makes. Each contender is a process that has
loaded the model and takes turns with the others. What cannot be installed or refuses a model is listed with the reason.
A run with ``--model`` replaces the results of those models and keeps the others.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from benchmarks.corpora import MINILM, checkpoint_of
from benchmarks.peer import PeerError
from benchmarks.peer_contenders import CONTENDERS, REFERENCE, Contender, Step, prepare, start
from benchmarks.peer_operations import Shape, shape_of
from benchmarks.peer_programs import Job, max_seq_length, transformer_folder
from benchmarks.peer_report import publish_models, summarized
from benchmarks.peer_turns import PeerWorker, groups, take_turns
from benchmarks.processes import run_to_success
from benchmarks.results import arguments, full_checkpoint, revision, work_folder
from exporter.benchmark import evenly_spread
from exporter.calibration import calibration_sentences
from exporter.machine import machine
from exporter.validator.sts import read_sts

BATCH = 32
SHORT, LONG = "short", "long"


@dataclass(frozen=True)
class Model:
    """A model that is measured.

    Attributes:
        like: What it is.
        seeded: Whether its weights are: then cosines of int8 say nothing about a published model.
        long_tokens: Tokens of a text of the long set.
        calibration: Sentences that int8 is calibrated with, and korsbert's search judges by.
    """

    like: str
    seeded: bool = True
    long_tokens: int = 256
    calibration: int = 64


MODELS = {
    MINILM: Model("all-MiniLM-L6-v2, real weights", seeded=False, calibration=300),
    "klue-sroberta": Model("BERT-base, the twin of a Korean RoBERTa", long_tokens=128),
    "xlm-roberta-large": Model("the size of XLM-R large", long_tokens=128),
    "modernbert": Model("the size of ModernBERT-base"),
}
FULL = ("xlm-roberta-large", "modernbert")
SMALL_CALIBRATION = 12


@dataclass
class Text:
    """A set of texts.

    Attributes:
        all: In order.
        alone: What is encoded one by one in each turn.
        tokens: Of each text in the block, special tokens included.
        block: What is encoded in batches in each turn.
        fitted: Whether the block was shortened to what the reference encodes in about ``--block-s``.
    """

    all: list[str]
    alone: list[str]
    tokens: list[int]
    block: list[str]
    fitted: bool = False

    def shorten(self, batches: int) -> None:
        """Keep so many batches, evenly spread."""
        count = min(batches * BATCH, len(self.all))
        rows = [place * len(self.all) // count for place in range(count)]
        self.block, self.tokens = [self.all[row] for row in rows], [self.tokens[row] for row in rows]
        self.fitted = True


def main() -> None:
    """Measure each model and write ``peers`` after each."""
    parser = arguments(str(__doc__).splitlines()[0])
    text = parser.add_mutually_exclusive_group()
    text.add_argument("--sts", type=Path, metavar="FILE", help="take the sentences of an STS set, KorSTS for example")
    text.add_argument("--text", type=Path, metavar="FILE", help="one sentence a line; by default the calibration text")
    parser.add_argument("--model", action="append", choices=MODELS, help="by default all; repeatable")
    names = [contender.name for contender in CONTENDERS]
    parser.add_argument("--only", action="append", choices=names, help="with the reference; repeatable; by default all")
    parser.add_argument("--threads", type=int, default=2, help="of every library")
    parser.add_argument("--minutes", type=float, default=12, help="for the rounds of one model, 3 or more")
    parser.add_argument("--block-s", type=float, default=1.0, help="about what the reference needs in a turn")
    parser.add_argument("--alone", type=int, default=12, help="sentences that are encoded one by one in a turn")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    sentences = _sentences(options)
    for name in options.model or MODELS:
        with work_folder(options.work) as work:
            publish_models(options.results, name, _measure_model(name, sentences, options, work), MODELS)


def _sentences(options: Namespace) -> list[str]:
    """Return the different sentences of the text, in order."""
    if options.sts is None:
        return list(dict.fromkeys(calibration_sentences(options.text, probes=())))
    pairs = read_sts(options.sts)
    return list(dict.fromkeys(sentence for pair in zip(pairs.first, pairs.second, strict=True) for sentence in pair))


def _measure_model(name: str, sentences: list[str], options: Namespace, work: Path) -> dict[str, Any]:
    """Return everything that was found of a model, as JSON data."""
    checkpoint = _checkpoint(name, options.size, work)
    texts = _texts(checkpoint, sentences, MODELS[name].long_tokens, options.alone)
    job_of = _jobs(name, checkpoint, options, work)
    chosen = [one for one in CONTENDERS if one.name == REFERENCE or not options.only or one.name in options.only]
    refused: dict[str, str] = {}
    failed: dict[Step, str] = {}
    began = time.perf_counter()
    for contender in chosen:
        try:
            prepare(contender, job_of, work, failed)
        except PeerError as error:
            refused[contender.name] = str(error)
            print(f"{contender.name}: {error}", flush=True)
    prepared_s = time.perf_counter() - began
    shape = shape_of(checkpoint)
    ceilings = [_ceilings(options)]
    able = [contender for contender in chosen if contender.name not in refused]
    parts = groups(able, 4 * shape.parameters, _memory_bytes())
    rows: dict[str, dict[str, Any]] = {}
    for part in parts:
        with ExitStack() as stack:
            workers, versions = _workers(part, job_of, work, refused, stack)
            if REFERENCE not in workers:
                sys.exit(f"{REFERENCE} cannot be measured: {refused[REFERENCE]}")
            budget_s = 60 * options.minutes / len(parts) / len(texts)
            found = _measure_group(workers, texts, shape, refused, options, budget_s)
        rows |= {row: {**values, "versions": versions[row]} for row, values in found.items() if row not in rows}
    ceilings.append(_ceilings(options))
    return {
        "like": MODELS[name].like,
        "size": options.size,
        "revision": revision(),
        "processor": machine()["processor"],
        "text": (options.sts or options.text).name if options.sts or options.text else "the calibration sentences",
        "threads": options.threads,
        "batch_size": BATCH,
        "texts": {
            kind: {"sentences": len(text.block), "tokens": round(float(np.mean(text.tokens)), 1)}
            for kind, text in texts.items()
        },
        "prepared_s": round(prepared_s),
        "measured_s": round(time.perf_counter() - began - prepared_s),
        "groups": [[contender.name for contender in part] for part in parts],
        "parameters": shape.parameters,
        "linear_weights": shape.linear_weights,
        "ceilings": ceilings,
        "rows": [{"name": one.name, "class": one.kind, **rows[one.name]} for one in chosen if one.name in rows],
        "refused": {one.name: refused[one.name] for one in chosen if one.name in refused},
        "not_chosen": [one.name for one in CONTENDERS if one not in chosen],
    }


def _checkpoint(name: str, size: str, work: Path) -> Path:
    return full_checkpoint(name, work, small=size == "small") if name in FULL else checkpoint_of(name, work, size)


def _texts(checkpoint: Path, sentences: list[str], long_tokens: int, alone: int) -> dict[str, Text]:
    """Return both sets: the sentences, and texts of several sentences in a row."""
    tokenizer = Tokenizer.from_file(str(transformer_folder(str(checkpoint)) / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    limit = max_seq_length(str(checkpoint))

    def counts(texts: list[str]) -> list[int]:
        return [min(len(encoding.ids), limit) for encoding in tokenizer.encode_batch(texts)]

    per_sentence = np.array(counts(sentences))
    passages, start = [], 0
    while start < len(sentences):
        ends = np.cumsum(per_sentence[start:])
        count = max(1, int(np.searchsorted(ends, min(long_tokens, limit), side="right")))
        passages.append(" ".join(sentences[start : start + count]))
        start += count
    chosen = {SHORT: evenly_spread(sentences, 8 * BATCH), LONG: evenly_spread(passages, 8 * BATCH)}
    return {kind: Text(texts, evenly_spread(texts, alone), counts(texts), texts) for kind, texts in chosen.items()}


def _jobs(name: str, checkpoint: Path, options: Namespace, work: Path) -> Callable[[Contender | Step], Job]:
    """Return what makes the job of a contender or of a step.

    korsbert's files are kept by revision, and made anew where the checkout has other changes.
    """
    text = work / f"calibration-{name}-{options.size}.txt"
    count = SMALL_CALIBRATION if options.size == "small" else MODELS[name].calibration
    text.write_text("\n".join(evenly_spread(list(calibration_sentences(None, probes=())), count)), encoding="utf-8")
    home = work / "peers" / f"{name}-{options.size}"
    own = f"korsbert-{revision()}"  # once: files may change meanwhile
    if own.endswith("-dirty"):
        shutil.rmtree(home / own, ignore_errors=True)

    def job_of(place: Contender | Step) -> Job:
        folder = home / (own if place.folder == "korsbert" else place.folder)
        libraries = place.libraries if isinstance(place, Contender) else ()
        return Job(str(checkpoint), str(folder), place.variant, options.threads, str(text), libraries)

    return job_of


def _workers(
    part: Sequence[Contender],
    job_of: Callable[[Contender | Step], Job],
    work: Path,
    refused: dict[str, str],
    stack: ExitStack,
) -> tuple[dict[str, PeerWorker], dict[str, dict[str, str]]]:
    """Start the processes of a group, one after the other. Those that cannot load the model are added to ``refused``.

    Returns:
        The workers, and the versions of their libraries, by name.
    """
    workers: dict[str, PeerWorker] = {}
    versions: dict[str, dict[str, str]] = {}
    for contender in part:
        print(f"{contender.name}: loading", flush=True)
        try:
            peer = stack.enter_context(start(contender, "serve", job_of(contender), work))
            versions[contender.name] = peer.answer()
        except PeerError as error:
            refused[contender.name] = str(error)
            print(f"{contender.name}: {error}", flush=True)
            continue
        workers[contender.name] = PeerWorker(peer)
    return workers, versions


def _measure_group(
    workers: dict[str, PeerWorker],
    texts: Mapping[str, Text],
    shape: Shape,
    refused: dict[str, str],
    options: Namespace,
    budget_s: float,
) -> dict[str, dict[str, Any]]:
    """Measure workers in turns on each text. A worker that fails is removed, and added to ``refused``.

    Returns:
        The rows by name: by text, the figures.
    """
    rows: dict[str, dict[str, Any]] = {}
    for kind, text in texts.items():
        if not text.fitted:
            first = workers[REFERENCE].seconds(text.all[:BATCH], BATCH)
            text.shorten(min(max(round(options.block_s / first), 1), len(text.all) // BATCH or 1))
        cosines = _min_cosines(workers, text.block, refused)
        turns = take_turns(
            workers,
            text.block,
            text.alone,
            batch_size=BATCH,
            budget_s=budget_s,
            tell=lambda said, kind=kind: print(f"{kind} texts: {said}", flush=True),  # type: ignore[misc]
        )
        for name, why in turns.failed.items():
            refused[name] = why
            del workers[name]
        work = sum(shape.operations(tokens) for tokens in text.tokens)
        for name, times in turns.times.items():
            found = summarized(times, turns.times[REFERENCE], len(text.block), work)
            rows.setdefault(name, {})[kind] = {**found, "min_cosine": cosines[name], "loads": turns.loads}
    return {name: row for name, row in rows.items() if name in workers}


def _min_cosines(workers: dict[str, PeerWorker], texts: list[str], refused: dict[str, str]) -> dict[str, float]:
    """Return each worker's smallest cosine to the reference. A worker that fails is moved to ``refused``."""
    vectors: dict[str, npt.NDArray[np.float64]] = {}
    for name, worker in list(workers.items()):
        try:
            rows = worker.vectors(texts, BATCH).astype(np.float64)
        except PeerError as error:
            refused[name] = str(error)
            del workers[name]
            continue
        vectors[name] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return {name: float((vectors[REFERENCE] * rows).sum(axis=1).min()) for name, rows in vectors.items()}


def _ceilings(options: Namespace) -> dict[str, dict[str, float]]:
    """Measure the processor's rates, in a process of its own."""
    scale = ["--scale", "8"] if options.size == "small" else []
    command = [sys.executable, "-m", "benchmarks.matrix_rates", "--threads", str(options.threads), *scale]
    rates: dict[str, dict[str, float]] = json.loads(run_to_success(command).output)
    return rates


def _memory_bytes() -> int:
    """Return three quarters of the memory that is available."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024 * 3 // 4


if __name__ == "__main__":
    main()
