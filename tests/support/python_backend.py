"""A stand-in for Triton's python backend: the module that its models import, and requests as it hands them over."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

MODULE = "triton_python_backend_utils"


class TritonError(str):
    """The message of an error, with its code."""

    INVALID_ARG, INTERNAL = 3, 13
    code: int

    def __new__(cls, message: str, code: int) -> TritonError:
        """Return the message."""
        error = super().__new__(cls, message)
        error.code = code
        return error


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the stand-in in the place of the module, for the time of a test."""
    backend = SimpleNamespace(
        get_input_tensor_by_name=lambda request, name: SimpleNamespace(as_numpy=lambda: request.tensors[name]),
        Tensor=lambda name, array: (name, array),
        InferenceResponse=lambda tensors, error=None: SimpleNamespace(tensors=tensors, error=error),
        TritonError=TritonError,
        TRITONSERVER_RESPONSE_COMPLETE_FINAL=1,
    )
    monkeypatch.setitem(sys.modules, MODULE, backend)


class Request:
    """A request as the python backend hands it over.

    Attributes:
        tensors: Its inputs, by name.
        answer: What was sent, or None.
    """

    SEND_FAILURE = "Failed to increase the shared memory pool size"

    def __init__(
        self,
        tensors: dict[str, npt.NDArray[Any]],
        parameters: str = "{}",
        on_answer: Callable[[Request], None] = lambda _: None,
        send_failures: int = 0,
    ) -> None:
        """Make a request.

        Args:
            tensors: Its inputs, by name.
            parameters: JSON text.
            on_answer: Called when its answer was sent.
            send_failures: So many times its sender fails to send, as where the backend gets no shared memory.
        """
        self.tensors, self._parameters, self._on_answer = tensors, parameters, on_answer
        self._send_failures = send_failures
        self.answer: Any = None

    def parameters(self) -> str:
        """Return the parameters as JSON text."""
        return self._parameters

    def get_response_sender(self) -> Any:
        """Return what sends the answer, once."""
        return SimpleNamespace(send=self._send)

    def _send(self, answer: Any, _flags: int) -> None:
        assert self.answer is None, "a request was answered twice"
        if self._send_failures:
            self._send_failures -= 1
            raise RuntimeError(self.SEND_FAILURE)
        self.answer = answer
        self._on_answer(self)


def executed(model: Any, requests: list[Request]) -> list[Any]:
    """Have a model execute requests, and return the answer to each, sent or returned."""
    returned = model.execute(requests)
    return [request.answer for request in requests] if returned is None else returned


def texts(*found: bytes) -> dict[str, npt.NDArray[Any]]:
    """Return the input of a tokenizer."""
    return {"text": np.array([[text] for text in found], dtype=object)}
