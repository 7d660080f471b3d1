"""Graph: an ONNX model plus the facts everyone needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx_ir as ir

from exporter.graph import storage
from exporter.targets import Padding, Precision


@dataclass(frozen=True)
class Graph:
    """One folded encoder as ONNX.

    Always true: inputs ``input_ids`` and ``attention_mask`` int64 (batch, sequence), output ``sentence_embedding``
    float32 (batch, dimension), both axes dynamic, each weight stored once.

    Attributes:
        model: The model. Read-only: rewrite a copy, from ``editable()``.
        dimension: Length of a sentence vector.
        max_sequence: Longest sequence in tokens; longer ones fail in the graph itself.
        precision: ``"fp32"``, ``"fp16"``, ``"bf16"``, ``"int8"`` or ``"int8_dynamic"``.
        decisions: What was decided on the way and why, one sentence each, for the manifest and the model card.
        traced: How many operators torch traced on word vectors, by description (``census``), before any pass.
    """

    model: ir.Model
    dimension: int
    max_sequence: int
    precision: Precision = Precision.FP32
    decisions: tuple[str, ...] = ()
    traced: Mapping[str, int] = field(default_factory=dict)

    def editable(self) -> ir.Model:
        """Return a copy of the model to rewrite; the weights' arrays are shared, the structure is not."""
        return self.model.clone()

    def with_model(
        self, model: ir.Model, *, precision: Precision | None = None, decisions: tuple[str, ...] = ()
    ) -> Graph:
        """Return this graph with another model, precision or further decisions."""
        return replace(
            self, model=model, precision=precision or self.precision, decisions=(*self.decisions, *decisions)
        )

    @property
    def padding(self) -> Padding:
        """Where rows may be padded: on the right only, once a pass has relied on it."""
        return Padding(self.model.metadata_props.get("padding", Padding.ANY))

    @property
    def lengths(self) -> bool:
        """Whether attention reads the length of each row instead of a mask."""
        return any(node.op_type == "Attention" and len(node.inputs) > 6 for node in self.model.graph)

    @property
    def opset(self) -> int:
        """The ONNX operator set that the operators are of."""
        return self.model.graph.opset_imports[""]

    @property
    def unbiased_norms(self) -> bool:
        """Whether there is a LayerNormalization without a bias."""
        norms = (node for node in self.model.graph if node.op_type == "LayerNormalization")
        return any(len(node.inputs) < 3 or node.inputs[2] is None for node in norms)

    def shape_nodes(self) -> tuple[str, ...]:
        """Return the names of the nodes that compute from nothing but extents: ``Shape``, and what only reads that."""
        found: dict[ir.Node, None] = {}
        for node in self.model.graph:
            computed = [value for value in node.inputs if value is not None and not value.is_initializer()]
            if node.op_type == "Shape" or (computed and all(value.producer() in found for value in computed)):
                found[node] = None
        return tuple(str(node.name) for node in found)

    def to_bytes(self) -> bytes:
        """Return the model as a serialized ``ModelProto``; equal graphs give equal bytes.

        Raises:
            ValueError: The weights pass 1 GiB (``storage.LARGEST_FILE``).
        """
        return storage.to_bytes(self.model)

    def save(self, path: Path) -> tuple[str, ...]:
        """Write the model to ``path``, and weights beyond 1 GiB beside it; return the names of the files."""
        return tuple(file.name for file in storage.save(self.model, path))

    def as_file(self) -> AbstractContextManager[Path | bytes]:
        """Yield the model for a tool that reads ONNX: its bytes, or, beyond 1 GiB, a path that ends with the block."""
        return storage.saved(self.model)

    def content_hash(self) -> str:
        """Return a SHA-256 of the model and its weights (``storage.content_hash``)."""
        return storage.content_hash(self.model)

    def op_counts(self) -> dict[str, int]:
        """Return how many nodes there are of each operator, most frequent first."""
        return dict(Counter(node.op_type for node in self.model.graph).most_common())

    def weight_bytes(self) -> int:
        """Return the size of all initializers in bytes."""
        return storage.weight_bytes(self.model)
