"""Vectors of a bulk embedding in other libraries: the examples of docs/embed.md, run as they are written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset
import pytest

import exporter
from exporter.calibration import calibration_sentences

DOCS = Path(__file__).parents[2] / "docs" / "embed.md"
QUERY = "배가 고프다"


def examples() -> dict[str, str]:
    """Return the examples of the section about searching, by what stands before them."""
    section = DOCS.read_text(encoding="utf-8").split("## Searching the vectors")[1].split("\n## ")[0]
    return dict(re.findall(r"\n(\w+)[^\n]*:\n\n```python\n(.*?)```", section, re.DOTALL))


@pytest.fixture(scope="module")
def encoder(demo_fp32: Path) -> Iterator[exporter.Encoder]:
    with exporter.load(demo_fp32, threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def folder(demo_fp32: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``vectors`` in it. One text is empty, and has none."""
    made = tmp_path_factory.mktemp("search")
    texts = ["", *calibration_sentences(None, probes=())[:300]]
    rows = (json.dumps({"key": f"id-{row}", "text": text}) for row, text in enumerate(texts))
    (made / "corpus.jsonl").write_text("\n".join(rows), encoding="utf-8")
    named = exporter.EmbedOptions.of(id="key", on_error="record", rows_per_part=128, normalize=True, threads=1)
    exporter.embed(demo_fp32, made / "corpus.jsonl", made / "vectors", named)
    return made


def test_there_is_an_example_for_each() -> None:
    assert list(examples()) == ["FAISS", "Qdrant", "LanceDB", "DuckDB"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # theirs
@pytest.mark.parametrize("name", examples())
def test_an_example_finds_the_nearest(
    name: str, folder: Path, encoder: exporter.Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pyarrow.dataset.dataset(folder / "vectors", format="parquet").to_table()
    kept = [row for row in table.to_pylist() if row["error"] is None]
    scores = np.array([row["vector"] for row in kept], np.float32) @ encoder.encode_query(QUERY)
    nearest = [kept[place]["key"] for place in np.argsort(-scores)[:3]]
    (tmp_path / "vectors").symlink_to(folder / "vectors")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"encoder": encoder}
    exec(compile(examples()[name], str(DOCS), "exec"), names)
    assert names["found"] == nearest
