"""LlamaIndex: a bundle as its ``BaseEmbedding``."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PrivateAttr

from exporter.adapters.opening import opened
from exporter.dependencies import importing
from exporter.runtime.encoder import Encoder

with importing("llama_index.core"):
    from llama_index.core.base.embeddings.base import BaseEmbedding


class KorsbertEmbedding(BaseEmbedding):
    """A bundle as LlamaIndex's ``BaseEmbedding``.

    Attributes:
        bundle: Folder of the bundle, or its id on the Hugging Face hub: ``owner/name`` or ``owner/name@revision``.
        truncate_dim: Return this many dimensions (default: as the checkpoint says).
        embed_batch_size: Texts per batch, at most.
        model_name: What LlamaIndex calls the model in its events (default: ``bundle``).

    Raises:
        ExportError: The bundle cannot be opened; see ``korsbert.load``.
    """

    bundle: Annotated[str, BeforeValidator(os.fspath)]
    truncate_dim: int | None = Field(default=None, ge=1)
    embed_batch_size: int = Field(default=32, gt=0, le=2048)
    _encoder: Encoder = PrivateAttr()

    def model_post_init(self, _context: Any) -> None:
        """Open the bundle."""
        self._encoder = opened(self.bundle)
        if "model_name" not in self.model_fields_set:
            self.model_name = self.bundle

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex stores with the fields."""
        return "KorsbertEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        found: list[float] = self._encoder.encode_query(query, truncate_dim=self.truncate_dim).tolist()
        return found

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors = self._encoder.encode_document(texts, batch_size=self.embed_batch_size, truncate_dim=self.truncate_dim)
        found: list[list[float]] = vectors.tolist()
        return found

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "__pydantic_private__": None}  # `__init__` opens the bundle again

    def __setstate__(self, state: dict[str, Any]) -> None:
        type(self).__init__(self, **state["__dict__"])  # LlamaIndex does this too, and goes on after an error
