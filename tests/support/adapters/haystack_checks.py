"""KorsbertTextEmbedder and KorsbertDocumentEmbedder in Haystack."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest
from haystack import Document, Pipeline
from haystack.components.retrievers import InMemoryEmbeddingRetriever
from haystack.components.writers import DocumentWriter
from haystack.document_stores.in_memory import InMemoryDocumentStore
from korsbert.haystack import KorsbertDocumentEmbedder, KorsbertTextEmbedder

import exporter
from exporter.adapters import opening
from tests.support.adapters import QUERY, TEXTS

DOCUMENTS = [Document(content=text, meta={"row": row}) for row, text in enumerate(TEXTS)]


def test_vectors_are_those_of_the_encoder(bundle: str, encoder: exporter.Encoder) -> None:
    assert KorsbertTextEmbedder(bundle).run(QUERY) == {"embedding": encoder.encode_query(QUERY).tolist()}
    (found,) = KorsbertDocumentEmbedder(bundle).run(DOCUMENTS).values()
    assert [document.embedding for document in found] == encoder.encode_document(TEXTS).tolist()
    assert [document.meta for document in found] == [document.meta for document in DOCUMENTS]
    assert all(document.embedding is None for document in DOCUMENTS)  # copies have them
    assert KorsbertDocumentEmbedder(bundle).run([]) == {"documents": []}
    (empty,) = KorsbertDocumentEmbedder(bundle).run([Document(meta={"title": "no text"})])["documents"]
    assert empty.embedding == encoder.encode_document([""])[0].tolist()


def test_queries_and_documents_have_their_own_prompts(prompted: str) -> None:
    (document,) = KorsbertDocumentEmbedder(prompted).run([Document(content=QUERY)])["documents"]
    assert KorsbertTextEmbedder(prompted).run(QUERY)["embedding"] != document.embedding


def test_async(bundle: str, encoder: exporter.Encoder) -> None:
    found = asyncio.run(KorsbertTextEmbedder(Path(bundle)).run_async(QUERY))
    assert found == {"embedding": encoder.encode_query(QUERY).tolist()}
    documents = asyncio.run(KorsbertDocumentEmbedder(Path(bundle)).run_async(DOCUMENTS))["documents"]
    assert [document.embedding for document in documents] == encoder.encode_document(TEXTS).tolist()


def test_options(bundle: str, encoder: exporter.Encoder) -> None:
    found = KorsbertTextEmbedder(bundle, truncate_dim=16).run(QUERY)["embedding"]
    assert found == encoder.encode_query(QUERY, truncate_dim=16).tolist()
    documents = KorsbertDocumentEmbedder(bundle, truncate_dim=16, batch_size=2).run(DOCUMENTS)["documents"]
    wanted = encoder.encode_document(TEXTS, truncate_dim=16, batch_size=2).tolist()
    assert [document.embedding for document in documents] == wanted


def test_components_are_stored_and_built_again() -> None:
    text = KorsbertTextEmbedder(Path("anywhere"), truncate_dim=16)
    document = KorsbertDocumentEmbedder(Path("anywhere"), truncate_dim=16, batch_size=2)
    for one, parameters in (
        (text, {"bundle": "anywhere", "truncate_dim": 16}),
        (document, {"bundle": "anywhere", "truncate_dim": 16, "batch_size": 2}),
    ):
        stored = json.loads(json.dumps(one.to_dict()))
        assert stored == {
            "type": f"exporter.adapters.haystack.{type(one).__name__}",
            "init_parameters": parameters,
        }
        again = type(one).from_dict(stored)
        assert type(again) is type(one)
        assert again.to_dict() == stored


def test_pipelines(bundle: str, encoder: exporter.Encoder) -> None:
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    indexing = Pipeline()
    indexing.add_component("embedder", KorsbertDocumentEmbedder(bundle))
    indexing.add_component("writer", DocumentWriter(store))
    indexing.connect("embedder.documents", "writer.documents")
    assert indexing.run({"embedder": {"documents": DOCUMENTS}}) == {"writer": {"documents_written": len(TEXTS)}}

    searching = Pipeline()
    searching.add_component("embedder", KorsbertTextEmbedder(bundle))
    searching.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=3))
    searching.connect("embedder.embedding", "retriever.query_embedding")
    found = searching.run({"embedder": {"text": QUERY}})["retriever"]["documents"]
    cosines = encoder.similarity(encoder.encode_query(QUERY), encoder.encode_document(TEXTS))[0]
    best = sorted(range(len(TEXTS)), key=lambda row: -cosines[row])[:3]
    assert [document.content for document in found] == [TEXTS[row] for row in best]
    assert [document.score for document in found] == pytest.approx([float(cosines[row]) for row in best], abs=1e-6)


def test_a_pipeline_is_stored_as_yaml_and_loaded(prompted: str) -> None:
    pipeline = Pipeline()
    pipeline.add_component("embedder", KorsbertTextEmbedder(prompted))
    again = Pipeline.loads(pipeline.dumps(), allowed_modules=["exporter.adapters"])
    assert again.run({"embedder": {"text": QUERY}}) == pipeline.run({"embedder": {"text": QUERY}})


def test_the_bundle_is_opened_by_warm_up_and_shared(
    prompted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []

    def load(path: str) -> exporter.Encoder:
        loads.append(path)
        return exporter.load(path)

    monkeypatch.setattr(opening, "load", load)
    mine = str(shutil.copytree(prompted, tmp_path / "bundle"))  # no other test has it open
    text, document = KorsbertTextEmbedder(mine), KorsbertDocumentEmbedder(mine)
    assert loads == []
    text.warm_up()
    document.warm_up()
    text.run(QUERY)
    assert loads == [mine]
    shutil.rmtree(mine)  # or another bundle in its place: queries must keep to the vectors that were stored
    text.run(QUERY)
    document.run(DOCUMENTS)


def test_what_is_refused(prompted: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="takes one string"):
        KorsbertTextEmbedder(prompted).run(DOCUMENTS)
    for wrong in (QUERY, [DOCUMENTS[0], QUERY]):
        with pytest.raises(TypeError, match="takes a list of documents"):
            KorsbertDocumentEmbedder(prompted).run(wrong)
    with pytest.raises(exporter.BundleError, match="manifest"):
        KorsbertTextEmbedder(tmp_path).warm_up()
