"""Proof: the checks that judge a candidate besides its gate, from the checkpoint's own files and parameters.

A gate sees real sentences, and they reach some thousand words, batches of a few sizes and a part of all widths. The
checks cover the rest, each from a witness that the export has not made::

    tokenizer     the published tokenizer and the checkpoint's own files, read without transformers
    weights       the published engine and the checkpoint's parameters
    graph         the published engine and the float32 graph that passed gate 1, operator for operator
    sweep         the engine and PyTorch on word rows and positions; the engine and itself on batches and widths
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

from tokenizers import Tokenizer

from exporter.backends import Engine
from exporter.checkpoint import Checkpoint
from exporter.encoder import Encoder
from exporter.graph import Graph
from exporter.provenance import (
    Parameter,
    StoredGraph,
    check_weights,
    read_onnx,
    read_onnx_by_openvino,
    read_openvino,
)
from exporter.provenance.parameters import dependent_parameters
from exporter.recipe import Gate, Shapes
from exporter.validator import Check
from exporter.validator.sweeps import SweepReference, sweep
from exporter.validator.tokenizer import check_tokenizer


class Proof:
    """What judges every candidate of one checkpoint. What the checks need is computed once.

    Args:
        checkpoint: The reference.
        texts: The probes, without the prompt.
        shapes: Batch and sequence extents that an engine must serve.
    """

    def __init__(self, checkpoint: Checkpoint, texts: Sequence[str], shapes: Shapes) -> None:
        self._checkpoint = checkpoint
        self._texts = [checkpoint.prompt + text for text in texts]
        self._shapes = shapes

    @cached_property
    def _parameters(self) -> dict[str, Parameter]:
        return dependent_parameters(self._checkpoint)

    @cached_property
    def _sweep_reference(self) -> SweepReference:
        return SweepReference(self._checkpoint)

    def tokenizer(self, published: Tokenizer) -> Check:
        """Compare the published tokenizer with the checkpoint's own files on all probes and the whole vocabulary."""
        return check_tokenizer(self._checkpoint.anchor, published, self._texts)

    def weights(self, stored: StoredGraph, precision: str) -> Check:
        """Derive every stored weight from a parameter of the checkpoint, and find every parameter."""
        return check_weights(self._parameters, stored, precision)

    def sweep(self, encoder: Encoder, gate: Gate, precision: str, *, tables_proven: bool, lengths: bool) -> Check:
        """Sweep word rows, positions, batch sizes and padded widths.

        Args:
            encoder: The candidate.
            gate: Its bounds.
            precision: What it computes in.
            tables_proven: Whether ``weights`` has passed for it: then a sample of the word rows is enough.
            lengths: Whether its attention takes lengths instead of a mask, and right padding only.
        """
        return sweep(
            self._sweep_reference,
            encoder,
            self._shapes,
            gate,
            rows="sample" if tables_proven else "all",
            scales_from_batch=precision == "int8_dynamic",
            right_padding_only=lengths,
        )


def stored_graph(engine: Engine, read: Callable[[str], bytes]) -> StoredGraph | None:
    """Read what a published engine stores and computes; None for an engine whose files cannot be read (TensorRT).

    Args:
        engine: What the manifest says of it.
        read: Returns the content of one of its files.
    """
    if engine.backend == "onnxruntime":
        return read_onnx(read(engine.files[0]), engine.files[0])
    if engine.backend == "openvino":
        xml, weights = engine.files
        return read_openvino(read(xml), read(weights), xml)
    return None


def proven_graph(graph: Graph, backend: str) -> StoredGraph:
    """Return the proven float32 graph, after the passes of the target, as a published engine is compared with it."""
    if backend == "openvino":
        return read_onnx_by_openvino(graph.to_bytes(), graph.max_sequence)
    return read_onnx(graph.model, "the proven graph")
