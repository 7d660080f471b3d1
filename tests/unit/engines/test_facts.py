"""What a manifest holds of an engine: the recorded facts and no others, and nothing that is not known here."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from exporter.engines.facts import EngineFacts
from exporter.engines.tensorrt.profiles import Profile
from exporter.targets import Padding

TENSORRT: dict[str, Any] = {
    "version": "10.13.3.9",
    "compute_capability": None,
    "gpu": None,
    "driver": None,
    "version_compatible": False,
    "padding": "right",
    "profiles": [{"batch": [1, 1, 1], "sequence": [1, 32, 64]}, {"batch": [1, 32, 128], "sequence": [1, 128, 256]}],
}
ONNXRUNTIME: dict[str, Any] = {"padding": "any", "shape_nodes": ["node_Shape_1"]}
LOWERED: dict[str, Any] = {**ONNXRUNTIME, "lengths": False, "opset": 20, "ir_version": 9, "unbiased_norms": False}


@pytest.mark.parametrize(
    "recorded", [TENSORRT, ONNXRUNTIME, LOWERED, {}], ids=["tensorrt", "onnxruntime", "lowered", "openvino"]
)
def test_the_json_holds_what_was_recorded_in_the_same_order(recorded: dict[str, Any]) -> None:
    # The seal of a manifest is computed over this JSON: manifests that exist must keep theirs.
    content = json.dumps(recorded, separators=(",", ":"))
    assert EngineFacts.model_validate_json(content).model_dump_json() == content


def test_what_is_read_is_typed() -> None:
    facts = EngineFacts.model_validate_json(json.dumps(TENSORRT))
    assert facts.padding is Padding.RIGHT
    assert facts.right_padded
    assert facts.profiles == (Profile((1, 1, 1), (1, 32, 64)), Profile((1, 32, 128), (1, 128, 256)))
    assert facts == EngineFacts(
        version="10.13.3.9",
        compute_capability=None,
        gpu=None,
        driver=None,
        version_compatible=False,
        padding=Padding.RIGHT,
        profiles=facts.profiles,
    )


def test_what_is_not_recorded_has_a_default() -> None:
    facts = EngineFacts()
    assert (facts.padding, facts.right_padded, facts.profiles, facts.version) == (Padding.ANY, False, (), None)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("paddings", "right"),
        ("padding", "left"),
        ("padding", "RIGHT"),
        ("profiles", [{"batch": [1, 2], "sequence": [1, 2, 3]}]),
        ("profiles", [{"batch": [1, 2, 3], "sequence": [1, 2, 3], "tokens": 1}]),
        ("profiles", [{"batch": ["one", 2, 3], "sequence": [1, 2, 3]}]),
        ("version", 10),
        ("version_compatible", "perhaps"),
        ("shape_nodes", "node_Shape_1"),
        ("opset", 16),
    ],
)
def test_what_is_unknown_or_impossible_is_refused(key: str, value: object) -> None:
    with pytest.raises(ValidationError, match=key):
        EngineFacts.model_validate_json(json.dumps({key: value}))
