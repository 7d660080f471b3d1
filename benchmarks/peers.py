"""korsbert beside every peer on a CPU: speed by class of precision, parity, and the share of what the machine can do.

    python -m benchmarks.peers --work FOLDER --sts korsts-dev.tsv

Peers have environments of their own (`requirements/`), which this command makes. Each contender is a process that has
loaded the model and takes turns with the others. What cannot be installed or refuses a model is listed with the reason.
A run with ``--model`` replaces the results of those models and keeps the others. A run with ``--only`` measures a part
of a table, so it needs a folder of its own for ``--results``.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpora import MINILM, checkpoint_of
from benchmarks.operations import shape_of_checkpoint
from benchmarks.peer import PeerError
from benchmarks.peer_contenders import CONTENDERS, OWN, REFERENCE, Contender, Step, files_folder, prepare
from benchmarks.peer_group import measure_group, start_workers
from benchmarks.peer_programs import Job
from benchmarks.peer_report import publish_models
from benchmarks.peer_texts import BATCH, texts_of
from benchmarks.peer_turns import groups
from benchmarks.processes import run_to_success
from benchmarks.results import RESULTS, arguments, full_checkpoint, revision, work_folder
from benchmarks.sentences import add_text_options, sentences_of
from exporter.benchmark import evenly_spread
from exporter.calibration import calibration_sentences
from exporter.machine import machine


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


def main() -> None:
    """Measure each model and write ``peers`` after each."""
    parser = arguments(str(__doc__).splitlines()[0])
    add_text_options(parser)
    parser.add_argument("--model", action="append", choices=MODELS, help="by default all; repeatable")
    names = [contender.name for contender in CONTENDERS]
    parser.add_argument("--only", action="append", choices=names, help="with the reference; repeatable; by default all")
    parser.add_argument("--threads", type=int, default=2, help="of every library")
    parser.add_argument("--minutes", type=float, default=12, help="for the rounds of one model, 3 or more")
    parser.add_argument("--block-s", type=float, default=1.0, help="about what the reference needs in a turn")
    parser.add_argument("--alone", type=int, default=12, help="sentences that are encoded one by one in a turn")
    options = parser.parse_args()
    if options.only and options.results.resolve() == RESULTS.resolve():
        parser.error("--only would replace whole tables by a part of them; add --results with another folder")
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    sentences = sentences_of(options)
    for name in options.model or MODELS:
        with work_folder(options.work) as work:
            publish_models(options.results, name, _measure_model(name, sentences, options, work), MODELS)


def _measure_model(name: str, sentences: list[str], options: Namespace, work: Path) -> dict[str, Any]:
    """Return everything that was found of a model, as JSON data."""
    checkpoint = _checkpoint(name, options.size, work)
    texts = texts_of(checkpoint, sentences, MODELS[name].long_tokens, options.alone)
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
    shape, parameters = shape_of_checkpoint(checkpoint)
    ceilings = [_ceilings(options)]
    able = [contender for contender in chosen if contender.name not in refused]
    parts = groups(able, 4 * parameters, _memory_bytes())
    rows: dict[str, dict[str, Any]] = {}
    for number, part in enumerate(parts):
        with ExitStack() as stack:
            workers, facts = start_workers(part, job_of, work, refused, stack)
            budget_s = 60 * options.minutes / len(parts) / len(texts)
            found = measure_group(workers, texts, shape, refused, options.block_s, budget_s)
        for row, figures in found.items():  # the reference's row is that of the first group
            rows.setdefault(row, {**figures, **facts[row], "group": number})
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
        "parameters": parameters,
        "linear_weights": shape.linear_weights,
        "ceilings": ceilings,
        "rows": [{"name": one.name, "class": one.kind, **rows[one.name]} for one in chosen if one.name in rows],
        "refused": {one.name: refused[one.name] for one in chosen if one.name in refused},
        "not_chosen": [one.name for one in CONTENDERS if one not in chosen],
    }


def _checkpoint(name: str, size: str, work: Path) -> Path:
    return full_checkpoint(name, work, small=size == "small") if name in FULL else checkpoint_of(name, work, size)


def _jobs(name: str, checkpoint: Path, options: Namespace, work: Path) -> Callable[[Contender | Step], Job]:
    """Return what makes the job of a contender or of a step.

    Files are kept by what they depend on (`files_folder`). Those of korsbert are made anew where the checkout has
    changes that no revision names.
    """
    text = work / f"calibration-{name}-{options.size}.txt"
    count = SMALL_CALIBRATION if options.size == "small" else MODELS[name].calibration
    text.write_text("\n".join(evenly_spread(list(calibration_sentences(None, probes=())), count)), encoding="utf-8")
    calibration = text.read_bytes()
    home = work / "peers" / f"{name}-{options.size}"
    own = revision()  # once: files may change meanwhile
    steps = {step for contender in CONTENDERS for step in contender.steps if step.environment == OWN}
    if own.endswith("-dirty"):
        for folder in {files_folder(step, calibration, own) for step in steps}:
            shutil.rmtree(home / folder, ignore_errors=True)

    def job_of(place: Contender | Step) -> Job:
        folder = home / files_folder(place, calibration, own)
        libraries = place.libraries if isinstance(place, Contender) else ()
        return Job(str(checkpoint), str(folder), place.variant, options.threads, str(text), libraries)

    return job_of


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
