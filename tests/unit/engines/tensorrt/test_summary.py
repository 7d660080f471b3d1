"""The engine inspector's JSON, in the forms that versions write it."""

from __future__ import annotations

import json

from exporter.engines.tensorrt.summary import summary_of


def layer(name: str, kind: str, stated: str) -> dict[str, object]:
    return {"Name": name, "LayerType": kind, "Outputs": [{"Name": "t", "Format/Datatype": stated}]}


def test_layers_are_counted_by_type_and_attention_by_name() -> None:
    layers = [
        layer("layer.0/MatMul", "gemm", "Half"),
        layer("__myl_Fc", "kgen", "Row major linear FP16 format"),
        layer("_gemm_mha_v2_0x12", "fusion", "Half"),
        layer("head", "kgen", "Float"),
        layer("b", "kgen", "BFloat16"),
        layer("ids", "shuffle", "Int64"),
        layer("odd", "kgen", "Some new type"),
    ]
    summary = summary_of(json.dumps({"Layers": layers}))
    assert summary.layers == 7
    assert summary.by_type == {"fp16": 3, "fp32": 1, "bf16": 1, "int64": 1, "unknown": 1}
    assert (summary.attention, summary.softmax) == (1, 0)
    assert str(summary).endswith("1 of fused attention, 0 softmax")


def test_attention_that_was_not_fused_leaves_a_softmax() -> None:
    layers = [layer("layer.0.attention/MatMul", "gemm", "Float"), layer("x", "SoftMax", "Float")]
    summary = summary_of(json.dumps({"Layers": layers}))
    assert summary.softmax == 1


def test_names_alone_and_nothing_at_all() -> None:
    summary = summary_of(json.dumps({"Layers": ["layer.0/MatMul", "fmha_v2"]}))
    assert (summary.layers, summary.by_type, summary.attention) == (2, {"unknown": 2}, 1)
    assert summary_of("{}").layers == 0
