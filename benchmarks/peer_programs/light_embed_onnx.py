"""light-embed with a local model. Variants: model and qint8, the graphs that sentence-transformers exported."""

from __future__ import annotations

from typing import Any

import onnxruntime
from light_embed import TextEmbedding

from benchmarks.peer_programs import Encode, Job, pooling_of

_FILES = {"model": "onnx/model.onnx", "qint8": "onnx/model_qint8.onnx"}


def load(job: Job) -> Encode:
    """Return what encodes."""
    options_class = onnxruntime.SessionOptions

    def with_threads() -> Any:
        options = options_class()
        options.intra_op_num_threads = job.threads
        return options

    onnxruntime.SessionOptions = with_threads  # light-embed has no option for it
    mode, normalize = pooling_of(job.checkpoint)
    config = {
        "model_name": "benchmark/model",
        "onnx_file": _FILES[job.variant],
        "pooling_mode": mode,
        "normalize": normalize,
        # The graph has token vectors alone; their name there is another.
        "onnx_output_map": {"last_hidden_state": "token_embeddings"},
    }
    model = TextEmbedding(job.folder, device="cpu", model_config=config)
    return lambda texts, batch_size: model.encode(texts, batch_size=batch_size)
