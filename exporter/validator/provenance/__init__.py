"""Proof that a published file holds the checkpoint's weights and computes what the proven graph computes.

Both checks read the published file's bytes. Of the exporter they take nothing but names of nodes, and those only to be
stricter::

    parameters (torch)  ─┐
    published file ── StoredGraph ── check_weights    every stored weight is a parameter, every parameter is stored
    proven fp32 graph ── StoredGraph ─┴─ check_graph   operator for operator the proven graph
"""

from __future__ import annotations

from exporter.validator.provenance.graph import check_graph
from exporter.validator.provenance.parameter import Parameter
from exporter.validator.provenance.read_onnx import read_onnx
from exporter.validator.provenance.read_openvino import read_onnx_by_openvino, read_openvino
from exporter.validator.provenance.stored import StoredGraph
from exporter.validator.provenance.weights import check_weights

__all__ = [
    "Parameter",
    "StoredGraph",
    "check_graph",
    "check_weights",
    "read_onnx",
    "read_onnx_by_openvino",
    "read_openvino",
]
