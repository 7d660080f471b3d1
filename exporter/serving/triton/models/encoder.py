"""Token ids and mask in, sentence vectors out: a model of Triton's python backend, on korsbert's own encoder.

This file is copied into a model repository as ``model.py``, beside the bundle it serves. It runs whatever engine the
bundle holds wherever ``pip install 'korsbert[cpu]'`` (or the engine's own extra) was run, without torch.

``config.pbtxt`` allows ragged batches, so Triton hands over requests of any widths together. Their sentences are taken
out of their padding, sorted by length, and run in batches of few padded tokens, as many at a time as the engine has
threads. The shortest come first, and a request is answered when its last sentence is done, so that its client goes on
while longer ones are still being encoded. What is wrong with one request is answered to it and to no other: if a batch
fails, each request that has a sentence in it is encoded once more, alone, after all other batches.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from exporter.bundle import Bundle
from exporter.errors import ExportError
from exporter.runtime.token_encoder import rows_at_once

Rows = list[npt.NDArray[np.int64]]


class TritonPythonModel:
    """What the python backend looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Compare the bundle with its hashes and open its engine, on the device of this instance."""
        config = json.loads(args["model_config"])
        on_gpu = args["model_instance_kind"] == "GPU"
        if on_gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = args["model_instance_device_id"]
        instances = sum(group["count"] for group in config["instance_group"])
        settings = {name: value["string_value"] for name, value in config["parameters"].items()}
        threads = int(settings["threads"]) or max(1, len(os.sched_getaffinity(0)) // instances)
        folder = Path(args["model_repository"]) / args["model_version"] / "bundle"
        bundle = Bundle.open(folder, for_encoding=True)
        # Triton, the tokenizer and often clients want the cores that spinning threads would keep busy.
        self._encoder = bundle.encoder(device="cuda" if on_gpu else "cpu", threads=threads, spinning=False)
        self._max_batch_size = config["max_batch_size"]
        self._padding_tokens = int(settings["padding_tokens"])
        # All batches run in the pool, and those at one time have no more tokens together than the batch that `ship`
        # measures the memory of.
        longest = self._encoder.max_seq_length
        measured = rows_at_once(self._max_batch_size, longest) * longest
        self._batch_tokens = min(int(settings["batch_tokens"]), measured)
        self._pool = ThreadPoolExecutor(1 if on_gpu else min(threads, measured // max(self._batch_tokens, longest)))

    def execute(self, requests: list[Any]) -> list[Any] | None:
        """Encode the sentences of all requests together, and answer each request as soon as its own are done."""
        read = [self._read(request) for request in requests]
        if len(requests) == 1:  # nobody to answer before, and a returned response costs Triton less than a sent one
            return [self._alone(read[0])]
        unanswered = {number: request.get_response_sender() for number, request in enumerate(requests)}

        def send(number: int, make: Callable[[], Any]) -> None:
            _send(unanswered.pop(number), make)

        try:
            self._together(read, send)
        except Exception as error:  # noqa: BLE001 - a request without an answer would wait for ever
            for number in list(unanswered):
                send(number, partial(_refusal, f"{type(error).__name__}: {error}", "INTERNAL"))
        return None

    def finalize(self) -> None:
        """Release the engine."""
        self._pool.shutdown()
        self._encoder.close()

    def _together(self, read: list[Rows | str], send: Callable[[int, Callable[[], Any]], None]) -> None:
        """Encode what was read from several requests in common batches, and send the response to each request.

        Args:
            read: Of each request.
            send: Takes the number of a request and what makes its response.
        """
        sound = {number: found for number, found in enumerate(read) if found and not isinstance(found, str)}
        for number in range(len(read)):
            if number not in sound:
                send(number, partial(self._alone, read[number]))
        rows = [row for found in sound.values() for row in found]
        owners = [number for number, found in sound.items() for _ in found]
        starts = {number: owners.index(number) for number in sound}
        left = Counter(owners)
        vectors = np.empty((len(rows), self._encoder.full_dimension), np.float32)
        failed: set[int] = set()
        with closing(self._encode(rows)) as encoded:
            for batch, result in encoded:
                if isinstance(result, Exception):
                    failed.update(owners[row] for row in batch)
                else:
                    vectors[batch] = result
                for number in (owners[row] for row in batch):
                    left[number] -= 1
                    if not left[number] and number not in failed:
                        send(number, partial(_answer, vectors[starts[number] :][: len(sound[number])]))
        for number in sorted(failed):  # one sentence of a batch is at fault: it must not cost the other requests
            send(number, partial(self._alone, read[number]))

    def _alone(self, rows: Rows | str) -> Any:
        """Return the response to one request."""
        if isinstance(rows, str):
            return _refusal(rows)
        vectors = np.empty((len(rows), self._encoder.full_dimension), np.float32)
        with closing(self._encode(rows)) as encoded:
            for batch, result in encoded:
                if isinstance(result, ExportError):
                    return _refusal(str(result))
                if isinstance(result, Exception):
                    return _refusal(f"{type(result).__name__}: {result}", "INTERNAL")
                vectors[batch] = result
        return _answer(vectors)

    def _encode(self, rows: Rows) -> Generator[tuple[list[int], npt.NDArray[np.float32] | Exception], None, None]:
        return self._encoder.encode_tokens_by_batch(
            rows,
            batch_size=self._max_batch_size,
            padding_tokens=self._padding_tokens,
            batch_tokens=self._batch_tokens,
            pool=self._pool,
        )

    def _read(self, request: Any) -> Rows | str:
        """Return the token ids of each row without padding, or what is wrong with the request."""
        ids = pb_utils.get_input_tensor_by_name(request, "input_ids").as_numpy()
        mask = pb_utils.get_input_tensor_by_name(request, "attention_mask").as_numpy()
        if ids.shape != mask.shape:
            return f"input_ids has shape {list(ids.shape)}, attention_mask {list(mask.shape)}: they must be equal"
        limit = self._encoder.max_seq_length
        kept = mask.astype(bool)
        for number, row in enumerate(kept):
            places = np.flatnonzero(row)
            if not len(places):
                return f"row {number} of attention_mask has no token"
            if places[-1] - places[0] + 1 != len(places):
                return f"row {number} of attention_mask has a hole: padding stands at one end"
            if len(places) > limit:
                return f"row {number} has {len(places)} tokens, and {limit} are the model's maximum"
        return [row[chosen] for row, chosen in zip(ids, kept, strict=True)]


def _answer(vectors: npt.NDArray[np.float32]) -> Any:
    return pb_utils.InferenceResponse([pb_utils.Tensor("sentence_embedding", np.ascontiguousarray(vectors))])


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
