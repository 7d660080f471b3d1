"""The floor's arithmetic, against what torch counts as it runs the models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.floor import Ceilings, Size, least_bytes, measure_ceilings, size_of
from benchmarks.operations import Shape
from exporter.checkpoint import load_checkpoint
from exporter.recipe import find_recipe
from tests.support.checkpoints import save_checkpoint

SIZE = Size(Shape(layers=12, hidden=768, linear_weights=12 * 12 * 768**2), embedding=768, layer_weights=85_000_000)


@pytest.mark.parametrize("architecture", ["albert", "bert", "distilbert", "roberta"])
@pytest.mark.parametrize(("rows", "tokens"), [(1, 7), (3, 32)])
def test_operations_are_those_that_torch_counts(tmp_path: Path, architecture: str, rows: int, tokens: int) -> None:
    checkpoint = load_checkpoint(find_recipe(str(save_checkpoint(tmp_path, architecture))))
    size = size_of(checkpoint.model[0].auto_model.config, layer_weights=1)
    ids = torch.full((rows, tokens), 7)
    features = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    checkpoint.model[0].auto_model.set_attn_implementation("eager")  # counted as the products that it is
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        checkpoint.model(features)
    pooler = 2 * rows * size.shape.hidden**2 if hasattr(checkpoint.model[0].auto_model, "pooler") else 0
    counted = counter.get_total_flops()
    assert rows * size.shape.operations(tokens) in (counted, counted - pooler)


def test_a_bert_base_needs_22_billion_operations_for_128_tokens() -> None:
    assert SIZE.shape.operations(128) == pytest.approx(22.3e9, rel=0.01)


def test_alone_a_sentence_is_bound_by_weights_and_many_by_arithmetic() -> None:
    ceilings = Ceilings({"fp16": 800e12, "fp32": 50e12}, 3e12)
    assert ceilings.floor_ms(SIZE, 1, 16, "fp16") == pytest.approx(1000 * least_bytes(SIZE, 1, 16, "fp16") / 3e12)
    assert ceilings.floor_ms(SIZE, 128, 128, "fp16") == pytest.approx(1000 * 128 * SIZE.shape.operations(128) / 800e12)
    assert ceilings.floor_ms(SIZE, 128, 128, "fp32") > ceilings.floor_ms(SIZE, 128, 128, "fp16")


def test_bytes_are_weights_once_and_what_goes_in_and_out() -> None:
    small = Size(Shape(layers=2, hidden=4, linear_weights=128), embedding=4, layer_weights=100)
    assert least_bytes(small, 2, 3, "fp32") == 400 + 6 * (16 + 16) + 2 * 16
    assert least_bytes(small, 2, 3, "int8") == 100 + 6 * (8 + 16) + 2 * 16


def test_ceilings_are_measured() -> None:
    ceilings = measure_ceilings("cpu")
    assert set(ceilings.operations_per_s) >= {"fp32", "fp16", "bf16"}
    assert all(rate > 1e8 for rate in ceilings.operations_per_s.values())
    assert ceilings.bytes_per_s > 1e8
