"""Which parameters a sentence vector depends on, by the graph of its derivatives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from exporter.checkpoint import Checkpoint
from exporter.validator.provenance.parameter import Parameter

_TOKENS = 8
_PLUS_ONE = ("Gemma3RMSNorm",)  # classes of transformers whose forward multiplies by 1 + weight


def dependent_parameters(checkpoint: Checkpoint) -> dict[str, Parameter]:
    """Return the parameters that a sentence vector depends on, by name.

    One small batch is encoded: a parameter that is not in the graph of its derivatives (a pooler) takes no part. A
    table that was read at one and the same row throughout (token types) takes part with that row alone. No derivative
    is computed: they would take as much memory as the parameters.

    Returns:
        Views of the reference's own float32 parameters, or copies of them where they are on a GPU.
    """
    model = checkpoint.model
    named, aliases = dict(model.named_parameters()), _aliases(model)
    with _differentiable(list(named.values())), _indices_of_tables(model) as indices, torch.enable_grad():
        computed_with = _leaves(_encode(checkpoint))
    plus_one = {id(module.weight) for module in model.modules() if type(module).__name__ in _PLUS_ONE}
    found = {
        name: Parameter(
            name,
            parameter.detach().cpu().numpy(),
            _fixed_rows(parameter, indices),
            aliases=aliases[id(parameter)],
            plus_one=id(parameter) in plus_one,
        )
        for name, parameter in named.items()
        if id(parameter) in computed_with or id(parameter) in indices
    }
    return found | {
        name: Parameter(name, buffer.detach().cpu().numpy(), computed=True)
        for name, buffer in model.named_buffers()
        if buffer.dtype == torch.float32 and buffer.numel() > 1
    }


def _leaves(tensor: torch.Tensor) -> set[int]:
    """Return the identities of the tensors that a tensor was computed from, and that are the start of derivatives."""
    found: set[int] = set()
    seen = {None}
    waiting: list[Any] = [tensor.grad_fn]
    while waiting:
        function = waiting.pop()
        if function in seen:
            continue
        seen.add(function)
        if hasattr(function, "variable"):  # AccumulateGrad
            found.add(id(function.variable))
        waiting += [parent for parent, _ in function.next_functions]
    return found


def _aliases(model: nn.Module) -> dict[int, tuple[str, ...]]:
    """Return all names of each parameter, by its identity: modules may share one."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {parameter: tuple(found) for parameter, found in names.items()}


def _encode(checkpoint: Checkpoint) -> Tensor:
    """Encode two rows of different tokens, one of them padded: (2, dimension)."""
    length = min(_TOKENS, checkpoint.facts.max_seq_length)
    vocabulary = checkpoint.model[0].auto_model.get_input_embeddings().num_embeddings
    ids = (checkpoint.pad_token_id + 1 + torch.arange(2 * length).reshape(2, length)) % vocabulary
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    return checkpoint.forward(ids, mask)


@contextmanager
def _differentiable(parameters: list[nn.Parameter]) -> Iterator[None]:
    before = {parameter: parameter.requires_grad for parameter in parameters}
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter, required in before.items():
            parameter.requires_grad_(required)


@contextmanager
def _indices_of_tables(model: nn.Module) -> Iterator[dict[int, set[int]]]:
    """Yield the rows that each table has been read at, by the identity of the table; filled by the encoding inside."""
    read: dict[int, set[int]] = {}

    def note(module: Any, inputs: tuple[Any, ...]) -> None:
        rows = read.setdefault(id(module.weight), set())
        # RoFormer's table of positions is given a shape, and reads a row for each position.
        rows.update(
            torch.unique(inputs[0]).tolist() if isinstance(inputs[0], Tensor) else range(int(module.num_embeddings))
        )

    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    hooks = [table.register_forward_pre_hook(note) for table in tables]
    try:
        yield read
    finally:
        for hook in hooks:
            hook.remove()


def _fixed_rows(parameter: nn.Parameter, indices: dict[int, set[int]]) -> tuple[int, ...] | None:
    rows = indices.get(id(parameter))
    return tuple(rows) if rows is not None and len(rows) == 1 else None
