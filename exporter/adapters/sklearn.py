"""scikit-learn: a bundle as a transformer from texts to vectors."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np

from exporter.adapters.opening import opened
from exporter.dependencies import importing
from exporter.runtime.contract import VectorType
from exporter.runtime.encoder import Encoder
from exporter.runtime.vector_types import Stored

with importing("sklearn"):
    from sklearn.base import BaseEstimator, TransformerMixin


class KorsbertVectorizer(TransformerMixin, BaseEstimator):
    """A bundle as a transformer: texts to the vectors of ``Encoder.encode``, with the checkpoint's default prompt.

    It learns nothing: ``transform`` needs no ``fit``. The bundle is opened when it is first needed, and clones share
    it. A pickle has the arguments only: the bundle must be there where it is read.

    Args:
        bundle: Folder of the bundle, or its id on the Hugging Face hub: ``owner/name`` or ``owner/name@revision``.
        truncate_dim: Return this many dimensions (default: as the checkpoint says).
        batch_size: Texts per batch, at most.
        precision: Type of the numbers, as ``Encoder.encode`` takes it.
    """

    def __init__(
        self,
        bundle: str | Path,
        *,
        truncate_dim: int | None = None,
        batch_size: int = 32,
        precision: VectorType = "float32",
    ) -> None:
        self.bundle = bundle
        self.truncate_dim = truncate_dim
        self.batch_size = batch_size
        self.precision = precision

    def fit(self, X: Iterable[str], y: object = None) -> Self:  # noqa: ARG002, N803 - the names of scikit-learn
        """Check the texts and open the bundle.

        Raises:
            ValueError: ``X`` is no sequence of texts, or has none.
            ExportError: The bundle cannot be opened; see ``korsbert.load``.
        """
        _texts_of(X)
        self._encoder()
        return self

    def transform(self, X: Iterable[str]) -> Stored:  # noqa: N803 - the name of scikit-learn
        """Return (texts, dimension) vectors.

        Args:
            X: A sequence of strings: a list, an array or a column of a table.

        Raises:
            ValueError: ``X`` is no sequence of texts, or has none.
            TypeError: One of them is no string.
            ExportError: The bundle cannot be opened, or not encode a text; see ``korsbert.Encoder.encode``.
        """
        return self._encoder().encode(
            _texts_of(X), batch_size=self.batch_size, truncate_dim=self.truncate_dim, precision=self.precision
        )

    def get_feature_names_out(self, input_features: object = None) -> Stored:  # noqa: ARG002 - scikit-learn passes it
        """Return a name for each column of ``transform``: ``korsbert0``, ``korsbert1``, and so on."""
        columns = self.transform([""]).shape[1]
        return np.array([f"korsbert{column}" for column in range(columns)], dtype=object)

    def _encoder(self) -> Encoder:
        """Return the encoder of ``bundle``, which ``set_params`` may have changed."""
        held: tuple[str | Path, Encoder] | None = getattr(self, "_held", None)
        if held is None or held[0] != self.bundle:
            held = self._held = self.bundle, opened(self.bundle)
        return held[1]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_held"}

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags


def _texts_of(values: Any) -> list[str]:
    if isinstance(values, str):
        raise ValueError("X is one string: put it into a list")  # noqa: TRY004 - as scikit-learn does
    if getattr(values, "ndim", 1) != 1:
        raise ValueError(f"X has {values.ndim} dimensions: pass texts, one column of a table")
    texts = list(values)
    if not texts:
        raise ValueError("X has no text")
    return texts
