"""Calls into transformers and its kin: silent, and whatever they raise in one sentence."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers.utils import logging as transformers_logging

from exporter.errors import CheckpointError, ExportError, first_sentence


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Keep warnings, and what these loggers say below an error, from the terminal."""
    named = [logging.getLogger(name) for name in loggers]
    levels = [logger.level for logger in named]
    for logger in named:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(named, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep progress bars, load reports and warnings from the terminal; what matters is checked here instead."""
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with quiet("sentence_transformers", "sentence_transformers.base.model"):
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def told_as_checkpoint_error(place: Path | str, action: str = "load it") -> Iterator[None]:
    """Turn whatever a library raises over a stranger's files into one sentence.

    Raises:
        CheckpointError: A library raised an exception. Errors of this project, ``SystemExit`` and
            ``KeyboardInterrupt`` pass unchanged.
    """
    try:
        yield
    except (ExportError, SystemExit, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # a panic in Rust, which tokenizers is written in, is no Exception
        raise CheckpointError(
            f"{place}: sentence-transformers cannot {action}: {_cause(error)}",
            next_step="check its configuration and tokenizer files, or save it again with SentenceTransformer.save",
        ) from error


def _cause(error: BaseException) -> str:
    """Return what a library says of a checkpoint, in one line."""
    if "ignore_mismatched_sizes" in str(error):
        return "the weights have other shapes than config.json states"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if type(error).__name__.startswith("StrictDataclass") and len(lines) > 1:
        return f"config.json: {lines[1].partition(': ')[2]}"  # the first line ends before the reason
    return first_sentence(error) if lines else type(error).__name__
