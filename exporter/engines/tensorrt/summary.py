"""What an engine is made of, from TensorRT's engine inspector: types of layers, and what became of attention.

The inspector's JSON differs between versions: a layer is an object (built with detailed verbosity) or a name alone, and
types are written ``"Half"``, ``"FP16"`` or within ``"Row major linear FP16 format"``.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

# The first that matches counts: "BFloat16" holds "Float16", and "Float" stands for float32.
_TYPES = (
    ("bf16", re.compile(r"bf16|bfloat16", re.I)),
    ("fp16", re.compile(r"fp16|half|float16", re.I)),
    ("fp8", re.compile(r"fp8", re.I)),
    ("fp32", re.compile(r"fp32|float", re.I)),
    ("int8", re.compile(r"\bu?int8", re.I)),
    ("int64", re.compile(r"int64", re.I)),
    ("int32", re.compile(r"int32", re.I)),
    ("bool", re.compile(r"bool", re.I)),
)
_ATTENTION = re.compile(r"f?mha|attention", re.I)
_SOFTMAX = re.compile(r"softmax", re.I)
_NAMES = ("LayerType", "TacticName", "Name")


@dataclass(frozen=True)
class EngineSummary:
    """Layers of an engine.

    Attributes:
        layers: How many there are.
        by_type: How many write each type, most frequent first; ``"unknown"`` where the engine does not say.
        attention: How many bear the name of a fused attention.
        softmax: How many are a softmax of their own, which fused attention leaves none of.
    """

    layers: int
    by_type: dict[str, int]
    attention: int
    softmax: int

    def __str__(self) -> str:
        types = ", ".join(f"{count} {name}" for name, count in self.by_type.items())
        return f"{self.layers} layers ({types}), {self.attention} of fused attention, {self.softmax} softmax"


def summary_of(inspected: str) -> EngineSummary:
    """Read what ``EngineInspector.get_engine_information`` returns in JSON."""
    layers: list[Any] = json.loads(inspected).get("Layers", [])
    counts = Counter(_type_of(layer) for layer in layers)
    texts = [_text_of(layer) for layer in layers]
    fused = [bool(_ATTENTION.search(text)) for text in texts]
    softmax = sum(not is_fused and bool(_SOFTMAX.search(text)) for is_fused, text in zip(fused, texts, strict=True))
    return EngineSummary(len(layers), dict(counts.most_common()), sum(fused), softmax)


def _type_of(layer: Any) -> str:
    outputs = layer.get("Outputs", []) if isinstance(layer, dict) else []
    stated = str(outputs[0].get("Format/Datatype", "")) if outputs and isinstance(outputs[0], dict) else ""
    return next((name for name, pattern in _TYPES if pattern.search(stated)), "unknown")


def _text_of(layer: Any) -> str:
    return " ".join(str(layer.get(key, "")) for key in _NAMES) if isinstance(layer, dict) else str(layer)
