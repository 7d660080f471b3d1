"""Reports of strangers: what `show` and `ship` read of them is there and of its type, or they are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from exporter.bundle.manifest import parse_report
from exporter.errors import BundleError

CHECK = {"name": "weights", "coverage": "all", "passed": True}
SOUND: dict[str, Any] = {"statistics": {"min_cosine": 1.0}, "checks": [CHECK], "passed": True, "rows": []}


def test_a_sound_one_is_returned_whole() -> None:
    assert parse_report(Path("parity.json"), json.dumps(SOUND).encode()) == SOUND


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"checks": [1]}, "checks.0: Input should be a valid dictionary"),
        ({"checks": "abc"}, "checks: Input should be a valid tuple"),
        ({"checks": [{"passed": True}]}, "checks.0.name: Field required"),
        ({"statistics": None}, "statistics: Input should be a valid dictionary"),
    ],
)
def test_another_one_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(BundleError) as failure:
        parse_report(Path("parity.json"), json.dumps(SOUND | changes).encode())
    assert failure.value.message.startswith(f"parity.json: not a parity report: {told}")


@pytest.mark.parametrize("content", [b"", b"[" * 20_000, b"\xff"])
def test_what_is_no_json_is_refused(content: bytes) -> None:
    with pytest.raises(BundleError, match=r"parity\.json: not JSON"):
        parse_report(Path("parity.json"), content)
