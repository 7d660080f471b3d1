"""What each architecture calls its parameters in the files of transformers 4.21."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from tests.support.twins.originals import Architecture


@dataclass(frozen=True)
class ParameterNames:
    """What an architecture calls its parameters (without ``.weight`` and ``.bias``) in a transformers 4.21 file."""

    model_class: str
    layer: str
    query: str
    key: str
    value: str
    attention_output: str
    attention_norm: str
    feed_forward: str
    feed_forward_output: str
    output_norm: str
    pooler: str | None
    has_position_ids: bool = True
    """Whether the ``embeddings.position_ids`` buffer was saved, as all did but DistilBERT."""


LAYER_PARTS = (
    *("query", "key", "value", "attention_output", "attention_norm"),
    *("feed_forward", "feed_forward_output", "output_norm"),
)
"""The attributes of ``ParameterNames`` that name a part of a layer, which has a weight and a bias."""

_BERT_NAMES = ParameterNames(
    model_class="BertModel",
    layer="encoder.layer.{}.",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_output="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    feed_forward="intermediate.dense",
    feed_forward_output="output.dense",
    output_norm="output.LayerNorm",
    pooler="pooler.dense",
)

NAMES: Mapping[Architecture, ParameterNames] = MappingProxyType(
    {
        "albert": ParameterNames(
            model_class="AlbertModel",
            layer="encoder.albert_layer_groups.{}.albert_layers.0.",
            query="attention.query",
            key="attention.key",
            value="attention.value",
            attention_output="attention.dense",
            attention_norm="attention.LayerNorm",
            feed_forward="ffn",
            feed_forward_output="ffn_output",
            output_norm="full_layer_layer_norm",
            pooler="pooler",
        ),
        "bert": _BERT_NAMES,
        "distilbert": ParameterNames(
            model_class="DistilBertModel",
            layer="transformer.layer.{}.",
            query="attention.q_lin",
            key="attention.k_lin",
            value="attention.v_lin",
            attention_output="attention.out_lin",
            attention_norm="sa_layer_norm",
            feed_forward="ffn.lin1",
            feed_forward_output="ffn.lin2",
            output_norm="output_layer_norm",
            pooler=None,
            has_position_ids=False,
        ),
        "roberta": replace(_BERT_NAMES, model_class="RobertaModel"),
    }
)
