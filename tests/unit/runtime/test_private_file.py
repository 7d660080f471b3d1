"""A private file holds its bytes for as long as the block runs, and no longer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from exporter.runtime.private_file import private_file


@pytest.mark.parametrize("in_memory", [True, False])
def test_it_holds_the_bytes_until_the_block_ends(monkeypatch: pytest.MonkeyPatch, in_memory: bool) -> None:
    if not in_memory:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    with private_file(b"\x00content\n") as path:
        assert isinstance(path, str)
        for _ in range(2):  # from its beginning each time
            assert Path(path).read_bytes() == b"\x00content\n"
        named = Path(path).readlink().name if in_memory else Path(path).name
        assert ("korsbert" in named) == in_memory
    assert not Path(path).exists()


def test_it_is_gone_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), private_file(b"x") as path:
        _ = 1 / 0
    assert isinstance(path, str)
    assert not Path(path).exists()
