"""sentence-transformers with its ONNX backend. Variants: model (as exported), O3 and qint8, by its own functions."""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
from pathlib import Path

import onnxruntime
import torch
from sentence_transformers import (
    SentenceTransformer,
    export_dynamic_quantized_onnx_model,
    export_optimized_onnx_model,
)

from benchmarks.peer_programs import Encode, Job

_TOKENIZER, _MODULES = "tokenizer_config.json", "modules.json"
_FILES = {"model": "onnx/model.onnx", "O3": "onnx/model_O3.onnx", "qint8": "onnx/model_qint8.onnx"}


def prepare(job: Job) -> None:
    """Export the checkpoint into ``job.folder``, or optimize or quantize what was exported there."""
    if job.variant == "model":
        with tempfile.TemporaryDirectory() as scratch:
            source = _readable(Path(job.checkpoint), Path(scratch))
            model = SentenceTransformer(str(source), backend="onnx", device="cpu", model_kwargs={"export": True})
            model.save_pretrained(job.folder)
        return
    model = SentenceTransformer(job.folder, backend="onnx", device="cpu", model_kwargs={"file_name": _FILES["model"]})
    if job.variant == "O3":
        export_optimized_onnx_model(model, "O3", job.folder)
    else:
        export_dynamic_quantized_onnx_model(model, _instructions(), job.folder, file_suffix="qint8")


def _readable(checkpoint: Path, scratch: Path) -> Path:
    """Return the checkpoint, or a copy with the class names that older libraries can load, as published models have.

    Since version 6, sentence-transformers writes other names of modules. Since version 5, transformers writes
    ``TokenizersBackend`` as the class of a tokenizer that has a tokenizer.json.
    """
    tokenizer, modules = (
        json.loads((checkpoint / name).read_text(encoding="utf-8")) for name in (_TOKENIZER, _MODULES)
    )
    newer = tokenizer.get("tokenizer_class") == "TokenizersBackend"
    if not newer and not any(".base.modules." in module["type"] for module in modules):
        return checkpoint
    copy = scratch / "checkpoint"
    shutil.copytree(checkpoint, copy, copy_function=os.symlink)
    if newer:
        inputs = ["input_ids", "attention_mask"]
        tokenizer |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": inputs}
    for module in modules:
        module["type"] = f"sentence_transformers.models.{module['type'].rpartition('.')[2]}"
    for name, content in ((_TOKENIZER, tokenizer), (_MODULES, modules)):
        (copy / name).unlink()
        (copy / name).write_text(json.dumps(content), encoding="utf-8")
    return copy


def _instructions() -> str:
    """Return the configuration that the documentation recommends for this processor."""
    if platform.machine() in ("aarch64", "arm64"):
        return "arm64"
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return next((name for name in ("avx512_vnni", "avx512") if name in flags), "avx2")


def load(job: Job) -> Encode:
    """Return the model's own ``encode``."""
    torch.set_num_threads(job.threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    settings = {"file_name": _FILES[job.variant], "provider": "CPUExecutionProvider", "session_options": options}
    model = SentenceTransformer(job.folder, backend="onnx", device="cpu", model_kwargs=settings)
    return lambda texts, batch_size: model.encode(texts, batch_size=batch_size, show_progress_bar=False)
