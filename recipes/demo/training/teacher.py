"""The teacher: Universal Sentence Encoder multilingual v3 as an ONNX file, with its vectors cached on disk."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnxruntime_extensions import get_library_path

log = logging.getLogger(__name__)

TEACHER_SIZE = 512


class Teacher:
    """Embeds sentences once: each call's new vectors are added to the cache as ``part<nnn>.npy`` and ``.json``.

    The cache knows sentences only, so another teacher needs another folder.
    """

    def __init__(self, model: Path, work: Path, threads: int) -> None:
        """Open the ONNX file (input ``inputs``: strings, output ``outputs``); vectors are kept in ``work/teacher``."""
        options = ort.SessionOptions()
        options.register_custom_ops_library(get_library_path())  # the graph holds its SentencePiece tokenizer
        options.intra_op_num_threads = threads
        self.session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self.cache = work / "teacher"
        self.cache.mkdir(parents=True, exist_ok=True)

    def embed(self, texts: Sequence[str], batch: int = 32) -> np.ndarray:
        """Return the unit vectors of different texts, computing what the cache lacks.

        Returns:
            float16 ``(texts, TEACHER_SIZE)``, in the order of the texts.
        """
        row_of = {text: row for row, text in enumerate(texts)}
        if len(row_of) != len(texts):
            raise ValueError("the same text stands twice among the texts to embed: pass each one once")
        vectors = np.zeros((len(texts), TEACHER_SIZE), dtype=np.float16)
        missing = self._fill_from_cache(vectors, row_of)
        if missing:
            log.info("teacher: %d texts to embed, %d cached", len(missing), len(texts) - len(missing))
            vectors[[row_of[text] for text in missing]] = self._embed_new(missing, batch)
        return vectors

    def _fill_from_cache(self, vectors: np.ndarray, row_of: dict[str, int]) -> list[str]:
        """Write the cached vectors into their rows and return the texts without one, shortest first."""
        missing = set(row_of)
        for names in sorted(self.cache.glob("*.json")):
            cached = json.loads(names.read_text(encoding="utf-8"))
            sources = [i for i, text in enumerate(cached) if text in row_of]
            if sources:
                found = [cached[i] for i in sources]
                vectors[[row_of[text] for text in found]] = np.load(names.with_suffix(".npy"))[sources]
                missing.difference_update(found)
        # Similar lengths together waste little padding; ties keep the order of the texts.
        return sorted((text for text in row_of if text in missing), key=len)

    def _embed_new(self, texts: list[str], batch: int) -> np.ndarray:
        """Compute float16 vectors ``(texts, TEACHER_SIZE)`` and add them to the cache."""
        fresh = np.concatenate(
            [self.session.run(["outputs"], {"inputs": texts[i : i + batch]})[0] for i in range(0, len(texts), batch)]
        ).astype(np.float16)
        part = self.cache / f"part{len(list(self.cache.glob('*.npy'))):03d}"
        np.save(part.with_suffix(".npy"), fresh)
        # Last, because a part counts as cached once its texts can be read.
        part.with_suffix(".json").write_text(json.dumps(texts, ensure_ascii=False), encoding="utf-8")
        return fresh
