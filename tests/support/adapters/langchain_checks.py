"""KorsbertEmbeddings in LangChain."""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path

import pytest
from korsbert.langchain import KorsbertEmbeddings
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore

import exporter
from tests.support.adapters import QUERY, TEXTS


def test_vectors_are_those_of_the_encoder(bundle: str, encoder: exporter.Encoder) -> None:
    embeddings = KorsbertEmbeddings(bundle)
    assert isinstance(embeddings, Embeddings)
    assert embeddings.embed_documents(TEXTS) == encoder.encode_document(TEXTS).tolist()
    assert embeddings.embed_query(QUERY) == encoder.encode_query(QUERY).tolist()
    assert embeddings.embed_documents([]) == []


def test_queries_and_documents_have_their_own_prompts(prompted: str) -> None:
    embeddings = KorsbertEmbeddings(prompted)
    assert embeddings.embed_query(QUERY) != embeddings.embed_documents([QUERY])[0]


def test_async(bundle: str, encoder: exporter.Encoder) -> None:
    embeddings = KorsbertEmbeddings(Path(bundle))
    assert asyncio.run(embeddings.aembed_documents(TEXTS)) == encoder.encode_document(TEXTS).tolist()
    assert asyncio.run(embeddings.aembed_query(QUERY)) == encoder.encode_query(QUERY).tolist()


def test_options(bundle: str, encoder: exporter.Encoder) -> None:
    embeddings = KorsbertEmbeddings(bundle, truncate_dim=16, batch_size=2)
    wanted = encoder.encode_document(TEXTS, batch_size=2, truncate_dim=16)
    assert embeddings.embed_documents(TEXTS) == wanted.tolist()
    assert embeddings.embed_query(QUERY) == encoder.encode_query(QUERY, truncate_dim=16).tolist()


def test_a_pickle_gives_the_same_vectors(bundle: str) -> None:
    embeddings = KorsbertEmbeddings(bundle, truncate_dim=16)
    again = pickle.loads(pickle.dumps(embeddings))
    assert again.embed_documents(TEXTS) == embeddings.embed_documents(TEXTS)


def test_vector_store(bundle: str, encoder: exporter.Encoder) -> None:
    store = InMemoryVectorStore(KorsbertEmbeddings(bundle))
    store.add_texts(TEXTS)
    found = [(document.page_content, score) for document, score in store.similarity_search_with_score(QUERY, k=3)]
    cosines = encoder.similarity(encoder.encode_query(QUERY), encoder.encode_document(TEXTS))[0]
    best = sorted(range(len(TEXTS)), key=lambda row: -cosines[row])[:3]
    assert [text for text, _ in found] == [TEXTS[row] for row in best]
    assert [score for _, score in found] == pytest.approx([float(cosines[row]) for row in best], abs=1e-6)


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(exporter.BundleError, match="manifest"):
        KorsbertEmbeddings(tmp_path)
