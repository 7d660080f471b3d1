"""EncoderFacts: what is read from a checkpoint, recorded in a manifest, and needed to encode."""

from __future__ import annotations

from collections.abc import Collection

from pydantic import BaseModel, ConfigDict, Field

from exporter.runtime.similarity import SimilarityName

QUERY_PROMPTS, DOCUMENT_PROMPTS = ("query",), ("document", "passage", "corpus")
"""Names of the prompts of queries and of documents, as sentence-transformers has them: the first that there is."""


class EncoderFacts(BaseModel):
    """The facts of a sentence encoder, besides its tokenizer and its weights.

    Attributes:
        architecture: Class name of the transformer.
        modules: Class names of the modules, in order.
        pooling: Pooling modes, in the order they are concatenated.
        dimension: Length of a sentence vector that is not truncated.
        max_seq_length: Tokens per sentence, special tokens included; longer sentences are truncated.
        do_lower_case: Whether text is lower-cased before the vocabulary is consulted.
        prompt: Text that is put before every sentence where no other prompt is asked for ("" for most models).
        prompts: The checkpoint's prompts by name, ``{"query": "query: ", "document": "passage: "}`` for example.
        similarity: How the checkpoint compares vectors.
        truncate_dim: To how many dimensions ``encode`` truncates vectors, or None where the checkpoint does not say.
        layers: Transformer layers (uses of the shared layer, for ALBERT).
        heads: Attention heads.
        hidden_size: Length of a token's vector.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str
    modules: tuple[str, ...]
    pooling: tuple[str, ...]
    dimension: int
    max_seq_length: int
    do_lower_case: bool
    prompt: str = ""
    prompts: dict[str, str] = Field(default_factory=dict)
    similarity: SimilarityName = "cosine"
    truncate_dim: int | None = Field(default=None, ge=1)
    layers: int
    heads: int
    hidden_size: int

    @property
    def query_prompt(self) -> str:
        """Text that is put before queries."""
        return self._text_of(first_prompt(self.prompts, QUERY_PROMPTS))

    @property
    def document_prompt(self) -> str:
        """Text that is put before documents."""
        return self._text_of(first_prompt(self.prompts, DOCUMENT_PROMPTS))

    @property
    def summary(self) -> str:
        """Architecture, pooling and dimension, for a line of progress."""
        return f"{self.architecture}, {', '.join(self.pooling)} pooling, {self.dimension}-d"

    def _text_of(self, name: str | None) -> str:
        return self.prompt if name is None else self.prompts[name]


def first_prompt(prompts: Collection[str], names: tuple[str, ...]) -> str | None:
    """Return the first of ``names`` that is the name of a prompt, or None."""
    return next((name for name in names if name in prompts), None)
