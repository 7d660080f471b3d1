"""``exporter.adapters.sklearn``, under the name that is installed."""

from exporter.adapters.sklearn import KorsbertVectorizer

__all__ = ["KorsbertVectorizer"]
