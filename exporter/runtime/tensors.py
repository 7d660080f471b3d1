"""torch tensors of users, and for users: the one file of ``runtime`` that names torch, and imports it on use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def tensors_of(found: npt.NDArray[Any], *, stacked: bool) -> Any:
    """Return an array as a tensor on the CPU, or as a list of tensors of its rows."""
    import torch  # noqa: PLC0415 - only for whoever asks for tensors

    tensor = torch.from_numpy(np.asarray(found))
    return tensor if stacked else list(tensor)


def array_of(vectors: Any) -> npt.NDArray[Any]:
    """Return a tensor, or anything that numpy reads, as an array. numpy has no bfloat16: it becomes float32."""
    if not is_tensor(vectors):
        return np.asarray(vectors)
    detached = vectors.detach().cpu()
    return np.asarray((detached.float() if str(detached.dtype) == "torch.bfloat16" else detached).numpy())


def like(given: Any, found: npt.NDArray[Any]) -> Any:
    """Return an array as a tensor on the device of what was given, if that is a tensor or begins with one."""
    if not is_tensor(given):
        return found
    first = given[0] if isinstance(given, Sequence) else given
    return tensors_of(found, stacked=True).to(first.device)


def is_tensor(value: Any) -> bool:
    """Whether a value is a torch tensor, or a list that begins with one."""
    first = value[0] if isinstance(value, Sequence) and value else value
    return any(
        kind.__module__.partition(".")[0] == "torch" and kind.__name__ == "Tensor" for kind in type(first).__mro__
    )
