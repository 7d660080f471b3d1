from __future__ import annotations

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


def test_padding_is_anything_unless_the_graph_says_right() -> None:
    graph = Graph(model_of(TEXT), dimension=1, max_sequence=8)
    assert graph.padding == "any"
    graph.model.metadata_props["padding"] = "right"
    assert graph.padding == "right"
