"""The sentences that a benchmark encodes, and how near the vectors of several encoders are to those of the first."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.calibration import calibration_sentences
from exporter.validator.sts import read_sts


def add_text_options(parser: ArgumentParser) -> None:
    """Add ``--sts`` and ``--text``, of which one may be given."""
    text = parser.add_mutually_exclusive_group()
    text.add_argument("--sts", type=Path, metavar="FILE", help="take the sentences of an STS set, KorSTS for example")
    text.add_argument("--text", type=Path, metavar="FILE", help="one sentence a line; by default the calibration text")


def sentences_of(options: Namespace) -> list[str]:
    """Return the different sentences of the text that was chosen, in order."""
    if options.sts is None:
        return list(dict.fromkeys(calibration_sentences(options.text, probes=())))
    pairs = read_sts(options.sts)
    return list(dict.fromkeys(sentence for pair in zip(pairs.first, pairs.second, strict=True) for sentence in pair))


def min_cosines(vectors: Mapping[str, npt.NDArray[Any]], reference: str) -> dict[str, float]:
    """Return the smallest cosine of each encoder's vectors to the reference's.

    Args:
        vectors: By name, (sentences, dimension) of any floating-point dtype.
        reference: Name of the encoder that the others are compared with.
    """
    wide = {name: rows.astype(np.float64) for name, rows in vectors.items()}
    unit = {name: rows / np.linalg.norm(rows, axis=1, keepdims=True) for name, rows in wide.items()}
    return {name: float((unit[reference] * rows).sum(axis=1).min()) for name, rows in unit.items()}
