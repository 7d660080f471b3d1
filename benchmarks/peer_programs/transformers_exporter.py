"""transformers' own exporters: ONNX for ONNX Runtime, and OpenVINO, each with its quantizers; pooled as users do.

Variants: ``onnx fp32``, ``onnx dynamic``, ``onnx static``, ``openvino f32``, ``openvino bf16``, ``openvino int8``.
Sentences are sorted by length, as SentenceTransformer does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer
from transformers.exporters import (
    ExportedModel,
    NNCFOpenVINOQuantizer,
    OnnxConfig,
    OnnxExporter,
    OnnxRuntimeDynamicConfig,
    OnnxRuntimeQuantizer,
    OnnxRuntimeStaticConfig,
    OpenVINOConfig,
    OpenVINOExporter,
)

from benchmarks.peer_programs import (
    Encode,
    Job,
    Vectors,
    by_length,
    lower_cases,
    max_seq_length,
    pooled,
    pooling_of,
    transformer_folder,
)

_MOST_SAMPLES = 300  # NNCF's own number


def prepare(job: Job) -> None:
    """Export the transformer into a folder of the variant's name."""
    source = transformer_folder(job.checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(source)
    kind, precision = job.variant.split()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = AutoModel.from_pretrained(source, dtype=dtype, attn_implementation="sdpa").eval()

    def features(texts: list[str]) -> dict[str, Any]:
        return dict(
            tokenizer(
                texts, padding=True, truncation=True, max_length=max_seq_length(job.checkpoint), return_tensors="pt"
            )
        )

    samples = [features([sentence]) for sentence in job.sentences[:_MOST_SAMPLES]]
    inputs = features(job.sentences[:2])
    with torch.no_grad():
        if kind == "openvino":
            nncf = NNCFOpenVINOQuantizer(calibration_dataset=samples) if precision == "int8" else None
            exported = OpenVINOExporter().export(model, inputs, OpenVINOConfig(dynamic=True, quantizer=nncf))
        else:
            exported = OnnxExporter().export(model, inputs, _onnx_config(precision, samples))
    exported.save_pretrained(_folder(job))


def _onnx_config(precision: str, samples: list[dict[str, Any]]) -> Any:
    if precision == "fp32":
        return OnnxConfig(dynamic=True, ort_fusions="cpu")
    dynamic = OnnxRuntimeDynamicConfig(per_channel=True, op_types_to_quantize=["MatMul", "Gemm"])
    static = OnnxRuntimeStaticConfig(per_channel=True, op_types_to_quantize=["MatMul", "Gemm"])
    if precision == "dynamic":
        return OnnxConfig(dynamic=True, ort_fusions="cpu", quantizer=OnnxRuntimeQuantizer(dynamic))
    # Its static quantizer cannot infer the shapes of a fused graph.
    return OnnxConfig(dynamic=True, quantizer=OnnxRuntimeQuantizer(static, calibration_dataset=samples))


def _folder(job: Job) -> Path:
    return Path(job.folder) / job.variant.replace(" ", "-")


def load(job: Job) -> Encode:
    """Return what encodes."""
    torch.set_num_threads(job.threads)
    if job.variant.startswith("onnx"):
        import onnxruntime  # noqa: PLC0415 - OpenVINO's variants need none

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = job.threads
        settings: dict[str, Any] = {"session_options": options}
    else:
        settings = {"config": {"INFERENCE_NUM_THREADS": job.threads}}
    model = ExportedModel.from_pretrained(_folder(job), device="cpu", **settings)
    tokenizer = AutoTokenizer.from_pretrained(transformer_folder(job.checkpoint))
    mode, normalize = pooling_of(job.checkpoint)
    limit, lower = max_seq_length(job.checkpoint), lower_cases(job.checkpoint)

    def encode(texts: list[str]) -> Vectors:
        texts = [text.lower() for text in texts] if lower else texts
        features = tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        hidden = model(**features).last_hidden_state.float().numpy()
        return pooled(hidden, features["attention_mask"].numpy(), mode, normalize=normalize)

    return by_length(encode)
