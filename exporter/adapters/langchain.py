"""LangChain: a bundle as its ``Embeddings``."""

from __future__ import annotations

from pathlib import Path

from exporter.adapters.opening import opened
from exporter.dependencies import importing

with importing("langchain_core"):
    from langchain_core.embeddings import Embeddings


class KorsbertEmbeddings(Embeddings):
    """A bundle as LangChain's ``Embeddings``.

    ``aembed_documents`` and ``aembed_query`` of LangChain do the same in a thread.

    Args:
        bundle: Folder of the bundle, or its id on the Hugging Face hub: ``owner/name`` or ``owner/name@revision``.
        truncate_dim: Return this many dimensions (default: as the checkpoint says).
        batch_size: Texts per batch, at most.

    Raises:
        ExportError: The bundle cannot be opened; see ``korsbert.load``.
    """

    def __init__(self, bundle: str | Path, *, truncate_dim: int | None = None, batch_size: int = 32) -> None:
        self.bundle = bundle
        self.truncate_dim = truncate_dim
        self.batch_size = batch_size
        self._encoder = opened(bundle)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return one vector for each text: ``encode_document``, as lists of floats."""
        vectors = self._encoder.encode_document(texts, batch_size=self.batch_size, truncate_dim=self.truncate_dim)
        found: list[list[float]] = vectors.tolist()
        return found

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a query: ``encode_query``, as a list of floats."""
        found: list[float] = self._encoder.encode_query(text, truncate_dim=self.truncate_dim).tolist()
        return found
