"""Train korsbert-demo, a tiny Korean ALBERT sentence encoder, on two CPU cores.

Run from the root of the repository: ``python -m recipes.demo.training.train --help``.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from .corpus import build_corpus
from .distil import distil
from .save import save
from .start import prior_vectors, ridge_tokens, start_from_bag
from .student import MAJOR_UNITS, make_model
from .target import fit_target
from .teacher import Teacher
from .tokenizer import encode, piece_texts, train_tokenizer

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    """Run all stages."""
    args = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)  # denormal numbers are slow on CPU and mean nothing here
    torch.manual_seed(0)

    # 1. Text
    corpus = build_corpus(args.data, args.reviews, args.templates)
    texts = corpus.all()
    log.info("corpus: %s, %d in all", {name: len(part) for name, part in vars(corpus).items()}, len(texts))

    # 2. What the teacher makes of it
    teacher = Teacher(args.teacher, args.work, args.threads)
    vectors = teacher.embed(texts)

    # 3. What the student reads
    tokenizer = train_tokenizer(corpus)
    rows = encode(tokenizer, texts)
    lengths = [len(row) for row in rows]
    log.info("tokens per sentence: mean %.1f, 99th percentile %.0f", np.mean(lengths), np.percentile(lengths, 99))

    # 4. What the student should answer
    target = fit_target(vectors)
    goal = target(vectors)

    # 5. Where the student begins
    prior = prior_vectors(piece_texts(tokenizer), teacher.embed, target)
    sentences = goal[:, MAJOR_UNITS]
    tokens = ridge_tokens(rows, sentences, prior - prior.mean(0) + sentences.mean(0))
    model = make_model(args.layers, args.intermediate)
    log.info("model: %.3f M parameters", sum(parameter.numel() for parameter in model.parameters()) / 1e6)
    start_from_bag(model, tokens)

    # 6. Distillation, then a few minutes towards a partly whitened target: better ranking, wider spread
    model.set_attn_implementation("eager")  # under bfloat16 on CPU: nearly twice as fast as the fused kernel
    save_now = partial(save, model, tokenizer, args.out)
    train = partial(distil, model, rows, low_precision=args.bf16, save=save_now)
    train(goal, minutes=args.minutes, peak_rate=args.rate)
    if args.finish_minutes > 0:
        evened = fit_target(vectors, whiten=0.5, centre=0.5)
        train(evened(vectors), minutes=args.finish_minutes, peak_rate=0.4 * args.rate)

    # 7. The folder
    save_now()
    log.info("saved %s", args.out)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.demo.training.train",
        description="Train korsbert-demo, a tiny Korean ALBERT sentence encoder.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with the three text sources")
    parser.add_argument("--teacher", type=Path, required=True, help="ONNX file of USE multilingual v3 (string input)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the encoder to")
    parser.add_argument("--work", type=Path, default=Path("work"), help="folder for the teacher's cache")
    parser.add_argument("--minutes", type=float, default=30.0, help="time to distil for")
    parser.add_argument("--finish-minutes", type=float, default=5.0, help="more time, towards the whitened target")
    parser.add_argument("--reviews", type=int, default=200_000, help="how many reviews to use")
    parser.add_argument("--templates", type=int, default=180_000, help="how many template sentences to generate")
    parser.add_argument("--layers", type=int, default=4, help="passes of the one shared layer")
    parser.add_argument("--intermediate", type=int, default=1_024, help="feed-forward units")
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument(
        "--bf16", action=argparse.BooleanOptionalAction, default=True, help="train under bfloat16 autocast"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
