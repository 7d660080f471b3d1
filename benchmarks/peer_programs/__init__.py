"""What runs in the environments of `benchmarks.peers`: a module for each library that encodes, korsbert's engines too.

A module has ``load(job)``, which returns what encodes, and ``prepare(job)`` if files must be written first. It may have
``facts(job)``, which returns what the result states of what was loaded, as JSON data. `main` runs them and answers
requests (`benchmarks.peer`). It times in its own process, so no pipe is in the figures. Modules for peers may import no
more of the project than this one: their environments do not have korsbert.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Encode = Callable[[list[str], int], Any]
"""Encodes sentences in batches of so many rows, to what numpy makes (sentences, dimension) of."""


@dataclass(frozen=True)
class Job:
    """What a process is to prepare, or to load.

    Attributes:
        checkpoint: Folder of the sentence-transformers checkpoint.
        folder: Where preparations write, and what is loaded lies.
        variant: Which of a module's engines.
        threads: Of every library.
        text: File of calibration sentences, one a line.
        libraries: Distributions whose versions are stated.
    """

    checkpoint: str
    folder: str
    variant: str
    threads: int
    text: str
    libraries: tuple[str, ...] = ()

    @property
    def sentences(self) -> list[str]:
        """The calibration sentences."""
        return Path(self.text).read_text(encoding="utf-8").splitlines()


def main(requests: Callable[[], Iterable[dict[str, Any]]], answer: Callable[..., None]) -> None:
    """Prepare or serve what the command line names: module, action, and the job as JSON.

    A request has ``texts``, ``batch_size``, ``alone`` (each text is a batch, timed alone) and ``vectors`` (whether they
    are wanted). The answer has ``seconds``, one for each call of ``encode``, and the ``shape`` of the float32 vectors.
    Before all requests, an answer has the ``versions`` of the job's libraries and the module's ``facts``.
    """
    program, action, content = sys.argv[1:]
    job = Job(**json.loads(content))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(job.threads)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    module = importlib.import_module(f"{__name__}.{program}")
    if action == "prepare":
        module.prepare(job)
        answer({})
        return
    encode = module.load(job)
    from importlib.metadata import version  # noqa: PLC0415 - after the environment's variables

    facts = module.facts(job) if hasattr(module, "facts") else {}
    answer({"versions": {library: version(library) for library in job.libraries}, "facts": facts})
    for request in requests():
        texts, batch_size = request["texts"], request["batch_size"]
        batches = [[text] for text in texts] if request["alone"] else [texts]
        seconds, found = [], []
        for batch in batches:
            started = time.perf_counter()
            vectors = encode(batch, batch_size)
            seconds.append(time.perf_counter() - started)
            found.append(vectors)
        shape, values = (0, 0), b""
        if request["vectors"]:
            rows = np.concatenate([np.asarray(vectors, np.float32) for vectors in found])
            shape, values = rows.shape, rows.tobytes()
        answer({"seconds": seconds, "shape": shape}, values)


def transformer_folder(checkpoint: str) -> Path:
    """Return the folder of the transformer within a sentence-transformers checkpoint."""
    return Path(checkpoint) / _modules(checkpoint)[0]["path"]


def max_seq_length(checkpoint: str) -> int:
    """Return how many tokens the checkpoint reads of a sentence; its transformer or its tokenizer says so."""
    folder = transformer_folder(checkpoint)
    own = json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8")).get("max_seq_length")
    return int(own or json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["model_max_length"])


def lower_cases(checkpoint: str) -> bool:
    """Return whether sentence-transformers lower-cases the text of this checkpoint."""
    path = transformer_folder(checkpoint) / "sentence_bert_config.json"
    return bool(json.loads(path.read_text(encoding="utf-8")).get("do_lower_case"))


def pooling_of(checkpoint: str) -> tuple[str, bool]:
    """Return the pooling mode, and whether vectors are normalized.

    Raises:
        ValueError: Pooling is neither mean nor cls, or a module follows that these programs do not have.
    """
    modules = _modules(checkpoint)
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    config = json.loads((Path(checkpoint) / modules[1]["path"] / "config.json").read_text(encoding="utf-8"))
    modes = [name for name, wanted in config.items() if name.startswith("pooling_mode_") and wanted is True]
    names = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    mode = config.get("pooling_mode") or (names.get(modes[0], modes[0]) if len(modes) == 1 else str(modes))
    if kinds[2:] not in ([], ["Normalize"]) or mode not in ("mean", "cls"):
        raise ValueError(f"modules {', '.join(kinds)} with pooling {mode}: only mean or cls pooling is written here")
    return mode, "Normalize" in kinds


def _modules(checkpoint: str) -> list[dict[str, str]]:
    modules: list[dict[str, str]] = json.loads((Path(checkpoint) / "modules.json").read_text(encoding="utf-8"))
    return modules


def by_length(encode_batch: Callable[[list[str]], Vectors]) -> Encode:
    """Return an ``encode`` that sorts by length, the longest first, as SentenceTransformer does.

    Args:
        encode_batch: Encodes one batch.
    """

    def encode(texts: list[str], batch_size: int) -> Vectors:
        order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
        parts = [
            encode_batch([texts[row] for row in order[start : start + batch_size]])
            for start in range(0, len(order), batch_size)
        ]
        return np.concatenate(parts)[np.argsort(order)]

    return encode


def pooled(hidden: npt.NDArray[Any], mask: npt.NDArray[Any], mode: str, *, normalize: bool) -> Vectors:
    """Return sentence vectors (batch, dimension) of token vectors (batch, sequence, dimension) and a mask."""
    hidden = hidden.astype(np.float32, copy=False)
    if mode == "cls":
        vectors = hidden[:, 0]
    else:
        weights = mask.astype(np.float32)
        vectors = np.einsum("bsd,bs->bd", hidden, weights) / weights.sum(axis=1, keepdims=True)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if normalize else vectors
