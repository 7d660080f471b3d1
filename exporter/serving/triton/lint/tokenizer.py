"""Rules about a tokenizer and the encoder that it feeds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from exporter.bundle import TOKENIZER, FileFacts
from exporter.bundle.bundle import parse_tokenizer
from exporter.errors import BundleError, printable
from exporter.files import read_file
from exporter.serving.triton.config import PROMPTS, parameter
from exporter.serving.triton.facts import text_models
from exporter.serving.triton.lint.model import Finding, Model, Repository

_DIGITS, _SHOWN = 10, 200  # of a number, and of what a message repeats, at most


def check_tokenizers(model: Model, repository: Repository) -> Iterator[Finding]:
    """Compare the tokenizers that feed an encoder with the bundle of the encoder."""
    if model.manifest is None:
        return
    limit = model.manifest.encoder.max_seq_length
    profile = model.manifest.recipe.shapes.sequence
    longest = profile.max if profile is not None else limit
    facts = model.manifest.encoder
    prompts = {text.ensemble: text.prompt for text in text_models(model.config.name, facts)}
    for tokenizer, ensemble in repository.tokenizers_of(model):
        path = tokenizer.latest / TOKENIZER
        try:
            content = read_file(path)
            truncation = parse_tokenizer(path, content).truncation
        except (OSError, BundleError) as error:
            told = error.strerror if isinstance(error, OSError) else error.message.removeprefix(f"{path}: ")
            yield Finding(path, "file", str(told), "the tokenizer.json of the bundle", "ship the bundle again")
            continue
        if truncation is None or truncation["max_length"] > limit:
            yield Finding(
                path,
                "truncation.max_length",
                str(truncation["max_length"]) if truncation else "not set",
                f"<= {limit}",
                "the encoder refuses longer rows: ship the bundle's own tokenizer",
            )
        found, shipped = FileFacts.of_content(content).sha256, model.manifest.files[TOKENIZER].sha256
        if found != shipped:
            yield Finding(
                path,
                "content",
                f"sha256 {found[:12]}",
                f"sha256 {shipped[:12]} of {model.config.name}'s bundle",
                "another tokenizer gives other ids to the same words: ship both again from one bundle",
            )
        wanted = prompts.get(ensemble.config.name, facts.prompt)
        prompt = parameter(tokenizer.config, "prompt") or ""
        if prompt != wanted:
            yield tokenizer.finding("parameters[prompt]", repr(prompt), repr(wanted), "the encoder was proven with it")
        if (stated := parameter(tokenizer.config, PROMPTS)) is not None and _prompts(stated) != facts.prompts:
            yield tokenizer.finding(
                f"parameters[{PROMPTS}]",
                printable(stated, _SHOWN),
                repr(json.dumps(facts.prompts, ensure_ascii=False)),
                "the encoder was proven with them",
            )
        buckets = [width for width in (parameter(tokenizer.config, "sequence_buckets") or "").split(",") if width]
        if buckets and not all(
            width.isdecimal() and len(width) < _DIGITS and int(width) <= longest for width in buckets
        ):
            yield tokenizer.finding(
                "parameters[sequence_buckets]",
                printable(",".join(buckets), _SHOWN),
                f"numbers up to {longest}",
                "the profile ends there",
            )


def _prompts(stated: str) -> Any:
    try:
        return json.loads(stated)
    except (ValueError, RecursionError):
        return None
