"""The texts of rows: lines of a file, or JSONL with a field that says which row a text belongs to."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

from exporter.errors import InputError
from exporter.files import TEXT, read_text
from exporter.runtime.texts import lone_surrogate

Key = str | int


def texts_by_key(path: Path, id_column: str | None, rows: int) -> Mapping[Key, str]:
    """Return the text of every row.

    Args:
        path: The file.
        id_column: The field of JSONL that is the key; None for the number of the line.
        rows: How many rows the vectors have: without ids, there must be as many texts. Lines without text count if
            that many are there with them.

    Raises:
        InputError: The file cannot be read, has another number of texts, or a key twice.
    """
    lines = _lines(path)
    if path.suffix == ".jsonl":
        return _of_json(path, lines, id_column, rows)
    if id_column is not None:
        raise InputError(f"{path}: has no ids", next_step=f'give JSONL with "text" and {json.dumps(id_column)}')
    return _counted(path, lines, rows)


def _lines(path: Path) -> list[str]:
    try:
        # Not str.splitlines, which also splits at U+2028 and others.
        content = io.StringIO(read_text(path, TEXT, stream=True), newline=None)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}", next_step="give another text file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}", next_step="save it as UTF-8") from error
    return [line.removesuffix("\n") for line in content]


def _of_json(path: Path, lines: list[str], id_column: str | None, rows: int) -> Mapping[Key, str]:
    texts: list[str] = []
    by_id: dict[Key, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            text, key = entry["text"], entry[id_column] if id_column is not None else number
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            wanted = "text" if id_column is None else f"text and {json.dumps(id_column)}"
            raise InputError(f"{path}, line {number}: no JSON object with {wanted}") from error
        if not isinstance(text, str) or lone_surrogate(text):
            raise InputError(f"{path}, line {number}: text is no Unicode text")
        if isinstance(key, bool) or not isinstance(key, str | int):
            raise InputError(f"{path}, line {number}: the id is {type(key).__name__}, and must be text or an integer")
        if str(key) in by_id:
            raise InputError(f"{path}, line {number}: the id {json.dumps(key)[:80]} was there before")
        by_id[str(key)] = text
        texts.append(text)
    return by_id if id_column is not None else _counted(path, texts, rows)


def _counted(path: Path, texts: list[str], rows: int) -> Mapping[Key, str]:
    with_text = [text for text in texts if text.strip()]
    for chosen in (texts, with_text):
        if len(chosen) == rows:
            return dict(enumerate(chosen))
    lines = f"{len(texts):,} lines" + (f", {len(with_text):,} with text" if len(with_text) < len(texts) else "")
    raise InputError(
        f"{path}: has {lines}, and there are {rows:,} vectors",
        next_step="give the text that the vectors were made from, or JSONL with ids and `id_column`",
    )
