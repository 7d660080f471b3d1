"""``exporter.adapters.llama_index``, under the name that is installed."""

from exporter.adapters.llama_index import KorsbertEmbedding

__all__ = ["KorsbertEmbedding"]
