"""How much an encoder computes, and how much a processor can."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import matrix_rates, peer_programs, peer_report
from benchmarks.operations import shape_of_checkpoint, shape_of_config
from exporter.checkpoint import load_checkpoint
from exporter.recipe import find_recipe
from tests.support.checkpoints import save_checkpoint


@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta"])
def test_a_configuration_and_files_give_the_same_shape(tmp_path: Path, architecture: str) -> None:
    folder = save_checkpoint(tmp_path, architecture, modules=("normalize",))
    shape, parameters = shape_of_checkpoint(folder)
    model = load_checkpoint(find_recipe(str(folder))).model[0].auto_model
    assert shape == shape_of_config(model.config)
    assert parameters == sum(value.numel() for value in model.parameters())
    assert peer_programs.pooling_of(str(folder)) == ("mean", True)
    assert peer_programs.max_seq_length(str(folder)) > 0


@pytest.mark.parametrize("tokens", [1, 5, 9, 10, 40])
def test_pairs_outside_of_a_local_window_are_not_counted(tmp_path: Path, tokens: int) -> None:
    folder = save_checkpoint(tmp_path, "modernbert", modules=("normalize",))
    shape, _ = shape_of_checkpoint(folder)
    assert (shape.local_layers, shape.distance) == (2, 8)
    model = load_checkpoint(find_recipe(str(folder))).model[0].auto_model
    model.set_attn_implementation("eager")  # it computes all pairs, and masks
    ids = torch.full((1, tokens), 7)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    outside = sum(abs(one - other) > 8 for one in range(tokens) for other in range(tokens))
    assert shape.operations(tokens) == counter.get_total_flops() - 4 * shape.hidden * 2 * outside


def test_rates_are_operations_of_one_product_in_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, inner, columns = 16, 64, 96
    products: list[Any] = []

    def taken_s(product: Callable[[], Any], device: str) -> float:
        assert device == "cpu"
        found = product()
        products.append(np.asarray(found.float() if isinstance(found, torch.Tensor) else found[0]))
        return 0.5

    monkeypatch.setattr(matrix_rates, "median_s", taken_s)
    rates = matrix_rates.matrix_rates(1, (rows, inner, columns))
    assert set(rates) == set(peer_report._RATE_OF.values())
    assert set(rates["int8"]) > {"ONNX Runtime MatMulInteger", "ONNX Runtime QLinearMatMul", "OpenVINO"}
    assert {rate for libraries in rates.values() for rate in libraries.values()} == {2 * rows * inner * columns / 0.5}
    names = [name for libraries in rates.values() for name in libraries]
    first = products[0]
    for name, found in zip(names, products, strict=True):
        if name.endswith("QLinearMatMul"):
            assert found.dtype == np.uint8
            found = found.astype(np.float32) - 128  # noqa: PLW2901
        assert np.abs(found - first).max() < 0.02 * np.abs(first).max() + 1, name
