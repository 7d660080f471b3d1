"""Graph: an ONNX model plus the facts everyone needs."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx_ir as ir

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

    def shape_nodes(self) -> tuple[str, ...]:
        """Return the names of the nodes that compute from nothing but extents: ``Shape``, and what only reads that."""
        found: dict[ir.Node, None] = {}
        for node in self.model.graph:
            computed = [value for value in node.inputs if value is not None and not value.is_initializer()]
            if node.op_type == "Shape" or (computed and all(value.producer() in found for value in computed)):
                found[node] = None
        return tuple(str(node.name) for node in found)

    def to_bytes(self) -> bytes:
        """Return the model as a serialized ``ModelProto``; equal graphs give equal bytes."""
        data: bytes = ir.to_proto(self.model).SerializeToString(deterministic=True)
        return data

    def save(self, path: Path) -> None:
        """Write the model to ``path``."""
        path.write_bytes(self.to_bytes())

    def content_hash(self) -> str:
        """Return the SHA-256 of :meth:`to_bytes`."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def op_counts(self) -> dict[str, int]:
        """Return how many nodes there are of each operator, most frequent first."""
        return dict(Counter(node.op_type for node in self.model.graph).most_common())

    def weight_bytes(self) -> int:
        """Return the size of all initializers in bytes."""
        values = self.model.graph.initializers.values()
        return sum(value.const_value.nbytes for value in values if value.const_value is not None)
