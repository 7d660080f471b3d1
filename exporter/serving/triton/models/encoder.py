"""Token ids and mask in, sentence vectors out: a model of Triton's python backend, on korsbert's own encoder.

This file is copied into a model repository as ``model.py``, beside the bundle it serves. It runs whatever engine the
bundle holds wherever ``pip install 'korsbert[cpu]'`` (or the engine's own extra) was run, without torch.

``config.pbtxt`` allows ragged batches, so Triton hands over requests of any widths together. Their sentences are taken
out of their padding, sorted by length, run in batches of few padded tokens and handed back to the requests they came
from. What is wrong with one request is answered to it and to no other.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from exporter.bundle import Bundle
from exporter.errors import ExportError

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
        threads = int(config["parameters"]["threads"]["string_value"])
        folder = Path(args["model_repository"]) / args["model_version"] / "bundle"
        bundle = Bundle.open(folder, for_encoding=True)
        self._encoder = bundle.encoder(
            device="cuda" if on_gpu else "cpu",
            threads=threads or max(1, len(os.sched_getaffinity(0)) // instances),
        )
        self._max_batch_size = config["max_batch_size"]
        self._padding_tokens = int(config["parameters"]["padding_tokens"]["string_value"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Encode the sentences of all requests together, and answer each request."""
        read = [self._read(request) for request in requests]
        sound = [rows for rows in read if not isinstance(rows, str)]
        try:
            vectors = self._encode([row for rows in sound for row in rows])
        except ExportError:
            return [self._alone(rows) for rows in read]  # one of them is at fault: it must not cost the others
        ends = np.cumsum([len(rows) for rows in sound])
        parts = iter(np.split(vectors, ends[:-1]) if sound else [])
        return [_refusal(rows) if isinstance(rows, str) else _answer(next(parts)) for rows in read]

    def finalize(self) -> None:
        """Release the engine."""
        self._encoder.close()

    def _alone(self, rows: Rows | str) -> Any:
        if isinstance(rows, str):
            return _refusal(rows)
        try:
            return _answer(self._encode(rows))
        except ExportError as error:
            return _refusal(str(error))

    def _encode(self, rows: Rows) -> npt.NDArray[np.float32]:
        return self._encoder.encode_tokens(rows, batch_size=self._max_batch_size, padding_tokens=self._padding_tokens)

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


def _refusal(message: str) -> Any:
    return pb_utils.InferenceResponse([], pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG))
