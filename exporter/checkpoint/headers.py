"""Safetensors files: their headers, which say what they hold, without a tensor being read and without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from exporter.errors import CheckpointError, first_sentence


def open_safetensors(path: Path, framework: Literal["pt", "np"] = "np") -> Any:
    """Open a safetensors file: its header is read, and compared with its size.

    Args:
        path: The file.
        framework: What tensors are read as; ``"np"`` imports no torch.

    Raises:
        CheckpointError: It is damaged, or cannot be read.
    """
    try:
        return safe_open(path, framework=framework)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged safetensors file: {error}", next_step="download it again") from error
    except OSError as error:
        raise CheckpointError(f"{path}: damaged: {first_sentence(error)}", next_step="download it again") from error
