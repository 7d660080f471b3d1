"""``exporter.adapters.chroma``, under the name that is installed."""

from exporter.adapters.chroma import KorsbertEmbeddingFunction

__all__ = ["KorsbertEmbeddingFunction"]
