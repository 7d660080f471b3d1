"""``exporter.adapters.langchain``, under the name that is installed."""

from exporter.adapters.langchain import KorsbertEmbeddings

__all__ = ["KorsbertEmbeddings"]
