"""Chroma: a bundle as its ``EmbeddingFunction``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from exporter.adapters.opening import opened
from exporter.dependencies import importing
from exporter.errors import MissingDependencyError

with importing("chromadb"):
    from chromadb.api.types import Documents, EmbeddingFunction, Embeddings, Space
    from chromadb.utils.embedding_functions import register_embedding_function

if not hasattr(EmbeddingFunction, "embed_query"):  # queries would silently be embedded as documents
    raise MissingDependencyError(
        "chromadb is too old: it does not embed queries apart from documents",
        next_step="pip install --upgrade 'korsbert[chroma]'",
    )

# Chroma has no Manhattan distance. The Euclidean one orders vectors more alike than an angle does.
_SPACES: dict[str, Space] = {"cosine": "cosine", "dot": "ip", "euclidean": "l2", "manhattan": "l2"}


@register_embedding_function
class KorsbertEmbeddingFunction(EmbeddingFunction[Documents]):
    """A bundle as Chroma's ``EmbeddingFunction``.

    Chroma stores its name and its arguments with a collection, and builds it again when the collection is opened: then
    ``korsbert.chroma`` must have been imported, and the bundle must still be there.

    Args:
        bundle: Folder of the bundle, or its id on the Hugging Face hub: ``owner/name`` or ``owner/name@revision``.
        truncate_dim: Return this many dimensions (default: as the checkpoint says).
        batch_size: Texts per batch, at most.

    Raises:
        ExportError: The bundle cannot be opened; see ``korsbert.load``.
    """

    def __init__(self, bundle: str | Path, *, truncate_dim: int | None = None, batch_size: int = 32) -> None:
        self.bundle = os.fspath(bundle)
        self.truncate_dim = truncate_dim
        self.batch_size = batch_size
        self._encoder = opened(bundle)

    def __call__(self, input: Documents) -> Embeddings:  # noqa: A002 - Chroma passes it by this name
        """Return one float32 vector for each document: ``encode_document``."""
        return list(self._encoder.encode_document(input, batch_size=self.batch_size, truncate_dim=self.truncate_dim))

    def embed_query(self, input: Documents) -> Embeddings:  # noqa: A002 - Chroma passes it by this name
        """Return one float32 vector for each query: ``encode_query``."""
        return list(self._encoder.encode_query(input, batch_size=self.batch_size, truncate_dim=self.truncate_dim))

    @staticmethod
    def name() -> str:
        """Return the name that Chroma stores with a collection."""
        return "korsbert"

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, which Chroma stores with a collection."""
        return {"bundle": self.bundle, "truncate_dim": self.truncate_dim, "batch_size": self.batch_size}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> KorsbertEmbeddingFunction:
        """Return the function that was stored."""
        return KorsbertEmbeddingFunction(**config)

    def validate_config_update(self, old_config: dict[str, Any], new_config: dict[str, Any]) -> None:
        """Let a collection have its bundle elsewhere, and refuse another ``truncate_dim``.

        That the other bundle is of the same checkpoint is not compared.

        Raises:
            ValueError: ``truncate_dim`` is another.
        """
        old, new = (config.get("truncate_dim") for config in (old_config, new_config))
        if old != new:
            raise ValueError(f"the collection has vectors of truncate_dim {old}, not {new}: make another collection")

    def default_space(self) -> Space:
        """Return the space of the similarity that the checkpoint names."""
        return _SPACES[self._encoder.similarity_fn_name]
