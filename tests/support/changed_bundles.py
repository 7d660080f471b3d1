"""Bundles that were changed and sealed again: faults that a gate must find."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from tests.support.manifests import reseal

__all__ = ["truncate_early"]


def truncate_early(bundle: Path) -> None:
    """Have the tokenizer truncate at 100 tokens."""
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    tokenizer.enable_truncation(100)
    tokenizer.save(str(bundle / "tokenizer.json"))
    reseal(bundle)
