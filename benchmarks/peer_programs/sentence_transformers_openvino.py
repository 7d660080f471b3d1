"""sentence-transformers with its OpenVINO backend. Variants: f32, bf16 and qint8, which its own function calibrates."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from optimum.intel import OVQuantizationConfig
from sentence_transformers import SentenceTransformer, export_static_quantized_openvino_model

from benchmarks.peer_programs import Encode, Job

_MOST_SAMPLES = 300  # optimum-intel's own number


def prepare(job: Job) -> None:
    """Convert the checkpoint into ``job.folder``, or quantize what was converted there."""
    if job.variant == "f32":
        model = SentenceTransformer(job.checkpoint, backend="openvino", device="cpu", model_kwargs={"export": True})
        model.save_pretrained(job.folder)
        return
    model = SentenceTransformer(job.folder, backend="openvino", device="cpu")
    sentences = job.sentences[:_MOST_SAMPLES]
    with tempfile.TemporaryDirectory() as data:
        (Path(data) / "train.txt").write_text("\n".join(sentences), encoding="utf-8")
        export_static_quantized_openvino_model(
            model,
            OVQuantizationConfig(num_samples=len(sentences)),
            job.folder,
            dataset_name=data,
            dataset_config_name="default",
            dataset_split="train",
            column_name="text",
        )


def load(job: Job) -> Encode:
    """Return the model's own ``encode``."""
    torch.set_num_threads(job.threads)
    config: dict[str, Any] = {"INFERENCE_NUM_THREADS": job.threads}
    settings: dict[str, Any] = {"ov_config": config}
    if job.variant == "qint8":  # what stays in floating point is in what OpenVINO chooses
        settings["file_name"] = "openvino/openvino_model_qint8_quantized.xml"
    else:
        config["INFERENCE_PRECISION_HINT"] = job.variant
    model = SentenceTransformer(job.folder, backend="openvino", device="cpu", model_kwargs=settings)
    return lambda texts, batch_size: model.encode(texts, batch_size=batch_size, show_progress_bar=False)
