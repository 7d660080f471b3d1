from __future__ import annotations

import numpy as np
import pytest

from exporter.calibration import TokenBatches
from exporter.precisions.int8.calibrate import calibrate, quantize
from exporter.precisions.int8.emulator import Emulator
from exporter.precisions.int8.judge import Judge, Ledger
from exporter.precisions.int8.observer import observe
from exporter.precisions.int8.scheme import STATIC
from exporter.recipe import Gates
from tests.support.encoders import numbers, small_encoder, word_tokenizer

FIT, HELD_OUT = (TokenBatches(numbers(60, seed=seed), word_tokenizer()) for seed in (1, 2))
S8 = STATIC["openvino", "cpu"]


def test_a_bias_makes_up_for_the_mean_error_of_its_matmul() -> None:
    emulator = Emulator(small_encoder(outlier=30), S8)
    seen = observe(emulator, FIT)
    quantization = quantize(emulator, S8, seen, "minmax", {})
    matmul = emulator.matmuls[0]
    how, weight = quantization.activations[matmul.activation], quantization.weights[matmul.weight].restored()
    sample = seen[matmul.activation].sample
    wanted = sample @ emulator.weight(matmul.weight) + emulator.bias(matmul)
    plain = S8.restored(sample, how) @ weight
    corrected = plain + quantization.biases[matmul.node]
    uncorrected = plain + emulator.bias(matmul)
    assert np.abs((corrected - wanted).mean(axis=0)).max() < 1e-4
    assert np.abs((uncorrected - wanted).mean(axis=0)).max() > 1e-3


@pytest.mark.parametrize("outlier", [1.0, 40.0])
def test_the_choice_is_what_loses_least_on_text_that_is_held_out(outlier: float) -> None:
    graph, gate = small_encoder(outlier=outlier), Gates().int8
    emulator = Emulator(graph, S8)
    batches = list(HELD_OUT)
    part_judge, judge = (Judge(emulator, some, emulator.run(some), Ledger(None, "")) for some in (batches[:1], batches))
    assert part_judge.sentences < judge.sentences == 60
    chosen = calibrate(emulator, S8, observe(emulator, FIT), part_judge, judge, gate)
    finalists = [trial for trial in chosen.trials if trial.sentences == judge.sentences]
    assert len(finalists) == 2
    assert {trial.sentences for trial in chosen.trials} == {part_judge.sentences, judge.sentences}
    least = min(trial.loss.budget_used(gate) for trial in finalists)
    assert chosen.trial.loss.budget_used(gate) <= least / 0.9 + 1e-12
    assert chosen.trial.smoothed or outlier == 1
    assert len(chosen.trials) == 8
    everything = frozenset(matmul.node for matmul in emulator.matmuls)
    assert judge.loss("chosen", chosen.quantization, everything) == chosen.trial.loss
