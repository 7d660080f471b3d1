"""sentence-transformers on torch. Variants: fp32 and bf16, the dtype of the weights."""

from __future__ import annotations

import torch
from sentence_transformers import SentenceTransformer

from benchmarks.peer_programs import Encode, Job

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load(job: Job) -> Encode:
    """Return the model's own ``encode``."""
    torch.set_num_threads(job.threads)
    options = {"dtype": _DTYPES[job.variant], "attn_implementation": "sdpa"}
    model = SentenceTransformer(job.checkpoint, device="cpu", model_kwargs=options)
    return lambda texts, batch_size: model.encode(texts, batch_size=batch_size, show_progress_bar=False)
