"""A plugin for pytest: the fixture ``embedding_parity``, in every environment that has korsbert and pytest.

::

    def test_the_server_answers_as_the_model(embedding_parity):
        embedding_parity(my_encode_function, "my-model.golden")
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from exporter.validator import ParityReport


@pytest.fixture
def embedding_parity() -> Callable[..., ParityReport]:
    """Return ``korsbert.assert_embeddings_match``."""
    from exporter.api import assert_embeddings_match  # noqa: PLC0415 - every run of pytest imports this plugin

    return assert_embeddings_match
