"""Haystack: a bundle as a component that embeds queries, and one that embeds documents."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from exporter.adapters.opening import opened
from exporter.dependencies import importing
from exporter.runtime.encoder import Encoder

with importing("haystack"):
    from haystack import Document, component, default_from_dict, default_to_dict


class _Embedder:
    """What both components do."""

    def __init__(self, bundle: str | Path, truncate_dim: int | None) -> None:
        self.bundle = os.fspath(bundle)
        self.truncate_dim = truncate_dim
        self._opened: Encoder | None = None

    def warm_up(self) -> None:
        """Open the bundle.

        Raises:
            ExportError: It cannot be opened; see ``korsbert.load``.
        """
        self._encoder()

    def _encoder(self) -> Encoder:
        self._opened = self._opened or opened(self.bundle)
        return self._opened

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Any:
        """Return the component that ``to_dict`` has described."""
        return default_from_dict(cls, data)


@component
class KorsbertTextEmbedder(_Embedder):
    """Embeds a query with a bundle: ``encode_query``.

    Args:
        bundle: Folder of the bundle, or its id on the Hugging Face hub: ``owner/name`` or ``owner/name@revision``. It
            is opened by ``warm_up``, or by the first run; components of one process share it.
        truncate_dim: Return this many dimensions (default: as the checkpoint says).
    """

    def __init__(self, bundle: str | Path, *, truncate_dim: int | None = None) -> None:
        _Embedder.__init__(self, bundle, truncate_dim)  # `component` makes another class, which `super` does not know

    def to_dict(self) -> dict[str, Any]:
        """Return what a pipeline stores of this component, a path as it was given."""
        stored: dict[str, Any] = default_to_dict(self, bundle=self.bundle, truncate_dim=self.truncate_dim)
        return stored

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, Any]:
        """Return ``{"embedding": vector}`` of a query.

        Args:
            text: The query.

        Raises:
            TypeError: It is no string.
            ExportError: The bundle cannot be opened, or not encode the text; see ``korsbert.Encoder.encode``.
        """
        if not isinstance(text, str):
            raise TypeError("KorsbertTextEmbedder takes one string: for documents, use KorsbertDocumentEmbedder")
        return {"embedding": self._encoder().encode_query(text, truncate_dim=self.truncate_dim).tolist()}

    @component.output_types(embedding=list[float])
    async def run_async(self, text: str) -> dict[str, Any]:
        """Do what ``run`` does, in a thread."""
        return await asyncio.to_thread(self.run, text)


@component
class KorsbertDocumentEmbedder(_Embedder):
    """Embeds the content of documents with a bundle: ``encode_document``.

    Args:
        bundle: Folder of the bundle, or its id on the Hugging Face hub: ``owner/name`` or ``owner/name@revision``. It
            is opened by ``warm_up``, or by the first run; components of one process share it.
        truncate_dim: Return this many dimensions (default: as the checkpoint says).
        batch_size: Documents per batch, at most.
    """

    def __init__(self, bundle: str | Path, *, truncate_dim: int | None = None, batch_size: int = 32) -> None:
        _Embedder.__init__(self, bundle, truncate_dim)
        self.batch_size = batch_size

    def to_dict(self) -> dict[str, Any]:
        """Return what a pipeline stores of this component, a path as it was given."""
        stored: dict[str, Any] = default_to_dict(
            self, bundle=self.bundle, truncate_dim=self.truncate_dim, batch_size=self.batch_size
        )
        return stored

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Return ``{"documents": copies with their embedding}``, in the order given.

        Args:
            documents: Documents with text; one without content is embedded as empty text.

        Raises:
            TypeError: It is no list of documents.
            ExportError: The bundle cannot be opened, or not encode a text; see ``korsbert.Encoder.encode``.
        """
        if not isinstance(documents, list) or not all(isinstance(document, Document) for document in documents):
            raise TypeError("KorsbertDocumentEmbedder takes a list of documents: for a query, use KorsbertTextEmbedder")
        texts = [document.content or "" for document in documents]
        vectors = self._encoder().encode_document(texts, batch_size=self.batch_size, truncate_dim=self.truncate_dim)
        embedded = zip(documents, vectors.tolist(), strict=True)
        return {"documents": [replace(document, embedding=vector) for document, vector in embedded]}

    @component.output_types(documents=list[Document])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        """Do what ``run`` does, in a thread."""
        return await asyncio.to_thread(self.run, documents)
