"""Folders and hub ids are told apart without a request. What the hub answers is in ``tests/integration``."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.bundle.finding import Found, _as_pattern, find_bundle
from exporter.errors import InputError
from exporter.hub.names import is_hub_id


@pytest.mark.parametrize("name", ["owner/name", "a/b.c-d", "o/n@v1"])
def test_a_hub_id(name: str) -> None:
    assert is_hub_id(name)


@pytest.mark.parametrize("name", ["name", "/owner/name", "./name", "../name", "~/name", "a/b/c", "owner/", "/name", ""])
def test_a_path(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not is_hub_id(name)
    assert find_bundle(name) == Found(Path(name))
    with pytest.raises(InputError, match="`revision` is given"):
        find_bundle(name, "main")


def test_a_folder_of_that_name_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("owner/name", "owner/name@v1"):
        Path(name).mkdir(parents=True)
        assert find_bundle(name) == Found(Path(name))
        assert find_bundle(Path(name)) == Found(Path(name))


def test_a_revision_is_given_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="a revision is given twice"):
        find_bundle("owner/name@v1", "v2")


def test_what_is_found_is_written_as_it_can_be_given_again() -> None:
    assert str(Found(Path("/a/b"))) == "/a/b"
    assert str(Found(Path("/cache"), "owner/name", "c" * 40)) == f"owner/name@{'c' * 40}"


def test_a_pattern_matches_one_name_only() -> None:
    from fnmatch import fnmatchcase

    for name in ("model.onnx", "a*b", "a?b", "[ab]"):
        assert fnmatchcase(name, _as_pattern(name))
        assert not any(fnmatchcase(other, _as_pattern(name)) for other in ("axb", "a", "b", "modelxonnx", "secret"))
