"""KorsbertEmbeddingFunction in Chroma."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import chromadb
import numpy as np
import pytest
from chromadb.config import Settings
from chromadb.utils.embedding_functions import known_embedding_functions
from korsbert.chroma import KorsbertEmbeddingFunction

import exporter
from tests.support.adapters import QUERY, TEXTS

TEXT = [text for text in TEXTS if text]  # Chroma takes an empty text for none
SILENT = Settings(anonymized_telemetry=False)


@pytest.fixture
def client() -> Iterator[Any]:
    client = chromadb.EphemeralClient(SILENT)
    yield client
    for collection in client.list_collections():
        client.delete_collection(collection.name)


def assert_equal(found: list[Any], wanted: Any) -> None:
    assert [vector.dtype for vector in found] == [np.float32] * len(wanted)
    np.testing.assert_array_equal(np.array(found), wanted)


def test_vectors_are_those_of_the_encoder(bundle: str, encoder: exporter.Encoder) -> None:
    function = KorsbertEmbeddingFunction(bundle)
    assert_equal(function(TEXTS), encoder.encode_document(TEXTS))
    assert_equal(function.embed_query([QUERY, TEXTS[0]]), encoder.encode_query([QUERY, TEXTS[0]]))


def test_queries_and_documents_have_their_own_prompts(prompted: str) -> None:
    function = KorsbertEmbeddingFunction(prompted)
    assert not np.array_equal(function([QUERY])[0], function.embed_query([QUERY])[0])


def test_options(bundle: str, encoder: exporter.Encoder) -> None:
    function = KorsbertEmbeddingFunction(bundle, truncate_dim=16, batch_size=2)
    assert_equal(function(TEXTS), encoder.encode_document(TEXTS, truncate_dim=16, batch_size=2))
    assert_equal(function.embed_query(TEXTS), encoder.encode_query(TEXTS, truncate_dim=16, batch_size=2))


def test_collection(bundle: str, encoder: exporter.Encoder, client: Any) -> None:
    collection = client.create_collection("texts", embedding_function=KorsbertEmbeddingFunction(bundle))
    assert collection.configuration_json["hnsw"]["space"] == "cosine"  # the demo's similarity, not Chroma's default
    collection.add(ids=[str(row) for row in range(len(TEXT))], documents=TEXT)
    stored = collection.get(include=["embeddings"])["embeddings"]
    np.testing.assert_allclose(stored, encoder.encode_document(TEXT), rtol=1e-6)  # Chroma normalizes, and scales back
    found = collection.query(query_texts=[QUERY], n_results=3)
    cosines = encoder.similarity(encoder.encode_query(QUERY), encoder.encode_document(TEXT))[0]
    best = sorted(range(len(TEXT)), key=lambda row: -cosines[row])[:3]
    assert found["ids"] == [[str(row) for row in best]]
    assert found["distances"][0] == pytest.approx([1 - float(cosines[row]) for row in best], abs=1e-5)


def test_it_is_stored_with_a_collection_and_built_again(prompted: str, tmp_path: Path) -> None:
    function = KorsbertEmbeddingFunction(Path(prompted), truncate_dim=16, batch_size=2)
    wanted = {"bundle": prompted, "truncate_dim": 16, "batch_size": 2}
    assert function.get_config() == wanted
    assert function.build_from_config(wanted).get_config() == wanted
    assert known_embedding_functions["korsbert"] is KorsbertEmbeddingFunction
    client = chromadb.PersistentClient(tmp_path, SILENT)
    made = client.create_collection("texts", embedding_function=function)
    assert made.configuration_json["embedding_function"] == {"type": "known", "name": "korsbert", "config": wanted}
    made.add(ids=["0"], documents=[TEXTS[0]])
    again = client.get_collection("texts")  # with the function that is stored
    again.add(ids=["1"], documents=[TEXTS[0]])
    first, second = again.get(include=["embeddings"])["embeddings"]
    np.testing.assert_array_equal(first, second)
    assert len(first) == 16


def test_a_collection_keeps_the_length_of_its_vectors(prompted: str, client: Any) -> None:
    collection = client.create_collection("texts", embedding_function=KorsbertEmbeddingFunction(prompted))
    wider = KorsbertEmbeddingFunction(prompted, batch_size=8)
    collection.modify(configuration={"embedding_function": wider})
    narrow = KorsbertEmbeddingFunction(prompted, truncate_dim=16)
    with pytest.raises(ValueError, match="vectors of truncate_dim None, not 16"):
        collection.modify(configuration={"embedding_function": narrow})


@pytest.mark.parametrize(
    ("similarity", "space"), [("cosine", "cosine"), ("dot", "ip"), ("euclidean", "l2"), ("manhattan", "l2")]
)
def test_the_space_is_that_of_the_checkpoint(
    prompted: str, similarity: str, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = KorsbertEmbeddingFunction(prompted)
    monkeypatch.setattr(function, "_encoder", SimpleNamespace(similarity_fn_name=similarity))
    assert function.default_space() == space


def test_what_is_refused(tmp_path: Path, prompted: str) -> None:
    with pytest.raises(exporter.BundleError, match="manifest"):
        KorsbertEmbeddingFunction(tmp_path)
    with pytest.raises(TypeError, match="model_name"):
        KorsbertEmbeddingFunction.build_from_config({"bundle": prompted, "model_name": "x"})
