"""Seeded mistakes in a model repository, what the linter must say of each, and what a real server does about it."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from exporter.serving.triton.config import FILE, read_config, to_text

__all__ = ["MISTAKES", "Mistake"]

Change = Callable[[Path], None]


@dataclass(frozen=True)
class Mistake:
    """One mistake.

    Attributes:
        name: In tests.
        seed: Makes it, in a sound repository of the demo.
        field: What the linter must name.
        values: What its finding must hold: what it found, and what it wanted.
        runtime: The repository it is made in: ``"python"``, which the server of the tests can load, or ``"engine"``.
        model: Which model the server is asked to load.
        server: ``"rejects"``: it does not load the model. ``"serves wrongly"``: a test of its own shows how.
            ``"silent"``: it loads it and answers. ``"is lost"``: it is never ready, or crashes. ``"cannot tell"``: this
            server lacks the backend.
        says: What its error holds then, or its log by the time that it should be ready.
    """

    name: str
    seed: Change
    field: str
    values: tuple[str, str]
    runtime: str = "python"
    model: str = "demo"
    server: str = "rejects"
    says: str = ""


def _edit(model: str, change: Callable[[Any], None]) -> Change:
    def seed(folder: Path) -> None:
        path = folder / model / FILE
        config = read_config(path)
        change(config)
        path.write_text(to_text(config), encoding="utf-8")

    return seed


def _set(model: str, path: str, value: Any) -> Change:
    """Set a field by its dotted path; numbers are positions in repeated fields."""

    def change(config: Any) -> None:
        *parents, last = path.split(".")
        for part in parents:
            config = config[int(part)] if part.isdecimal() else getattr(config, part)
        setattr(config, last, value)

    return _edit(model, change)


def _dims(model: str, field: str, dims: list[int]) -> Change:
    def change(config: Any) -> None:
        tensor = getattr(config, field)[0]
        del tensor.dims[:]
        tensor.dims.extend(dims)

    return _edit(model, change)


def _rewrite(path: str, change: Callable[[bytes], bytes]) -> Change:
    """Rewrite a file, cut loose from whatever it is linked with."""

    def seed(folder: Path) -> None:
        content = change((folder / path).read_bytes())
        (folder / path).unlink()
        (folder / path).write_bytes(content)

    return seed


def _remove(path: str) -> Change:
    def seed(folder: Path) -> None:
        target = folder / path
        shutil.rmtree(target) if target.is_dir() else target.unlink()

    return seed


def _image(release: str) -> Change:
    def seed(folder: Path) -> None:
        (folder / "Dockerfile").write_text(f"FROM nvcr.io/nvidia/tritonserver:{release}-py3\n")

    return seed


def _longer(content: bytes) -> bytes:
    tokenizer = json.loads(content)
    tokenizer["truncation"]["max_length"] = 300
    return json.dumps(tokenizer, ensure_ascii=False).encode()


def _one_longer(content: bytes) -> bytes:
    tokenizer = json.loads(content)
    tokenizer["truncation"]["max_length"] += 1
    return json.dumps(tokenizer, ensure_ascii=False).encode()


def _untruncated(content: bytes) -> bytes:
    return json.dumps(json.loads(content) | {"truncation": None}, ensure_ascii=False).encode()


def _case_kept(content: bytes) -> bytes:
    """Take every lower-casing out of a tokenizer."""
    tokenizer = json.loads(content)
    kept = [one for one in tokenizer["normalizer"]["normalizers"] if one["type"] != "Lowercase"]
    for one in kept:
        if one["type"] == "BertNormalizer":
            one["lowercase"] = False
    tokenizer["normalizer"]["normalizers"] = kept
    return Tokenizer.from_str(json.dumps(tokenizer)).to_str().encode()


def _flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def _plan(version: tuple[int, int, int, int], gpu: str) -> Change:
    """Turn the encoder into the header of a TensorRT plan, and tell the manifest of its builder."""

    def seed(folder: Path) -> None:
        from exporter.bundle import MANIFEST, Manifest
        from exporter.engines.facts import EngineFacts

        place = folder / "demo" / "1"
        (place / "model.onnx").unlink()
        (place / "model.plan").write_bytes(struct.pack("<II16x4B", 0x74727466, 0, *version) + b"rest")
        manifest = Manifest.model_validate_json((place / MANIFEST).read_bytes())
        facts = EngineFacts(version="10.13.3.9", compute_capability=gpu)
        manifest = manifest.model_copy(update={"engine": manifest.engine.model_copy(update={"facts": facts})})
        (place / MANIFEST).write_bytes(manifest.sealed().to_json())
        _edit("demo", _as_tensorrt)(folder)

    return seed


def _as_tensorrt(config: Any) -> None:
    config.backend = "tensorrt"
    config.instance_group[0].kind = config.instance_group[0].Kind.KIND_GPU


def _clear(field: str) -> Callable[[Any], None]:
    return lambda config: config.ClearField(field)


def _small(config: Any) -> None:
    """Make the largest batch 1, and take out what does not fit it."""
    config.max_batch_size = 1
    config.dynamic_batching.ClearField("preferred_batch_size")
    for number in reversed(range(len(config.model_warmup))):
        if config.model_warmup[number].batch_size > 1:
            del config.model_warmup[number]


MISTAKES = (
    Mistake(
        "no protobuf",
        _rewrite("demo/config.pbtxt", lambda content: content + b"\ninput [ { name: \n"),
        "file",
        ("not a model configuration", "a ModelConfig"),
        says="failed to read text proto",
    ),
    Mistake(
        "a field that does not exist",
        _rewrite("demo/config.pbtxt", lambda content: content + b"max_batchsize: 8\n"),
        "file",
        ("max_batchsize", "a ModelConfig"),
        says="failed to read text proto",
    ),
    Mistake("no configuration", _remove("demo/config.pbtxt"), "file", ("missing", FILE), says="demo"),
    Mistake(
        "a name that is not the folder's",
        _set("demo", "name", "demo_fp32"),
        "name",
        ("'demo_fp32'", "'demo'"),
        says="demo_fp32",
    ),
    Mistake("no version folder", _remove("demo/1"), "version folders", ("none", "a folder called 1"), says="version"),
    Mistake(
        "no model file",
        _remove("demo/1/model.py"),
        "model file",
        ("__pycache__, bundle", "model.py"),
        server="is lost",
        says="Python model file not found",
    ),
    Mistake(
        "a bundle that was altered",
        _rewrite("demo/1/bundle/model.onnx", _flip),
        "engine",
        ("altered since it was published", "a python model"),
        says="altered since it was published",
    ),
    Mistake(
        "an input that the engine lacks",
        _set("demo", "input.1.name", "mask"),
        "input.name",
        ("'mask'", "'attention_mask'"),
        model="demo_text",
        says="expected 2 inputs but got 1",
    ),
    Mistake(
        "an input of another type",
        _set("demo", "input.0.data_type", 8),
        "input[input_ids].data_type",
        ("TYPE_INT32", "TYPE_INT64"),
        model="demo_text",
        says="is 'INT64'",
    ),
    Mistake(
        "an output of another type",
        _set("demo", "output.0.data_type", 10),
        "output[sentence_embedding].data_type",
        ("TYPE_FP16", "TYPE_FP32"),
        model="demo_text",
        says="TYPE_FP16",
    ),
    Mistake(
        "the batch named twice",
        _dims("demo", "input", [-1, -1]),
        "input[input_ids].dims",
        ("[-1, -1]", "[-1]"),
        model="demo_text",
        says="[-1,-1,-1]",
    ),
    Mistake(
        "an output of another length",
        _dims("demo", "output", [128]),
        "output[sentence_embedding].dims",
        ("[128]", "[256]"),
        model="demo_text",
        says="128",
    ),
    Mistake(
        "a fixed length",
        _dims("demo", "input", [64]),
        "input[input_ids].dims",
        ("[64]", "[-1]"),
        says="unexpected shape",
    ),
    Mistake(
        "batches beyond the profile",
        _set("demo", "max_batch_size", 512),
        "max_batch_size",
        ("512", "<= 128"),
        server="silent",
    ),
    Mistake(
        "an ensemble with larger batches than its members",
        _set("demo_text", "max_batch_size", 256),
        "max_batch_size",
        ("256", "<= 128"),
        model="demo_text",
        says="256",
    ),
    Mistake(
        "no dynamic batching",
        _edit("demo", _clear("dynamic_batching")),
        "dynamic_batching",
        ("absent", "dynamic_batching { }"),
        server="serves wrongly",
    ),
    Mistake(
        "dynamic batching without room",
        _edit("demo", _small),
        "max_batch_size",
        ("1", "above 1"),
        server="silent",
    ),
    Mistake(
        "a preferred size beyond the largest",
        _edit("demo", lambda config: config.dynamic_batching.preferred_batch_size.append(256)),
        "dynamic_batching.preferred_batch_size",
        ("256", "<= max_batch_size, 128"),
        says="preferred",
    ),
    Mistake(
        "an ensemble of a model that is not there",
        _set("demo_text", "ensemble_scheduling.step.1.model_name", "demo_fp32"),
        "ensemble_scheduling.step[1].model_name",
        ("'demo_fp32'", "a sound model"),
        model="demo_text",
        says="demo_fp32",
    ),
    Mistake(
        "an ensemble of a version that is not there",
        _set("demo_text", "ensemble_scheduling.step.1.model_version", 4),
        "ensemble_scheduling.step[1].model_version",
        ("4", "1"),
        model="demo_text",
        says="version 4",
    ),
    Mistake(
        "an ensemble that takes what no step gives",
        _edit("demo_text", lambda config: config.ensemble_scheduling.step[1].input_map.update({"input_ids": "tokens"})),
        "ensemble_scheduling.step[1].input_map[input_ids]",
        ("'tokens'", "'input_ids'"),
        model="demo_text",
        says="tokens",
    ),
    Mistake(
        "a warm-up sample without its data",
        _remove("demo/warmup/ones_256"),
        "file",
        ("missing", "the sample's data"),
        says="ones_256",
    ),
    Mistake(
        "a warm-up sample too large",
        _set("demo", "model_warmup.0.batch_size", 129),
        "model_warmup[1x1].batch_size",
        ("129", "<= max_batch_size, 128"),
        server="is lost",
        says="successfully loaded 'demo_tokenizer'",
    ),
    Mistake(
        "a parameter that the model reads and nobody set",
        _edit("demo_tokenizer", lambda config: config.parameters.pop("max_text_bytes")),
        "parameters[max_text_bytes]",
        ("not set", "a number"),
        model="demo_tokenizer",
        says="max_text_bytes",
    ),
    Mistake(
        "a policy that names a version that is not there",
        _edit("demo", lambda config: config.version_policy.specific.versions.append(3)),
        "version_policy.specific",
        ("3", "[1]"),
        says="version",
    ),
    Mistake(
        "GPUs for an instance on the CPU",
        _edit("demo", lambda config: config.instance_group[0].gpus.append(0)),
        "instance_group.kind",
        ("KIND_CPU", "KIND_GPU"),
        says="gpu",
    ),
    Mistake(
        "a tokenizer that lets too much through",
        _rewrite("demo_tokenizer/1/tokenizer.json", _longer),
        "truncation.max_length",
        ("300", "<= 256"),
        server="serves wrongly",
    ),
    Mistake(
        "a tokenizer that lets one token too much through",
        _rewrite("demo_tokenizer/1/tokenizer.json", _one_longer),
        "truncation.max_length",
        ("257", "<= 256"),
        server="silent",
    ),
    Mistake(
        "a tokenizer that does not truncate",
        _rewrite("demo_tokenizer/1/tokenizer.json", _untruncated),
        "truncation.max_length",
        ("not set", "<= 256"),
        server="silent",
    ),
    Mistake(
        "a tokenizer that disagrees with the encoder",
        _rewrite("demo_tokenizer/1/tokenizer.json", _case_kept),
        "content",
        ("sha256", "of demo's bundle"),
        server="serves wrongly",
    ),
    Mistake(
        "another prompt",
        _edit("demo_tokenizer", lambda config: setattr(config.parameters["prompt"], "string_value", "query: ")),
        "parameters[prompt]",
        ("'query: '", "''"),
        server="serves wrongly",
    ),
    Mistake(
        "no buckets for an engine that wants equal shapes",
        _edit("demo_tokenizer", lambda config: setattr(config.parameters["sequence_buckets"], "string_value", "")),
        "parameters[sequence_buckets]",
        ("not set", "the widths to pad to"),
        runtime="engine",
        server="cannot tell",
    ),
    Mistake(
        "buckets beyond the profile",
        _edit(
            "demo_tokenizer",
            lambda config: setattr(config.parameters["sequence_buckets"], "string_value", "16,64,512"),
        ),
        "parameters[sequence_buckets]",
        ("16,64,512", "numbers up to 256"),
        runtime="engine",
        server="cannot tell",
    ),
    Mistake(
        "ragged batches for an engine that wants equal shapes",
        _set("demo", "input.0.allow_ragged_batch", True),
        "input[input_ids].allow_ragged_batch",
        ("true", "false"),
        runtime="engine",
        server="cannot tell",
    ),
    Mistake(
        "no batches at all",
        _set("demo", "max_batch_size", 0),
        "max_batch_size",
        ("0", "1 or more"),
        runtime="engine",
        server="cannot tell",
    ),
    Mistake(
        "the batch of an onnx file named twice",
        _dims("demo", "input", [-1, -1]),
        "input[input_ids].dims",
        ("[-1, -1]", "[-1]"),
        runtime="engine",
        server="cannot tell",
    ),
    Mistake(
        "an input that an onnx file lacks",
        _set("demo", "input.0.name", "ids"),
        "input.name",
        ("'ids'", "'input_ids'"),
        runtime="engine",
        server="cannot tell",
    ),
    Mistake(
        "an onnx file cut short",
        _rewrite("demo/1/model.onnx", lambda content: content[:1000]),
        "engine",
        ("onnxruntime cannot open it", "a onnxruntime model"),
        runtime="engine",
        server="cannot tell",
    ),
    Mistake(
        "an image whose onnxruntime is too old",
        _image("25.08"),
        "image",
        ("25.08, with ONNX Runtime 1.22.0", "25.09 or newer, for demo"),
        runtime="engine",
        server="cannot tell",
    ),
    Mistake(
        "an image older than any whose onnxruntime is known",
        _image("24.05"),
        "image",
        ("24.05, with ONNX Runtime older than 1.19.2", "25.09 or newer, for demo"),
        runtime="engine",
        server="cannot tell",
    ),
    Mistake(
        "a plan of another TensorRT",
        _plan((10, 3, 0, 26), "9.0"),
        "TensorRT version",
        ("10.3.0.26", "10.13.3.9"),
        runtime="engine",
        server="cannot tell",
    ),
    Mistake(
        "a plan for another GPU",
        _plan((10, 13, 3, 9), "8.9"),
        "compute capability",
        ("built for 8.9", "9.0"),
        runtime="engine",
        server="cannot tell",
    ),
)
