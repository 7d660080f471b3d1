"""Rules about a tokenizer and the encoder that it feeds."""

from __future__ import annotations

from collections.abc import Iterator

from tokenizers import Tokenizer

from exporter.bundle import TOKENIZER, FileFacts
from exporter.serving.triton.config import parameter
from exporter.serving.triton.lint.model import Finding, Model, Repository


def check_tokenizers(model: Model, repository: Repository) -> Iterator[Finding]:
    """Compare the tokenizers that feed an encoder with the bundle of the encoder."""
    if model.manifest is None:
        return
    limit = model.manifest.encoder.max_seq_length
    profile = model.manifest.recipe.shapes.sequence
    longest = profile.max if profile is not None else limit
    for tokenizer, _ in repository.tokenizers_of(model):
        path = tokenizer.latest / TOKENIZER
        if not path.is_file():
            continue
        truncation = Tokenizer.from_file(str(path)).truncation
        if truncation is None or truncation["max_length"] > limit:
            yield Finding(
                path,
                "truncation.max_length",
                str(truncation["max_length"]) if truncation else "not set",
                f"<= {limit}",
                "the encoder refuses longer rows: ship the bundle's own tokenizer",
            )
        found, shipped = FileFacts.of_file(path).sha256, model.manifest.files[TOKENIZER].sha256
        if found != shipped:
            yield Finding(
                path,
                "content",
                f"sha256 {found[:12]}",
                f"sha256 {shipped[:12]} of {model.config.name}'s bundle",
                "another tokenizer gives other ids to the same words: ship both again from one bundle",
            )
        prompt = parameter(tokenizer.config, "prompt") or ""
        if prompt != model.manifest.encoder.prompt:
            yield tokenizer.finding(
                "parameters[prompt]",
                repr(prompt),
                repr(model.manifest.encoder.prompt),
                "the encoder was proven with it",
            )
        buckets = [width for width in (parameter(tokenizer.config, "sequence_buckets") or "").split(",") if width]
        if buckets and (not all(map(str.isdecimal, buckets)) or max(map(int, buckets)) > longest):
            yield tokenizer.finding(
                "parameters[sequence_buckets]", ",".join(buckets), f"numbers up to {longest}", "the profile ends there"
            )
