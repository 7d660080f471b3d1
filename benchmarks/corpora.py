"""Inputs of bulk embedding, and a stand-in that costs nothing for its tokenizer and engine."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.processes import run_to_success
from benchmarks.results import DEMO

_ROWS_AT_ONCE = 100_000
_EXPORT = "import sys, exporter; exporter.export(sys.argv[1], out=sys.argv[2])"
WITHOUT_ENGINE = """
def without_engine():
    import numpy as np
    from exporter.corpus import windows
    from exporter.runtime.encoder import Encoder
    windows.ids_and_truncated_of = lambda _, texts, prompt: ([[2]] * len(texts), [False] * len(texts))
    Encoder.encode_padded = lambda self, ids, mask: np.zeros((len(ids), self.full_dimension), np.float32)
"""
"""Source of a function that makes token ids fixed and vectors zeros, in the process that calls it."""


def demo_bundle(work: Path) -> Path:
    """Return the folder of the demo's bundle in float32, exported by another process unless it is there."""
    if not (work / "demo").is_dir():
        run_to_success([sys.executable, "-c", _EXPORT, str(DEMO), str(work / "demo")])
    (bundle,) = (work / "demo").glob("*/fp32-onnxruntime")
    return bundle


def short_texts(work: Path, rows: int) -> Path:
    """Return a Parquet file of short texts, all different, written unless it is there."""
    path = work / f"{rows}.parquet"
    if path.is_file():
        return path
    schema = pa.schema([("text", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, _ROWS_AT_ONCE):
            texts = [f"{number}번 문서" for number in range(start, min(start + _ROWS_AT_ONCE, rows))]
            writer.write_table(pa.table({"text": texts}, schema))
    return path
