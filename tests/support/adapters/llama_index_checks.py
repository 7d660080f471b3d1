"""KorsbertEmbedding in LlamaIndex."""

from __future__ import annotations

import asyncio
import json
import pickle
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from korsbert.llama_index import KorsbertEmbedding
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode

import exporter
from tests.support.adapters import QUERY, TEXTS


def test_vectors_are_those_of_the_encoder(bundle: str, encoder: exporter.Encoder) -> None:
    embedding = KorsbertEmbedding(bundle=bundle)
    wanted = encoder.encode_document(TEXTS).tolist()
    assert embedding.get_text_embedding_batch(TEXTS) == wanted
    assert embedding.get_text_embedding(TEXTS[0]) == encoder.encode_document([TEXTS[0]])[0].tolist()
    assert embedding.get_query_embedding(QUERY) == encoder.encode_query(QUERY).tolist()
    assert [node.embedding for node in embedding([TextNode(text=text) for text in TEXTS])] == wanted


def test_queries_and_documents_have_their_own_prompts(prompted: str) -> None:
    embedding = KorsbertEmbedding(bundle=prompted)
    assert embedding.get_query_embedding(QUERY) != embedding.get_text_embedding(QUERY)


def test_async(bundle: str, encoder: exporter.Encoder) -> None:
    embedding = KorsbertEmbedding(bundle=Path(bundle))
    assert asyncio.run(embedding.aget_text_embedding_batch(TEXTS)) == encoder.encode_document(TEXTS).tolist()
    assert asyncio.run(embedding.aget_text_embedding(TEXTS[0])) == encoder.encode_document([TEXTS[0]])[0].tolist()
    assert asyncio.run(embedding.aget_query_embedding(QUERY)) == encoder.encode_query(QUERY).tolist()


def test_async_methods_leave_the_event_loop_free(bundle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    embedding = KorsbertEmbedding(bundle=bundle)
    threads: list[threading.Thread] = []
    real = exporter.Encoder.encode_padded

    def encode_padded(*given: Any) -> Any:
        threads.append(threading.current_thread())
        return real(*given)

    monkeypatch.setattr(exporter.Encoder, "encode_padded", encode_padded)
    asyncio.run(embedding.aget_query_embedding(QUERY))
    asyncio.run(embedding.aget_text_embedding(TEXTS[0]))
    asyncio.run(embedding.aget_text_embedding_batch(TEXTS))
    assert len(threads) >= 3
    assert threading.main_thread() not in threads


def test_options(bundle: str, encoder: exporter.Encoder) -> None:
    embedding = KorsbertEmbedding(bundle=bundle, truncate_dim=16, embed_batch_size=2)
    wanted = [row for at in (0, 2, 4) for row in encoder.encode_document(TEXTS[at : at + 2], truncate_dim=16).tolist()]
    assert embedding.get_text_embedding_batch(TEXTS) == wanted
    assert embedding.get_query_embedding(QUERY) == encoder.encode_query(QUERY, truncate_dim=16).tolist()
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        KorsbertEmbedding(bundle=bundle, truncate_dim=0)


def test_it_is_stored_and_built_again(bundle: str) -> None:
    embedding = KorsbertEmbedding(bundle=Path(bundle), truncate_dim=16, embed_batch_size=2)
    stored = json.loads(embedding.to_json())
    assert stored.items() >= {"class_name": "KorsbertEmbedding", "bundle": bundle, "model_name": bundle}.items()
    for again in (KorsbertEmbedding.from_dict(stored), pickle.loads(pickle.dumps(embedding))):
        assert again.to_dict() == embedding.to_dict()
        assert again.get_text_embedding_batch(TEXTS) == embedding.get_text_embedding_batch(TEXTS)
    assert KorsbertEmbedding(bundle=bundle, model_name="ours").model_name == "ours"


def test_a_pickle_without_its_bundle_says_so(prompted: str, tmp_path: Path) -> None:
    moved = shutil.copytree(prompted, tmp_path / "bundle")
    pickled = pickle.dumps(KorsbertEmbedding(bundle=moved))
    shutil.rmtree(moved)
    with pytest.raises(exporter.BundleError, match=str(moved)):
        pickle.loads(pickled)


def test_index(bundle: str, encoder: exporter.Encoder) -> None:
    nodes = [TextNode(text=text, id_=str(number)) for number, text in enumerate(TEXTS[:4])]
    index = VectorStoreIndex(nodes, embed_model=KorsbertEmbedding(bundle=bundle))
    found = index.as_retriever(similarity_top_k=3).retrieve(QUERY)
    cosines = encoder.similarity(encoder.encode_query(QUERY), encoder.encode_document(TEXTS[:4]))[0]
    best = sorted(range(4), key=lambda row: -cosines[row])[:3]
    assert [node.node.node_id for node in found] == [str(row) for row in best]
    assert [node.score for node in found] == pytest.approx([float(cosines[row]) for row in best], abs=1e-6)


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(exporter.BundleError, match="manifest"):
        KorsbertEmbedding(bundle=tmp_path)
