"""What strangers may send: any bytes, any JSON, and sound documents of which a part is something else.

``KORSBERT_FUZZ_CASES`` sets the number of cases of every fuzz test: 200 by default, and ``make fuzz`` runs 5,000.
"""

from __future__ import annotations

import copy
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from exporter.errors import ExportError
from exporter.files import SMALL

CASES = int(os.environ.get("KORSBERT_FUZZ_CASES", "200"))
LONGEST_MESSAGE = 2000  # three mistakes of a gate, each with the twenty keys that are legal
LONGEST_CASE = 60  # seconds; a case takes milliseconds
GiB = 2**30

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
# What a reader may take for a size, a number, a name or a path.
_TELLING: st.SearchStrategy[Any] = st.sampled_from(
    [0, -1, 1, 2**31, 2**63, 10**7, 1e308, "", "x", "../x", "/dev/zero", "\ud800", "x" * 5000, [], {}, [[]], None, True]
).map(copy.deepcopy)  # a case may change what it has drawn


@contextmanager
def told_in_a_sentence() -> Iterator[None]:
    """Let a block end in one of korsbert's own errors, hold its message to what a message is, and end a hang."""
    signal.signal(signal.SIGALRM, _hung)
    signal.alarm(LONGEST_CASE)
    try:
        yield
    except ExportError as error:
        message = error.message
        assert message.splitlines() == [message], message
        assert message.isprintable(), message
        assert len(message) < LONGEST_MESSAGE, message
    finally:
        signal.alarm(0)


def _hung(*_: object) -> None:
    raise AssertionError(f"nothing was said for {LONGEST_CASE} seconds")


@contextmanager
def within_one_gibibyte() -> Iterator[None]:
    """Require that the largest resident memory of a block is less than 1 GiB above the memory before it."""
    Path("/proc/self/clear_refs").write_text("5")  # the largest resident memory starts again from the present one
    before = _largest_resident()
    yield
    assert _largest_resident() - before < GiB


def _largest_resident() -> int:
    """Return the largest resident memory of this process, in bytes."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def many(of: str) -> str:
    """Return a JSON list of tiny values that is as large as a small file may be."""
    return f"[{','.join([of] * (SMALL // (len(of) + 1) - 100))}]"


@st.composite
def changed_bytes(draw: st.DrawFn, sound: bytes) -> bytes:
    """Draw other bytes than sound ones: some are replaced, inserted or cut off, or all of them are others."""
    if draw(st.integers(0, 5)) == 0:
        return draw(st.binary(max_size=300))
    content = bytearray(sound)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        content[start : start + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return bytes(content[: draw(st.none() | st.integers(0, len(content)))])


@st.composite
def changed_json(draw: st.DrawFn, sound: Any) -> Any:
    """Draw a sound JSON document of which one to three values are others, missing, renamed or nested deeply."""
    document = copy.deepcopy(sound)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(document))
        if not places:
            return draw(JSON)
        container, key = places[draw(st.integers(0, len(places) - 1))]
        kind = draw(st.integers(0, 3))
        if kind == 0:
            del container[key]
        elif kind == 1 and isinstance(container, dict):
            container[draw(st.text(max_size=8))] = container.pop(key)
        elif kind == 2:
            container[key] = draw(_TELLING)
        else:
            container[key] = draw(JSON)
    return document


@st.composite
def changed_json_bytes(draw: st.DrawFn, sound: Any) -> bytes:
    """Draw the bytes of a changed JSON document, or changed bytes of a sound one."""
    if draw(st.integers(0, 3)) == 0:
        return draw(changed_bytes(json.dumps(sound).encode()))
    if draw(st.integers(0, 30)) == 0:
        return b"[" * 20_000
    return json.dumps(draw(changed_json(sound))).encode()


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container of a document with each of its keys."""
    keys: Any = ()
    if isinstance(document, dict):
        keys = tuple(document)
    elif isinstance(document, list):
        keys = range(len(document))
    for key in keys:
        yield document, key
        yield from _places(document[key])
