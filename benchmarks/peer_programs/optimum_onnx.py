"""optimum-onnx's ``ORTModelForFeatureExtraction`` with the tokenizer of transformers, pooled as its users do.

It runs the graph that sentence-transformers exported with it. Sentences are sorted by length, as SentenceTransformer
does.
"""

from __future__ import annotations

import onnxruntime
import torch
from optimum.onnxruntime import ORTModelForFeatureExtraction
from transformers import AutoTokenizer

from benchmarks.peer_programs import Encode, Job, Vectors, by_length, max_seq_length, pooled, pooling_of


def load(job: Job) -> Encode:
    """Return what encodes."""
    torch.set_num_threads(job.threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    tokenizer = AutoTokenizer.from_pretrained(job.folder)
    model = ORTModelForFeatureExtraction.from_pretrained(
        job.folder, file_name="model.onnx", subfolder="onnx", provider="CPUExecutionProvider", session_options=options
    )
    mode, normalize = pooling_of(job.checkpoint)
    limit = max_seq_length(job.checkpoint)

    def encode(texts: list[str]) -> Vectors:
        features = tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="np")
        hidden = model(**features)[0]
        return pooled(hidden, features["attention_mask"], mode, normalize=normalize)

    return by_length(encode)
