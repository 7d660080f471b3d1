"""``exporter.adapters.haystack``, under the name that is installed."""

from exporter.adapters.haystack import KorsbertDocumentEmbedder, KorsbertTextEmbedder

__all__ = ["KorsbertDocumentEmbedder", "KorsbertTextEmbedder"]
