"""Sweeps: from token ids to vectors, over the word rows, positions, batch sizes and widths that sentences do not reach.

``against_pytorch.py`` compares word rows and positions with PyTorch. ``against_itself.py`` compares batch sizes and
padded widths with the engine's own answer to the same row, alone and without padding. ``inputs.py`` makes the token ids
of both, ``distances.py`` decides which rows are too far from PyTorch's, ``running.py`` has what all share, and
``parts.py`` runs all parts.
"""

from exporter.validator.sweeps.parts import sweep
from exporter.validator.sweeps.running import SweepReference, Vectors

__all__ = ["SweepReference", "Vectors", "sweep"]
