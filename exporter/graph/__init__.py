"""A checkpoint folded into one ONNX graph, and what rewrites that graph.

::

    graph.py      an ONNX model plus the facts everyone needs
    folding.py    a checkpoint to a graph, through the modules' own ``forward``
    storage.py    how a graph of any size is opened, written and hashed
    protobuf.py   a serialized model, piece by piece
    deberta.py    DeBERTa's attention, with an axis for the heads
    surgery.py    the edits that passes and precisions share
    passes/       rewrites, one per file, and their order
"""

from exporter.graph.graph import Graph

__all__ = ["Graph"]
