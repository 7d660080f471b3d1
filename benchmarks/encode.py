"""Sentences per second against sentence-transformers, from string to vector, everything in turns in one run.

    python -m benchmarks.encode --sts korsts-dev.tsv

The weights are seeded (``tests/support/twins``, ``tests/support/full_checkpoints.py``): speed does not depend on what
they hold. Other backends and tools are measured by ``benchmarks.peers``.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer
from transformers.utils.logging import disable_progress_bar

from benchmarks.results import Target, arguments, full_checkpoint, publish, table, twin, twin_recipe, work_folder
from benchmarks.sentences import add_text_options, min_cosines, sentences_of
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
from exporter.calibration import TokenBatches, calibration_sentences
from exporter.checkpoint import load_checkpoint
from exporter.engines.building import build_engine
from exporter.graph.folding import fold
from exporter.precisions import cast_graph
from exporter.recipe import find_recipe, load_recipe
from exporter.targets import Backend, Device, Precision
from exporter.targets import Target as EngineTarget
from exporter.validator import Reference, validate
from exporter.validator.reference import reference_of
from tests.support.twins import MEASURED

if TYPE_CHECKING:
    from argparse import Namespace

    from exporter import Recipe
    from exporter.checkpoint import Checkpoint

BF16 = "sentence-transformers bf16"
ENGINES: tuple[tuple[Literal["onnxruntime", "openvino"], Literal["fp32", "fp16", "bf16"]], ...] = (
    ("onnxruntime", "fp32"),
    ("onnxruntime", "fp16"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
)
# The promises, for a full-size BERT-base: ratio to sentence-transformers in FP32 on the same threads.
PROMISED = {"onnxruntime fp32": 1.3, "openvino bf16": 2.5}
PROMISED_OF = "ko-sbert-sts"
# Published sizes without a recipe.
SEEDED = ("xlm-roberta-large", "modernbert")


def main() -> None:
    """Measure each model asked for, and write ``encode`` (or ``encode-MODEL``) to the results."""
    parser = arguments(str(__doc__).splitlines()[0])
    add_text_options(parser)
    parser.add_argument(
        "--model",
        action="append",
        choices=(*MEASURED, "demo", *SEEDED),
        help=f"by default {PROMISED_OF}; repeatable",
    )
    parser.add_argument("--without-gates", action="store_true", help="measure what was judged by another benchmark")
    parser.add_argument("--sentences", type=int, default=512, help="how many, evenly spread over the text")
    parser.add_argument("--threads", type=int, default=2, help="of torch and of the engines")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    disable_progress_bar()
    sentences = evenly_spread(sentences_of(options), options.sentences)
    for name in options.model or [PROMISED_OF]:
        with work_folder(options.work) as work:
            _measure_model(name, sentences, options, work)


def _measure_model(name: str, sentences: list[str], options: Namespace, work: Path) -> None:
    if name in SEEDED:
        folder = full_checkpoint(name, work, small=options.size == "small")
        recipe = find_recipe(str(folder))
    else:
        folder = twin(name, options.size, work)
        recipe = load_recipe(twin_recipe(name, options.size, work))
    with ExitStack() as stack:
        stack.enter_context(torch_threads(options.threads))
        checkpoint = load_checkpoint(recipe, folder=folder)
        opened = _engines(checkpoint, recipe, options.threads, work, stack)
        torch_bf16 = in_bf16(folder)
        verdicts: dict[str, str] = {}
        if not options.without_gates:
            reference = reference_of(checkpoint)
            judged = {**opened, BF16: _as_encoder(torch_bf16, checkpoint)}
            for label, encoder in judged.items():
                verdicts[label] = _verdict(reference, encoder, recipe, label.rpartition(" ")[2], label)
        encoders: dict[str, Encode] = {REFERENCE: reference_encode(checkpoint), BF16: sentence_encode(torch_bf16)}
        encoders |= {label: encode_of(encoder) for label, encoder in opened.items()}
        vectors = {label: np.asarray(encode(sentences, options.batch_size)) for label, encode in encoders.items()}
        cosines = min_cosines(vectors, REFERENCE)
        subjects = measure(encoders, sentences, batch_size=options.batch_size, rounds=options.rounds)
    _report(name, subjects, cosines, opened, verdicts, sentences, options)


def _engines(checkpoint: Checkpoint, recipe: Recipe, threads: int, work: Path, stack: ExitStack) -> dict[str, Encoder]:
    """Build every pair of backend and precision."""
    graph = fold(checkpoint)
    text = TokenBatches(tuple(calibration_sentences(None, probes=())), checkpoint.tokenizer)
    opened: dict[str, Encoder] = {}
    for backend, precision in ENGINES:
        label = f"{backend} {precision}"
        folder = work / "engines" / label.replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        target = EngineTarget(Precision(precision), Backend(backend), Device.CPU)
        built = build_engine(cast_graph(graph, precision, text), target, recipe.shapes, folder)
        encoder = Encoder.of(checkpoint.facts, checkpoint.tokenizer, built.open("cpu", threads))
        opened[label] = stack.enter_context(encoder)
    return opened


def _verdict(reference: Reference, candidate: Encoder, recipe: Recipe, precision: str, label: str) -> str:
    """Hold a candidate against the gate of its precision, and say what came of it."""
    report = validate(reference, candidate, recipe.gates.of(precision), label, precision)
    failed = "; ".join(str(verdict) for verdict in report.verdicts if not verdict.passed)
    verdict = f"failed: {failed} (worst: {report.probes[report.worst].kind})" if failed else "passed"
    print(f"{label}: gate {verdict}", flush=True)
    return verdict


def in_bf16(folder: Path) -> SentenceTransformer:
    """Load sentence-transformers with the weights of ``folder`` in bfloat16."""
    options = {"dtype": torch.bfloat16, "attn_implementation": "sdpa"}
    return SentenceTransformer(str(folder), device="cpu", model_kwargs=options).eval()


class _TorchRunner:
    """A SentenceTransformer as a runner, so that it can stand before the same gate as the engines."""

    execution = "torch, CPU"

    def __init__(self, model: SentenceTransformer) -> None:
        self._model = model

    def run(self, input_ids: npt.NDArray[np.int64], attention_mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Encode (batch, sequence) int64 ids and mask to (batch, dimension) float32."""
        features = {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(attention_mask)}
        with torch.no_grad():
            vectors: npt.NDArray[np.float32] = self._model(features)["sentence_embedding"].float().numpy()
        return vectors

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return


