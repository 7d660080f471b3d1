"""From a checkpoint to the reference: what PyTorch answers to the probes, and what number formats lose themselves."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from exporter.checkpoint import Checkpoint
from exporter.runtime.tokens import TextTokenizer
from exporter.validator.format_loss import FormatLoss
from exporter.validator.parity import compare
from exporter.validator.probes import probes_for
from exporter.validator.sts import read_sts
from exporter.validator.validate import Reference

SAMPLED = 16
"""One probe in so many is computed in float16, in which PyTorch is ten times slower on processors than in float32."""

FORMATS = {"fp16": (torch.float16, SAMPLED), "bf16": (torch.bfloat16, 1)}


def reference_of(
    checkpoint: Checkpoint, sts_files: Sequence[Path] = (), precisions: Collection[str] = ("fp32",)
) -> Reference:
    """Encode the probes, and the sentences of the STS files, with ``SentenceTransformer.encode``.

    Args:
        checkpoint: The model, in float32.
        sts_files: Task sets.
        precisions: What the candidates will compute in. For ``"fp16"`` and ``"bf16"`` the probes are encoded in that
            format too, to know what it loses by itself.
    """
    sets = [read_sts(path) for path in sts_files]
    probes = tuple(probes_for(checkpoint.tokenizer, checkpoint.facts.max_seq_length, checkpoint.facts.prompt))
    texts = [probe.text for probe in probes]
    scored = tuple((sts, checkpoint.encode(list(sts.first)), checkpoint.encode(list(sts.second))) for sts in sets)
    token_ids = TextTokenizer(checkpoint.tokenizer).ids([checkpoint.facts.prompt + text for text in texts])
    vectors = checkpoint.encode(texts)
    losses = {name: format_loss_of(checkpoint, name, texts, vectors, token_ids) for name in dict.fromkeys(precisions)}
    known = {name: loss for name, loss in losses.items() if loss is not None}
    rounding = partial(rounding_loss_of, checkpoint, texts, vectors, token_ids)
    return Reference(probes, vectors, token_ids, scored, known, rounding)


def format_loss_of(
    checkpoint: Checkpoint,
    precision: str,
    texts: Sequence[str],
    reference: npt.NDArray[np.float32],
    token_ids: Sequence[Sequence[int]],
) -> FormatLoss | None:
    """Encode the probes with the same model cast to float16 or bfloat16, every part of it, and compare.

    Args:
        checkpoint: The reference model, in float32; it is left as it is.
        precision: ``"fp16"`` or ``"bf16"``. None is returned for any other.
        texts: The probes.
        reference: (probes, dimension) float32, what the model answers in float32.
        token_ids: Token ids of each probe.
    """
    if precision not in FORMATS:
        return None
    dtype, step = FORMATS[precision]
    vectors = np.full(reference.shape, np.nan, np.float32)
    vectors[::step] = cast(checkpoint, dtype).encode(list(texts[::step]))
    return FormatLoss(f"PyTorch in {str(dtype).removeprefix('torch.')}", compare(reference, vectors, token_ids))


def rounding_loss_of(
    checkpoint: Checkpoint,
    texts: Sequence[str],
    reference: npt.NDArray[np.float32],
    token_ids: Sequence[Sequence[int]],
    rows: Sequence[int],
) -> FormatLoss:
    """Encode some probes with the same model in float64: what float32 itself loses on them.

    Some texts of some models amplify the roundings of float32: PyTorch and a sound engine then differ by more than on
    any other text, and each of them from float64.

    Args:
        checkpoint: The reference model, in float32; it is left as it is.
        texts: The probes.
        reference: (probes, dimension) float32, what the model answers in float32.
        token_ids: Token ids of each probe.
        rows: Which probes.
    """
    vectors = np.full(reference.shape, np.nan, np.float32)
    vectors[rows] = cast(checkpoint, torch.float64).encode([texts[row] for row in rows])
    return FormatLoss("PyTorch in float32", compare(reference, vectors, token_ids))


def cast(checkpoint: Checkpoint, dtype: torch.dtype) -> Checkpoint:
    """Return the checkpoint with every part of its model in another floating-point type. The original is left as is."""
    # What the copy finds in the memo it takes from there: no float32 copy of a weight is made.
    memo: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach().to(dtype), requires_grad=False)
        for parameter in checkpoint.model.parameters()
        if parameter.is_floating_point()
    }
    return replace(checkpoint, model=copy.deepcopy(checkpoint.model, memo).to(dtype))
