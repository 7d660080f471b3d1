"""What the options of a command say of a server."""

from __future__ import annotations

import pytest

from exporter.cli.verify import server_options
from exporter.errors import InputError


def test_a_key_given_in_place_of_its_variable_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMPTY", "")
    for given in ("sk-s3cret", "EMPTY"):
        with pytest.raises(InputError, match="is not set, or empty") as failure:
            server_options("openai", None, (), given, None, 60, 60)
        assert "s3cret" not in str(failure.value)
    monkeypatch.setenv("KEY", "s3cret")
    assert server_options("openai", None, (), "KEY", None, 60, 60).key == "s3cret"