def _as_encoder(model: SentenceTransformer, checkpoint: Checkpoint) -> Encoder:
    return Encoder.of(checkpoint.facts, checkpoint.tokenizer, _TorchRunner(model))


def sentence_encode(model: SentenceTransformer) -> Encode:
    """Return a model's own ``encode``, without the progress bar."""
    return lambda sentences, batch_size: model.encode(sentences, batch_size=batch_size, show_progress_bar=False)


def _report(
    name: str,
    subjects: tuple[Subject, ...],
    cosines: dict[str, float],
    opened: dict[str, Encoder],
    verdicts: dict[str, str],
    sentences: list[str],
    options: Namespace,
) -> None:
    judged = name == PROMISED_OF and options.size == "full"
    targets = [
        Target(
            f"{subject.name}: times the throughput of {REFERENCE}", subject.ratio, PROMISED[subject.name], at_least=True
        )
        for subject in subjects
        if judged and subject.name in PROMISED
    ]
    tokens = float(np.mean(next(iter(opened.values())).count_tokens(sentences)))
    text = options.sts or options.text
    data = {
        "model": name,
        "size": options.size,
        "text": text.name if text else "the calibration sentences that ship",
        "sentences": len(sentences),
        "tokens_per_sentence": round(tokens, 1),
        "threads": options.threads,
        "batch_size": options.batch_size,
        "rounds": options.rounds,
        "subjects": [
            {
                **subject.to_dict(),
                "min_cosine": cosines[subject.name],
                "gate": verdicts.get(subject.name),
                "execution": opened[subject.name].execution if subject.name in opened else "torch, CPU",
            }
            for subject in subjects
        ],
    }
    conditions = (
        f"{len(sentences)} sentences of {data['text']} ({tokens:.1f} tokens each), batch {options.batch_size}, "
        f"{options.threads} threads, string to vector; medians of {options.rounds} rounds in turns after a warm-up. "
        "The ratio is the median of the ratios within rounds, with the smallest and the largest of them; latency is of "
        "single sentences; the cosine is the smallest to the first row over these sentences."
    )
    if options.without_gates:
        conditions += " No gate judged these engines here (`--without-gates`)."
    header = ("", "sentences/s", "ratio", "within rounds", "p50 ms", "p99 ms", "min cosine", "gate")
    rows = [
        (*_row(subject, subjects[0], cosines[subject.name]), verdicts.get(subject.name, "")) for subject in subjects
    ]
    kind = (
        "" if name == "demo" else f" (a {options.size} checkpoint)" if name in SEEDED else f" (a {options.size} twin)"
    )
    heading = f"# Encoding with {name}{kind}"
    file = "encode" if name == PROMISED_OF else f"encode-{name}"
    publish(file, options.results, data, (heading, conditions, table(header, rows)), targets)


def _row(subject: Subject, first: Subject, cosine: float) -> tuple[str, ...]:
    ratios = np.array(first.round_s) / np.array(subject.round_s)
    return (
        subject.name,
        f"{subject.sentences_per_s:.1f}",
        f"{subject.ratio:.2f}x",
        f"{ratios.min():.2f} to {ratios.max():.2f}",
        f"{subject.p50_ms:.1f}",
        f"{subject.p99_ms:.1f}",
        f"{cosine:.7f}",
    )


if __name__ == "__main__":
    main()
