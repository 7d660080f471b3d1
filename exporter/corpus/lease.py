"""A lock on an object store that ends when nobody renews it any more: that of a process that was killed, for one.

The lock is an object with a random token and the time. Its owner writes it again every 30 s. Another process takes it
over when it has not changed for 5 minutes: by that process's own clock, as two clocks need not agree. It writes a token
of its own, waits a moment and reads it back, so that of two that do so at once one gives up.

A lock that is new is made by a conditional write, on stores that have them. No store lets fsspec replace an object on a
condition. So two processes may both write for a while: when the owner cannot reach the store for 5 minutes and another
process takes the lock over, or when a write of the lock takes longer than the moment that the other one waits. Whose
token it no longer is, that process learns it with the next part or the next renewal, and stops.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Protocol

from exporter.errors import BundleError

RENEWED = 30.0
"""Seconds between two renewals."""
EXPIRES = 300.0
"""Seconds without a renewal after which another process takes the lock over."""
SETTLES = 5.0
"""Seconds until the one who takes a lock over reads it back."""
THREAD = "korsbert-lock"
"""Name of the thread that renews a lock."""


class LockObject(Protocol):
    """The object.

    Attributes:
        url: Of what it locks, for messages.
    """

    url: str

    def read(self) -> bytes:
        """Return its content.

        Raises:
            FileNotFoundError: There is none.
        """
        ...

    def create(self, content: bytes) -> None:
        """Write it where there is none.

        Raises:
            FileExistsError: There is one, and the store has conditional writes.
        """
        ...

    def replace(self, content: bytes) -> None:
        """Write it, whatever is there."""
        ...

    def remove(self) -> None:
        """Remove it."""
        ...


class Lease:
    """A lock that this process has, until ``held`` ends.

    Args:
        lock: The object.
    """

    def __init__(self, lock: LockObject) -> None:
        self._lock = lock
        self._token = secrets.token_hex(16)
        self._ended = threading.Event()

    @contextmanager
    def held(self, on_wait: Callable[[str], None]) -> Iterator[None]:
        """Take the lock, renew it during the block, and remove it at the end if it is still that of this process.

        Args:
            on_wait: Called with a sentence when the lock of another process is there, and is watched.

        Raises:
            BundleError: Another process renews it, or the store cannot be read or written to.
        """
        thread = threading.Thread(target=self._keep_renewing, name=THREAD, daemon=True)
        try:
            self._take(on_wait)
            thread.start()
            yield
        finally:
            self._ended.set()
            if thread.ident is not None:
                thread.join()
            with suppress(BundleError):  # the lock ends by itself
                if self._is_ours():
                    self._lock.remove()

    def refuse_lost(self) -> None:
        """Refuse to go on where another process has taken the lock over.

        Raises:
            BundleError: It has.
        """
        if not self._is_ours():
            raise BundleError(
                f"{self._lock.url}: another embed has begun to write there, as the lock of this one was not renewed",
                next_step="wait for it to finish, and run the same command again",
            )

    def _take(self, on_wait: Callable[[str], None]) -> None:
        if self._ends(on_wait):
            try:
                self._lock.create(self._renewed())
            except FileExistsError as error:
                if not self._is_ours():  # a request that is sent again finds what the first one has written
                    raise self._taken() from error
        else:
            self._lock.replace(self._renewed())
            time.sleep(SETTLES)
            if not self._is_ours():
                raise self._taken()

    def _ends(self, on_wait: Callable[[str], None]) -> bool:
        """Watch the lock of another process. Return whether it is removed; if it is not, nobody has renewed it.

        Raises:
            BundleError: It is renewed.
        """
        seen = now = self._content()
        if now is not None:
            on_wait(
                f"{self._lock.url}: another embed has locked it, or one was killed: "
                f"waiting up to {EXPIRES:.0f} s to see whether its lock is renewed"
            )
        started = time.monotonic()
        while now is not None and time.monotonic() < started + EXPIRES:
            time.sleep(min(RENEWED, EXPIRES) / 10)
            now = self._content()
            if now not in (None, seen):
                raise self._taken()
        return now is None

    def _keep_renewing(self) -> None:
        while not self._ended.wait(RENEWED):
            with suppress(BundleError):  # of a store that cannot be reached now
                if not self._is_ours():
                    return
                self._lock.replace(self._renewed())

    def _renewed(self) -> bytes:
        return json.dumps({"token": self._token, "renewed": datetime.now(UTC).isoformat()}).encode()

    def _is_ours(self) -> bool:
        return self._token.encode() in (self._content() or b"")

    def _content(self) -> bytes | None:
        try:
            return self._lock.read()
        except FileNotFoundError:
            return None

    def _taken(self) -> BundleError:
        return BundleError(
            f"{self._lock.url}: another embed is writing there",
            next_step="wait for it to finish, or choose another `out`",
        )
