"""fastembed with a custom model. Variants: model and qint8, the graphs that sentence-transformers exported."""

from __future__ import annotations

import json
from pathlib import Path

from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType

from benchmarks.peer_programs import Encode, Job, pooling_of, transformer_folder

_FILES = {"model": "onnx/model.onnx", "qint8": "onnx/model_qint8.onnx"}
_POOLING = {"mean": PoolingType.MEAN, "cls": PoolingType.CLS}


def load(job: Job) -> Encode:
    """Return what encodes."""
    mode, normalize = pooling_of(job.checkpoint)
    config = json.loads((transformer_folder(job.checkpoint) / "config.json").read_text(encoding="utf-8"))
    TextEmbedding.add_custom_model(
        model="benchmark/model",
        pooling=_POOLING[mode],
        normalization=normalize,
        sources=ModelSource(url="http://localhost/never-asked"),
        dim=config["hidden_size"],
        model_file=_FILES[job.variant],
        additional_files=[f"{_FILES[job.variant]}.data"] if _has_data(job) else [],
    )
    model = TextEmbedding("benchmark/model", threads=job.threads, specific_model_path=job.folder, cuda=False)
    return lambda texts, batch_size: list(model.embed(texts, batch_size=batch_size))


def _has_data(job: Job) -> bool:
    return (Path(job.folder) / f"{_FILES[job.variant]}.data").is_file()
