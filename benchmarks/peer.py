"""Another tool in an environment of its own, which takes turns with korsbert: a process that answers requests.

Tools want other versions of the same libraries. A peer is therefore code that another Python runs. A request is a line
of JSON, and so is an answer, which bytes may follow.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

# Before a peer's code: whatever libraries print goes to stderr, so that answers stay apart.
ANSWERS = """
import json, os, sys
answers = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
def answer(content, values=b""):
    answers.write(json.dumps(content).encode() + b"\\n" + values)
    answers.flush()
def requests():
    return map(json.loads, sys.stdin)
"""

# A line that names an exception, as a traceback ends or pip says it: a message may have more lines.
_NAMED = re.compile(r"(ERROR: |[\w.]*(Error|Exception|Exit)\b)")


class PeerError(Exception):
    """The peer ended; the message is the last error that it said."""


def last_error(said: str) -> str:
    """Return the last line that names an error, or the last line."""
    lines = [line for line in said.splitlines() if line.strip()] or ["it ended without a word"]
    return next((line for line in reversed(lines) if _NAMED.match(line)), lines[-1])


class Peer:
    """A process in a peer's environment; use it in a ``with`` statement."""

    def __init__(self, python: Path, code: str, *arguments: str) -> None:
        """Start it.

        Args:
            python: Of the peer's environment.
            code: What it runs: ``ANSWERS`` and what follows.
            arguments: Its command line.
        """
        with ExitStack() as stack:
            self._errors = stack.enter_context(tempfile.TemporaryFile())
            self._process = subprocess.Popen(
                [str(python), "-c", code, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
            )
            stack.callback(self._end)
            self._stack = stack.pop_all()

    def ask(self, request: object) -> Any:
        """Send a request and return the answer.

        Raises:
            PeerError: The process ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        return self.answer()

    def answer(self) -> Any:
        """Return the next answer, such as one that a peer gives when it is ready.

        Raises:
            PeerError: The process ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._ended()
        return json.loads(line)

    def read(self, count: int) -> bytes:
        """Return the bytes that follow an answer, ``count`` of them.

        Raises:
            PeerError: The process ended before it had written all of them.
        """
        assert self._process.stdout is not None
        found = self._process.stdout.read(count)
        if len(found) < count:
            raise self._ended()
        return found

    def _ended(self) -> PeerError:
        """Wait for the end of a process that has closed a pipe, and return an error that says why it ended."""
        code = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace")
        return PeerError(f"killed by signal {-code}" if code < 0 else last_error(said))

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
