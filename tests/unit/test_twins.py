"""The twins load as their originals would, and their weights let faults be seen."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import nn
from transformers.activations import GELUActivation

from recipes import twins
from recipes.twins import TWINS, WordPiece, build_twin, corpus_texts, main, vocabulary

cosine = nn.functional.cosine_similarity


def sample(count: int) -> list[str]:
    """Return that many of the project's probes, evenly spread over the file."""
    lines = twins.CORPUS[0].read_text(encoding="utf-8").splitlines()
    texts = list(dict.fromkeys(json.loads(line)["text"] for line in lines))
    return [texts[index * len(texts) // count] for index in range(count)]


@dataclass
class Loaded:
    """A small twin in memory, with what is measured on it."""

    name: str
    folder: Path
    model: SentenceTransformer
    batches: list[dict[str, torch.Tensor]]
    reference: torch.Tensor

    @property
    def encoder(self) -> nn.Module:
        return self.model[0].auto_model

    def pooled(self, encoder: nn.Module, batch: dict[str, torch.Tensor], **changed: torch.Tensor) -> torch.Tensor:
        """Return (batch, dim) float64 vectors; what is changed is changed for the encoder alone, not for the pooling."""
        with torch.inference_mode():
            hidden = encoder(**(batch | changed)).last_hidden_state.double()
        mask = batch["attention_mask"].unsqueeze(-1)
        return hidden[:, 0] if TWINS[self.name].pooling == "cls" else (hidden * mask).sum(1) / mask.sum(1)

    def vectors(self, encoder: nn.Module) -> torch.Tensor:
        return torch.cat([self.pooled(encoder, batch) for batch in self.batches])

    def cosines(self, encoder: nn.Module) -> torch.Tensor:
        """Return each sentence's cosine to the sound encoder's vector."""
        return cosine(self.vectors(encoder), self.reference)

    @contextlib.contextmanager
    def broken(self) -> Iterator[nn.Module]:
        """Give a copy to break."""
        yield copy.deepcopy(self.encoder)


def load(name: str, folder: Path) -> Loaded:
    model = SentenceTransformer(str(build_twin(name, folder)), device="cpu")
    texts = sorted(sample(200), key=len)
    batches = [dict(model.preprocess(texts[start : start + 20])) for start in range(0, len(texts), 20)]
    keys = ("input_ids", "attention_mask", "token_type_ids")
    batches = [{key: batch[key] for key in keys if key in batch} for batch in batches]
    loaded = Loaded(name, folder, model, batches, torch.empty(0))
    loaded.reference = loaded.vectors(loaded.encoder)
    return loaded


@pytest.fixture(scope="module", params=TWINS)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return load(request.param, tmp_path_factory.mktemp(request.param))


def rms(x): return x
