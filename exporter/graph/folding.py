"""Checkpoint -> Graph: transformer, pooling and every later module in one ONNX graph.

The modules' own ``forward`` is traced, in module order, so parity is by construction and not by reimplementation. The
one exception is DeBERTa's attention (``deberta.py``).
"""

from __future__ import annotations

import onnx_ir as ir
import torch
from torch import Tensor, nn

from exporter.checkpoint import Checkpoint
from exporter.checkpoint.libraries import quiet
from exporter.checkpoint.reference import forward
from exporter.errors import UnsupportedModelError, first_line
from exporter.graph import Graph
from exporter.graph.census import operators_on_words
from exporter.graph.deberta import attention_with_head_axis
from exporter.graph.passes import FOLDING, run_passes
from exporter.graph.passes.name_nodes import name_nodes
from exporter.runtime.contract import INPUTS, OUTPUT
from exporter.targets import FOLDED_OPSET


class _Encoder(nn.Module):
    """A SentenceTransformer as a function of two tensors.

    Token types, where the architecture has them, are the zeros they are for single sentences.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.st = checkpoint.model
        self.has_token_types = checkpoint.has_token_types

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode (batch, sequence) int64 ids and mask to a (batch, dimension) float32 tensor."""
        return forward(self.st, input_ids, attention_mask, has_token_types=self.has_token_types)


def fold(checkpoint: Checkpoint) -> Graph:
    """Fold a checkpoint into one float32 graph.

    Raises:
        UnsupportedModelError: ``torch.export`` cannot trace one of the modules.
    """
    device = checkpoint.model.device
    checkpoint.model.to("cpu")  # the graph is made of the weights' bytes
    try:
        model = _export(checkpoint).model
    finally:
        checkpoint.model.to(device)
    traced = operators_on_words(model.graph)  # before korsbert changes anything
    name_nodes(model)
    model.graph.name = "encoder"
    model.producer_name, model.producer_version = "korsbert", None
    model.metadata_props["max_sequence"] = str(checkpoint.facts.max_seq_length)
    _name_axes(model, checkpoint.facts.dimension)
    changes = run_passes(model, FOLDING)
    done = ", ".join(f"{name} {count}" for name, count in changes.items() if count)
    return Graph(
        model,
        checkpoint.facts.dimension,
        checkpoint.facts.max_seq_length,
        decisions=(f"folding passes: {done}",),
        traced=traced,
    )


def _export(checkpoint: Checkpoint) -> torch.onnx.ONNXProgram:
    batch = torch.export.Dim("batch")
    sequence = torch.export.Dim("sequence", max=checkpoint.facts.max_seq_length)
    ids = torch.full((2, min(7, checkpoint.facts.max_seq_length)), checkpoint.pad_token_id + 1, dtype=torch.int64)
    mask = torch.ones_like(ids)
    with (
        quiet("torch.onnx", "onnxscript"),  # which tells of every LayerNorm of stored numbers that it leaves alone
        torch.no_grad(),
        attention_with_head_axis(checkpoint.model, checkpoint.facts.max_seq_length),
    ):
        try:
            program = torch.onnx.export(
                _Encoder(checkpoint).eval(),
                (ids, mask),
                dynamo=True,
                opset_version=FOLDED_OPSET,
                input_names=list(INPUTS),
                output_names=[OUTPUT],
                dynamic_shapes=({0: batch, 1: sequence}, {0: batch, 1: sequence}),
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            cause = first_line(error.__cause__ or error)
            raise UnsupportedModelError(
                f"{checkpoint.source}: {checkpoint.facts.architecture} cannot be traced: {cause}",
                next_step="use an encoder like BERT (ALBERT, BERT, DistilBERT, RoBERTa, XLM-R, MPNet, ELECTRA)",
            ) from error
    if program is None:
        raise UnsupportedModelError(f"{checkpoint.source}: torch.onnx.export returned nothing")
    return program


def _name_axes(model: ir.Model, dimension: int) -> None:
    """State the contract in the graph's own signature: (batch, sequence) twice in, (batch, dimension) out."""
    for value in model.graph.inputs:
        value.shape = ir.Shape(["batch", "sequence"])
    (output,) = model.graph.outputs
    output.name, output.shape = OUTPUT, ir.Shape(["batch", dimension])
