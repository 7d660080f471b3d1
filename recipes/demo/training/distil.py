"""Distillation: the student's CLS vectors are pulled towards the teacher's in the target space, for some minutes."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the name everyone knows it by)
from transformers import AlbertModel

from .tokenizer import PAD_ID

log = logging.getLogger(__name__)

HELD_OUT = 1_000  # sentences kept for validation
WARM_UP_STEPS = 200
LAST_RATE = 0.01  # share of the peak learning rate that is left at the end
MATRIX_WEIGHT = 5.0  # of the cosine matrix's error, against the cosine distance
REPORT_MINUTES = 1
SAVE_MINUTES = 5


def distil(
    model: AlbertModel,
    rows: list[list[int]],
    target: np.ndarray,
    *,
    minutes: float,
    peak_rate: float,
    low_precision: bool,
    save: Callable[[], None],
    token_budget: int = 2_048,
) -> None:
    """Train the model in place for ``minutes`` by the clock.

    The learning rate warms up over ``WARM_UP_STEPS`` and follows half a cosine over the time, not over the steps: a
    slower machine takes fewer steps and still ends at the low rate.

    Args:
        model: The student.
        rows: Token ids of n sentences; ``HELD_OUT`` of them are kept for validation.
        target: float32 ``(n, HIDDEN_SIZE)``, what the CLS vectors should point to.
        minutes: Time to train for.
        peak_rate: The highest learning rate.
        low_precision: Compute the forward pass under bfloat16 autocast.
        save: Called every ``SAVE_MINUTES``, so that an interrupted run leaves something.
        token_budget: About how many tokens a batch holds.
    """
    rng = np.random.default_rng(7)
    held = rng.choice(len(rows), HELD_OUT, replace=False)
    kept = np.setdiff1d(np.arange(len(rows)), held)
    lengths = np.array([len(rows[i]) for i in kept])
    goal = torch.from_numpy(target)
    held = sorted(held, key=lambda i: len(rows[i]))  # similar lengths together waste little padding
    held_rows, held_goal = [rows[i] for i in held], goal[held]

    # The pooler takes no part in CLS pooling, and so none in the training.
    trained = [parameter for name, parameter in model.named_parameters() if "pooler" not in name]
    matrices, vectors = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}],
        lr=peak_rate,
        betas=(0.9, 0.98),
    )
    model.train()
    log.info("start: validation cosine %.4f, matrix correlation %.4f", *validate(model, held_rows, held_goal))
    begin, step, tokens, reported, saved = time.monotonic(), 0, 0, 0.0, 0.0
    for chunk in batches(lengths, token_budget, rng):
        elapsed = (time.monotonic() - begin) / 60
        if elapsed >= minutes:
            break
        rate = peak_rate * _schedule(step, elapsed / minutes)
        for group in optimizer.param_groups:
            group["lr"] = rate
        index = kept[chunk]
        loss = distil_loss(cls_vectors(model, [rows[i] for i in index], low_precision), goal[index])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(matrices + vectors, 1.0)
        optimizer.step()
        step, tokens = step + 1, tokens + int(lengths[chunk].sum())
        if elapsed - reported >= REPORT_MINUTES:
            reported = elapsed
            log.info("%.0f min, step %d, %.0f tokens/s", elapsed, step, tokens / (elapsed * 60))
            log.info("  rate %.1e, loss %.4f", rate, loss.item())
            log.info("  validation cosine %.4f, matrix correlation %.4f", *validate(model, held_rows, held_goal))
        if elapsed - saved >= SAVE_MINUTES:
            saved = elapsed
            save()
    log.info("end: %d steps, %d tokens", step, tokens)
    log.info("  validation cosine %.4f, matrix correlation %.4f", *validate(model, held_rows, held_goal))


def _schedule(step: int, done: float) -> float:
    """Return the share of the peak learning rate; ``done`` is the share of the time that has passed."""
    warm_up = min(1.0, (step + 1) / WARM_UP_STEPS)
    return warm_up * (LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * done)))


def batches(lengths: np.ndarray, budget: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield batches of similar length for ever: every sentence once, then all again in other batches.

    Args:
        lengths: int ``(n,)``, tokens of each sentence.
        budget: About how many tokens a batch may hold, padding included; at least 12 sentences are taken.
        rng: Source of the order.

    Yields:
        int ``(batch,)``: indices into ``lengths``.
    """
    while True:
        # Noise on the lengths mixes the batches anew in every round.
        order = np.argsort(lengths * rng.uniform(0.9, 1.1, len(lengths)) + rng.random(len(lengths)))
        chunks, start = [], 0
        while start < len(order):
            width = int(lengths[order[min(start + 32, len(order) - 1)]]) + 1  # a guess at the batch's longest
            size = max(12, budget // width)
            chunks.append(order[start : start + size])
            start += size
        rng.shuffle(chunks)
        yield from chunks


def distil_loss(student: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean cosine distance to the target plus the error of the batch's cosine matrix, a scalar.

    Both arguments are float32 ``(batch, HIDDEN_SIZE)``.
    """
    student, target = F.normalize(student, dim=-1), F.normalize(target, dim=-1)
    pointwise = (1 - (student * target).sum(-1)).mean()
    return pointwise + MATRIX_WEIGHT * F.mse_loss(student @ student.T, target @ target.T)


def cls_vectors(model: AlbertModel, rows: Sequence[list[int]], low_precision: bool = False) -> torch.Tensor:
    """Encode token ids and return the CLS vectors, float32 ``(rows, HIDDEN_SIZE)``."""
    ids, mask = pad(rows)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low_precision):
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
    return hidden[:, 0].float()


def pad(rows: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad token ids to the longest row; return ids and attention mask, both int64 ``(rows, longest)``."""
    lengths = torch.tensor([len(row) for row in rows])
    width = int(lengths.max())
    ids = torch.full((len(rows), width), PAD_ID, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return ids, (torch.arange(width)[None, :] < lengths[:, None]).long()


@torch.no_grad()
def validate(model: AlbertModel, rows: Sequence[list[int]], target: torch.Tensor) -> tuple[float, float]:
    """Return the mean cosine to the target and the correlation of the two cosine matrices, without their diagonals.

    ``target`` is float32 ``(rows, HIDDEN_SIZE)``.
    """
    model.eval()
    student = torch.cat([cls_vectors(model, rows[i : i + 64]) for i in range(0, len(rows), 64)])
    model.train()
    student, target = F.normalize(student, dim=-1), F.normalize(target, dim=-1)
    upper = torch.triu_indices(len(rows), len(rows), 1)
    cosines = torch.stack([(x @ x.T)[upper[0], upper[1]] for x in (student, target)])
    return float((student * target).sum(-1).mean()), float(torch.corrcoef(cosines)[0, 1])
