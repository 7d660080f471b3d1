"""Strings in, token ids and mask out: a model of Triton's python backend.

The parameter ``prompt_name`` of a request chooses one of the model's prompts. An ensemble passes it on.

This file is copied into a model repository as ``model.py``, beside the bundle's ``tokenizer.json`` (which truncates
and lower-cases) and ``korsbert_tokens.py``, the code that the encoder itself tokenizes with. It needs ``tokenizers``
and numpy, and nothing of korsbert. A request that cannot be read is answered with an error of its own, and so is one
whose response cannot be made or sent; the others of its batch are not touched.

Triton batches requests for the encoder only while their shapes are equal, one after the other as they come: requests
of all lengths would travel alone. So where the encoder wants one shape per batch, each request is padded to a bucket
of the parameter ``sequence_buckets``, and the requests that were tokenized together are answered in the order of their
widths, so that equal ones stand side by side in the encoder's queue. Without that parameter every request is as wide
as its longest sentence.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils
from korsbert_tokens import TextTokenizer
from tokenizers import Tokenizer

SHOWN = 100
"""Characters of a name that an error repeats, at most."""


class TritonPythonModel:
    """What the python backend looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the tokenizer of this version and read the parameters of ``config.pbtxt``."""
        parameters = json.loads(args["model_config"])["parameters"]
        settings = {name: value["string_value"] for name, value in parameters.items()}
        folder = Path(args["model_repository"]) / args["model_version"]
        self._tokenizer = TextTokenizer(Tokenizer.from_file(str(folder / "tokenizer.json")))
        self._prompt, self._prompts = settings["prompt"], json.loads(settings["prompts"])
        self._max_text_bytes = int(settings["max_text_bytes"])
        self._buckets = [int(width) for width in settings["sequence_buckets"].split(",") if width]

    def execute(self, requests: list[Any]) -> list[Any] | None:
        """Tokenize the sentences of all requests at once, and answer each request, the narrowest first."""
        read = [self._read(request) for request in requests]
        try:
            rows = iter(self._tokenizer.ids([text for found in read if isinstance(found, list) for text in found]))
            ids = [[next(rows) for _ in found] if isinstance(found, list) else found for found in read]
        except BaseException as error:  # a panic of Rust code is no Exception: one request must not cost the others
            if type(error).__name__ != "PanicException":
                raise
            ids = [self._alone(found) if isinstance(found, list) else found for found in read]
        widths = [self._width(found) if isinstance(found, list) else 0 for found in ids]
        if len(requests) == 1:  # nothing to put in order, and a returned response costs Triton less than a sent one
            return [self._answer(ids[0], widths[0])]
        senders = [request.get_response_sender() for request in requests]
        for number in sorted(range(len(requests)), key=widths.__getitem__):
            _send(senders[number], partial(self._answer, ids[number], widths[number]))
        return None

    def _read(self, request: Any) -> list[str] | str:
        """Return the sentences of a request, prompt included, or what is wrong with it."""
        try:
            name = json.loads(request.parameters() or "{}").get("prompt_name")
        except ValueError:  # also of bytes that are not UTF-8
            return "the parameters of the request are not JSON in UTF-8"
        if name is None:
            prompt = self._prompt
        elif isinstance(name, str) and name in self._prompts:
            prompt = self._prompts[name]
        else:
            known = ", ".join(map(repr, self._prompts)) or "none"
            return f"the model has no prompt {str(name)[:SHOWN]!r}; its prompts are {known}"
        cells = pb_utils.get_input_tensor_by_name(request, "text").as_numpy().reshape(-1)
        sentences = []
        for number, cell in enumerate(cells):
            if len(cell) > self._max_text_bytes:
                return f"text {number} has {len(cell)} bytes, and {self._max_text_bytes} are allowed"
            try:
                sentences.append(prompt + cell.decode())
            except UnicodeDecodeError as error:
                return f"text {number} is not UTF-8 at byte {error.start}"
        return sentences

    def _alone(self, sentences: list[str]) -> list[list[int]] | str:
        """Return the token ids of one request, or that the tokenizer fails with it."""
        try:
            rows: list[list[int]] = self._tokenizer.ids(sentences)
        except BaseException as error:
            if type(error).__name__ != "PanicException":
                raise
            return "the tokenizer fails with these texts"
        return rows

    def _width(self, rows: list[list[int]]) -> int:
        longest = max(map(len, rows), default=0)
        return next((width for width in self._buckets if width >= longest), longest)

    def _answer(self, found: list[list[int]] | str, width: int) -> Any:
        if isinstance(found, str):
            return _refusal(found)
        ids, mask = self._tokenizer.pad(found, width)
        return pb_utils.InferenceResponse([pb_utils.Tensor("input_ids", ids), pb_utils.Tensor("attention_mask", mask)])


# Both functions are in `encoder.py` too: each file stands alone in a model repository.
def _send(sender: Any, make: Callable[[], Any]) -> None:
    """Send the response to a request, or why there is none. Whatever fails, the other requests get their answers."""
    final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
    try:
        sender.send(make(), final)
    except Exception as error:  # noqa: BLE001 - tritonserver 2.51 crashes if `execute` raises after an answer
        why = f"{type(error).__name__}: {error}"
        try:
            sender.send(_refusal(why, "INTERNAL"), final)
        except Exception:  # noqa: BLE001 - a sender that has failed may refuse to send again
            logging.getLogger(__name__).error("a request stays without an answer: %s", why)  # noqa: TRY400


def _refusal(message: str, code: str = "INVALID_ARG") -> Any:
    error = pb_utils.TritonError  # the backend adds it after it has imported this file
    return pb_utils.InferenceResponse([], error(message, getattr(error, code)))
