"""Write a checkpoint with real weights: ``python -m tests.support.real_weights NAME FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.real_weights import REAL

if __name__ == "__main__":
    name, folder = sys.argv[1:]
    Path(folder).mkdir(parents=True)
    REAL[name](Path(folder))
