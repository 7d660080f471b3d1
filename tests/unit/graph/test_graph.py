from __future__ import annotations

import pytest

from exporter.graph import Graph
from tests.support.graphs import model_of

TEXT = """
g (int64[B,S] input_ids, int64[B,S] attention_mask) => (float[B,S] y) <int64[1] one = {1}> {
  extent = Shape(input_ids)
  length = Shape<start = 1, end = 2>(attention_mask)
  square = Concat<axis = 0>(one, length)
  ids = Cast<to = 1>(input_ids)
  wide = Expand(ids, square)
  y = Reshape(wide, extent)
}
"""


def test_shape_nodes_compute_from_extents_and_constants_alone() -> None:
    graph = Graph(model_of(TEXT), dimension=1, max_sequence=8)
    assert graph.shape_nodes() == ("node.0/Shape", "node.1/Shape", "node.2/Concat")


@pytest.mark.parametrize(
    ("inputs", "unbiased"), [("x, scale, bias", False), ("x, scale", True), ('x, scale, ""', True)]
)
def test_norms_without_a_bias(inputs: str, unbiased: bool) -> None:
    norm = "g (float[B,3] x, float[3] scale, float[3] bias) => (float[B,3] y) { y = LayerNormalization (INPUTS) }"
    model = model_of(norm.replace("INPUTS", inputs.replace(', ""', "")))
    if '""' in inputs:  # an input that is left out, as a file may have it
        node = next(iter(model.graph))
        node.resize_inputs(3)
    assert Graph(model, dimension=3, max_sequence=8).unbiased_norms is unbiased


def test_padding_is_anything_unless_the_graph_says_right() -> None:
    graph = Graph(model_of(TEXT), dimension=1, max_sequence=8)
    assert graph.padding == "any"
    graph.model.metadata_props["padding"] = "right"
    assert graph.padding == "right"
