"""Limits of a verification: seconds per request and in all, bytes per answer."""

from __future__ import annotations

import time

from exporter.errors import InputError, ServerError

ANSWER_BYTES = 8 * 2**20
"""Most bytes of one answer. 32 vectors of 65,536 float32 fit; 32 clients at once need at most 256 MiB for them."""
REQUEST_S = 60.0
TOTAL_S = 1800.0
DAY_S = 86400


class Timer:
    """The time of one request."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def over(self) -> bool:
        """Whether no time is left."""
        return time.monotonic() >= self._end

    def left(self) -> float:
        """Return the seconds that are left.

        Raises:
            TimeoutError: There are none.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


class Deadline:
    """The time for all requests together, of which one may take only a part. Clients in several threads share it."""

    def __init__(self, request_s: float = REQUEST_S, total_s: float = TOTAL_S) -> None:
        """Start the time of all requests.

        Raises:
            InputError: A time is not between 0 and a day.
        """
        for name, seconds in {"timeout_s": request_s, "deadline_s": total_s}.items():
            if not 0 < seconds <= DAY_S:  # NaN neither
                raise InputError(f"`{name}` is {seconds}, and must be above 0 and at most {DAY_S} seconds")
        self._request_s, self._total_s = request_s, total_s
        self._total = Timer(total_s)

    def left(self) -> float:
        """Return the seconds that are left for all requests together, 0 where there are none."""
        try:
            return self._total.left()
        except TimeoutError:
            return 0.0

    def seconds(self) -> float:
        """Return how long the next request may take.

        Raises:
            ServerError: The time for all of them is over.
        """
        try:
            return min(self._request_s, self._total.left())
        except TimeoutError as error:
            raise ServerError(
                f"the server did not answer all requests within {self._total_s:g} s",
                next_step="raise `deadline_s`, or send less with `requests`",
            ) from error
