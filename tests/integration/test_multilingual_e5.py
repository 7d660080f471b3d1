"""The recipe multilingual-e5-small on its real weights, rounded to 4 bits: its prompts, and how vectors are stored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import quantize_embeddings

import exporter
from exporter.bundle import Bundle
from exporter.recipe import Gates
from exporter.runtime.contract import VectorType
from exporter.runtime.vector_types import Vectors
from tests.conftest import Shared
from tests.support.real_weights import REAL

NAME = "multilingual-e5-small"
TRANSLATIONS = {
    "환불은 어떻게 신청하나요?": "How do I request a refund?",
    "고양이가 소파 위에서 자고 있다.": "The cat is sleeping on the sofa.",
    "서울은 대한민국의 수도이다.": "Seoul is the capital of South Korea.",
    "이 식당의 김치찌개는 너무 짜다.": "The kimchi stew at this restaurant is too salty.",
    "비밀번호를 잊어버렸어요.": "I forgot my password.",
    "기차가 삼십 분 늦게 도착했다.": "The train arrived thirty minutes late.",
    "주식 시장이 급락했다.": "The stock market plunged.",
    "우산을 버스에 두고 내렸다.": "I left my umbrella on the bus.",
}
TEXTS = [*TRANSLATIONS, *TRANSLATIONS.values(), "", "끝에 빈칸 \n", "ＡＢＣ　①㈱ ﬁ", "이모지 😀👍"]
LONG = "긴 " * 600
MAX_SEQ_LENGTH = 128  # of the 512 tokens: the longest probes and sweeps are most of an export's time
GATE = Gates().fp16
MIN_COSINE = GATE.min_cosine


@pytest.fixture(scope="module")
def checkpoint(shared: Shared) -> Path:
    return shared(f"real-{NAME}", REAL[NAME])


@pytest.fixture(scope="module")
def bundle(shared: Shared, checkpoint: Path) -> Bundle:
    def fill(folder: Path) -> None:
        exporter.export(NAME, checkpoint=checkpoint, precision="fp16", max_seq_length=MAX_SEQ_LENGTH, out=folder)

    return Bundle.open(shared(f"real-{NAME}-fp16", fill) / NAME / "fp16-onnxruntime")


@pytest.fixture(scope="module")
def encoder(bundle: Bundle) -> Iterator[exporter.Encoder]:
    with bundle.encoder() as encoder:
        yield encoder


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> SentenceTransformer:
    model = SentenceTransformer(str(checkpoint), device="cpu")
    model.max_seq_length = MAX_SEQ_LENGTH
    return model


def test_it_meets_its_recipe_and_passes_its_gates(bundle: Bundle) -> None:
    parity = json.loads((bundle.folder / "parity.json").read_text(encoding="utf-8"))
    assert parity["passed"]
    assert "tokenizer: transformers splits at whitespace first" in " ".join(bundle.manifest.decisions)
    assert bundle.manifest.encoder.prompts == {"query": "query: ", "document": "passage: "}


@pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
def test_each_prompt_gives_the_vectors_of_sentence_transformers(
    encoder: exporter.Encoder, reference: SentenceTransformer, method: str
) -> None:
    found, wanted = (getattr(side, method)([*TEXTS, LONG]) for side in (encoder, reference))
    assert (found * wanted).sum(1).min() >= MIN_COSINE  # both are normalized
    if method != "encode":
        plain = encoder.encode([*TEXTS, LONG])
        assert (found * plain).sum(1).min() < MIN_COSINE  # without the prompt, the test would fail


@pytest.mark.parametrize("dimension", [384, 128])
@pytest.mark.parametrize("method", ["encode_query", "encode_document"])
@pytest.mark.parametrize("precision", ["float16", "int8", "uint8", "binary", "ubinary"])
def test_vectors_are_stored_as_sentence_transformers_stores_them(
    encoder: exporter.Encoder, reference: SentenceTransformer, precision: VectorType, method: str, dimension: int
) -> None:
    assert encoder.ranges is not None
    ranges = encoder.ranges.at(dimension, normalize=False)
    found: Any = getattr(encoder, method)(TEXTS, precision=precision, truncate_dim=dimension)
    vectors: Vectors = getattr(reference, method)(TEXTS, truncate_dim=dimension)
    if precision == "float16":
        np.testing.assert_allclose(found, vectors, atol=1e-3)
        return
    wanted: Any = quantize_embeddings(vectors, precision, ranges=ranges)
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    if precision in ("binary", "ubinary"):
        flipped = np.unpackbits(found.view(np.uint8)) != np.unpackbits(wanted.view(np.uint8))
        assert flipped.mean() <= at_most(GATE.max_sign_flips)
        return
    assert (np.abs(found.astype(int) - wanted.astype(int)) > 1).mean() <= at_most(GATE.max_code_changes)


def at_most(bound: float | None) -> float:
    assert bound is not None
    return bound


def test_a_sentence_finds_its_translation(encoder: exporter.Encoder) -> None:
    """Only weights that were trained do: those of a twin would not."""
    korean, english = encoder.encode_query(list(TRANSLATIONS)), encoder.encode_query(list(TRANSLATIONS.values()))
    np.testing.assert_array_equal((korean @ english.T).argmax(1), np.arange(len(TRANSLATIONS)))
