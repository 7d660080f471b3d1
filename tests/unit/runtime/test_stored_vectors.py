"""An encoder of the demo stores vectors as SentenceTransformer does, and takes its place in evaluators and workers."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import (
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
)
from sentence_transformers.util import quantize_embeddings as theirs

import exporter
from exporter.bundle import Bundle
from exporter.runtime.contract import VECTOR_TYPES, VectorType
from exporter.runtime.vector_types import Ranges
from tests.unit.runtime.test_encoder import DEMO, RAGGED

TEXTS = [*RAGGED, *(f"{number} 번째 문장은 {'길고 ' * (number % 7)}다르다." for number in range(60))]
THEIR_TYPES: tuple[VectorType, ...] = ("float32", "int8", "uint8", "binary", "ubinary")


def stored(vectors: np.ndarray, precision: VectorType, ranges: np.ndarray) -> np.ndarray:
    """What SentenceTransformer stores, with the ranges of the bundle."""
    found: np.ndarray = theirs(vectors, precision, ranges=ranges)
    return found


class TestTypes:
    @pytest.mark.parametrize("precision", THEIR_TYPES)
    @pytest.mark.parametrize("dimension", [None, 256, 100, 1])
    @pytest.mark.parametrize("normalize", [False, True])
    def test_truncated_then_normalized_then_stored(
        self,
        encoder: exporter.Encoder,
        reference: SentenceTransformer,
        precision: VectorType,
        dimension: int | None,
        normalize: bool,
    ) -> None:
        """Of a float32 bundle a number lies on the other side of a border now and then, one code away."""
        options: Any = {"normalize_embeddings": normalize, "truncate_dim": dimension}
        wanted = reference.encode(TEXTS, show_progress_bar=False, **options)
        ranges = Ranges.of(wanted).raw + np.array([[-0.01], [0.01]], np.float32)  # no value on the border of a code
        found = encoder.encode(TEXTS, precision=precision, ranges=ranges, **options)
        expected = stored(wanted, precision, ranges)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        if precision == "float32":
            np.testing.assert_allclose(found, expected, atol=2e-5)
            return
        if precision in ("binary", "ubinary"):
            found, expected = (np.unpackbits(codes.view(np.uint8)) for codes in (found, expected))
        different = np.abs(found.astype(int) - expected.astype(int))
        assert different.max() <= 1
        assert different.mean() < 1e-3

    @pytest.mark.parametrize("normalize", [False, True])
    def test_the_ranges_are_those_of_the_bundle(
        self, encoder: exporter.Encoder, reference: SentenceTransformer, normalize: bool
    ) -> None:
        assert encoder.ranges is not None
        ranges = encoder.ranges.at(256, normalize=normalize)
        wanted: Any = reference.encode(TEXTS, normalize_embeddings=normalize, show_progress_bar=False)
        found = encoder.encode(TEXTS, precision="int8", normalize_embeddings=normalize)
        different = np.abs(found.astype(int) - stored(wanted, "int8", ranges).astype(int))
        assert different.max() <= 1
        assert different.mean() < 1e-3
        np.testing.assert_array_equal(
            encoder.encode(TEXTS[3], precision="int8", normalize_embeddings=normalize), found[3]
        )

    def test_they_are_vectors_of_the_calibration_text(self, demo_fp32: Path, reference: SentenceTransformer) -> None:
        """Not the engine's: what judges an engine does not come from it."""
        from exporter.calibration import calibration_sentences

        bundle = Bundle.open(demo_fp32)
        texts = calibration_sentences(None, [])
        assert bundle.manifest.ranges.sentences <= len(set(texts))
        vectors: Any = reference.encode(list(dict.fromkeys(texts)), show_progress_bar=False)
        ranges = bundle.ranges().raw
        assert (ranges[0] >= vectors.min(axis=0) - 1e-5).all()
        assert (ranges[1] <= vectors.max(axis=0) + 1e-5).all()
        assert np.isclose(ranges, [vectors.min(axis=0), vectors.max(axis=0)], atol=1e-5).mean() > 0.9

    def test_float16(self, encoder: exporter.Encoder) -> None:
        found = encoder.encode(TEXTS, precision="float16")
        np.testing.assert_array_equal(found, encoder.encode(TEXTS).astype(np.float16))

    @pytest.mark.parametrize("precision", VECTOR_TYPES)
    def test_no_sentences_and_one(self, encoder: exporter.Encoder, precision: VectorType) -> None:
        whole = encoder.encode(TEXTS[:2], precision=precision)
        assert encoder.encode([], precision=precision).shape == (0,)
        assert encoder.encode([], precision=precision).dtype == whole.dtype
        assert encoder.encode(TEXTS[0], precision=precision).shape == whole.shape[1:]


class TestTensors:
    def test_a_tensor_a_list_of_tensors_or_an_array(
        self, encoder: exporter.Encoder, reference: SentenceTransformer
    ) -> None:
        for inputs in (TEXTS, TEXTS[0], []):
            for numpy, tensor in ((True, False), (True, True), (False, True), (False, False)):
                options: Any = {"convert_to_numpy": numpy, "convert_to_tensor": tensor}
                wanted: Any = reference.encode(inputs, show_progress_bar=False, **options)
                found: Any = encoder.encode(inputs, **options)
                assert type(found) is type(wanted), options
                assert len(found) == len(wanted)
                if len(found):
                    assert type(found[0]) is type(wanted[0])
                    torch.testing.assert_close(torch.as_tensor(found[0]), torch.as_tensor(wanted[0]), rtol=0, atol=2e-5)

    def test_similarity_has_the_type_of_its_inputs(self, encoder: exporter.Encoder) -> None:
        arrays, tensors = encoder.encode(TEXTS[:4]), encoder.encode(TEXTS[:4], convert_to_tensor=True)
        assert isinstance(encoder.similarity(arrays, arrays), np.ndarray)
        assert isinstance(encoder.similarity_pairwise(tensors, tensors), torch.Tensor)


class TestTruncation:
    @pytest.fixture(scope="class")
    @staticmethod
    def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
        """The demo, which says that its vectors have 96 dimensions and are compared by their dot product."""
        folder = Path(shutil.copytree(DEMO, tmp_path_factory.mktemp("truncated") / "truncated"))
        path = folder / "config_sentence_transformers.json"
        settings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        path.write_text(json.dumps(settings | {"truncate_dim": 96, "similarity_fn_name": "dot"}), encoding="utf-8")
        return folder

    @pytest.fixture(scope="class")
    @staticmethod
    def bundle(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
        return exporter.export(str(folder), out=tmp_path_factory.mktemp("out"))

    def test_the_checkpoint_decides_where_nothing_is_asked_for(self, folder: Path, bundle: Bundle) -> None:
        reference = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        with exporter.load(bundle.folder) as encoder:
            wanted = reference.encode(TEXTS, show_progress_bar=False)
            np.testing.assert_allclose(encoder.encode(TEXTS), wanted, rtol=0, atol=2e-5)
            assert encoder.dimension == encoder.get_embedding_dimension() == reference.get_embedding_dimension() == 96
            assert encoder.get_sentence_embedding_dimension() == 96
            assert encoder.full_dimension == encoder.encode(TEXTS[0], truncate_dim=256).shape[0] == 256
            assert encoder.similarity_fn_name == reference.similarity_fn_name == "dot"
            torch.testing.assert_close(
                torch.from_numpy(encoder.similarity(wanted, wanted)), reference.similarity(wanted, wanted)
            )
            assert encoder.encode(TEXTS, precision="int8", normalize_embeddings=True).shape == (len(TEXTS), 96)

    def test_load_decides_over_the_checkpoint_and_encode_over_load(self, folder: Path, bundle: Bundle) -> None:
        reference = SentenceTransformer(str(folder), device="cpu", local_files_only=True, truncate_dim=200)
        with exporter.load(bundle.folder, truncate_dim=200) as encoder:
            assert encoder.dimension == reference.get_embedding_dimension() == 200
            for dimension in (None, 3, 10_000):
                wanted = reference.encode(TEXTS, show_progress_bar=False, truncate_dim=dimension)
                np.testing.assert_allclose(encoder.encode(TEXTS, truncate_dim=dimension), wanted, rtol=0, atol=2e-5)

    def test_the_report_judges_the_dimension(self, bundle: Bundle) -> None:
        report = json.loads((bundle.folder / "parity.json").read_text(encoding="utf-8"))
        assert {(one["dimension"], one["type"]) for one in report["stored"]} == {
            (dimension, kind) for dimension in (256, 96) for kind in ("float16", "int8", "binary")
        }
        names = {verdict["name"] for verdict in report["verdicts"]}
        assert {"min cosine at 96 dimensions", "sign flips as binary at 96 dimensions"} <= names

    def test_a_bundle_that_is_validated_is_judged_the_same(self, folder: Path, bundle: Bundle) -> None:
        report = exporter.validate(bundle, checkpoint=folder)
        assert report.passed
        assert report.storage is not None
        assert {loss.dimension for loss in report.storage.losses} == {256, 96}

    def test_a_recipe_declares_dimensions_up_to_the_models_own(self, tmp_path: Path) -> None:
        from exporter.recipe import find_recipe

        recipe = find_recipe(str(DEMO)).model_copy(update={"truncate_dims": (64, 512)})
        with pytest.raises(exporter.RecipeError, match=r"truncate_dims has 512, and the vectors of .* have 256 dim"):
            exporter.export(recipe, out=tmp_path)


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({"output_value": "token_embeddings"}, "output_value is 'token_embeddings', and a bundle returns"),
            ({"output_value": None}, "output_value is None"),
            ({"device": "cuda"}, "device is cuda, and the bundle was opened on cpu"),
            ({"device": ["cpu", "cpu"]}, r"device is \['cpu', 'cpu'\]"),
            ({"pool": {}}, "pool is not supported"),
            ({"truncate_dim": 0}, "truncate_dim is 0, and must be 1 or more"),
            ({"truncate_dim": -1}, "truncate_dim is -1"),
            ({"precision": "int4"}, "precision is 'int4'"),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
    def test_what_a_bundle_does_not_do(self, encoder: exporter.Encoder, method: str, options: Any, told: str) -> None:
        with pytest.raises(ValueError, match=told):
            getattr(encoder, method)(TEXTS[:2], **options)

    def test_what_means_the_same_is_taken(self, encoder: exporter.Encoder) -> None:
        wanted = encoder.encode(TEXTS)
        for device in ("cpu", torch.device("cpu"), None):
            np.testing.assert_array_equal(encoder.encode(TEXTS, device=device, precision=None, chunk_size=5), wanted)

    def test_normalized_vectors_of_a_dimension_without_ranges(self, encoder: exporter.Encoder) -> None:
        with pytest.raises(exporter.InputError, match="no ranges of normalized vectors of 100 dimensions, only of 256"):
            encoder.encode(TEXTS, precision="uint8", normalize_embeddings=True, truncate_dim=100)
        assert encoder.encode(TEXTS, precision="uint8", truncate_dim=100).shape == (len(TEXTS), 100)


class TestEvaluators:
    """sentence-transformers' own evaluators give an encoder the scores that they give its checkpoint."""

    @pytest.mark.parametrize("truncate_dim", [None, 32])
    def test_information_retrieval(
        self, encoder: exporter.Encoder, reference: SentenceTransformer, truncate_dim: int | None
    ) -> None:
        queries = {str(number): f"{number} 번째 문장" for number in range(0, 60, 3)}
        corpus = {str(number): text for number, text in enumerate(TEXTS)}
        relevant = {number: {str(int(number) + len(RAGGED))} for number in queries}
        scores = [
            InformationRetrievalEvaluator(queries, corpus, relevant, truncate_dim=truncate_dim, write_csv=False)(model)
            for model in (encoder, reference)
        ]
        assert scores[0].keys() == scores[1].keys()
        assert 0 < scores[1]["cosine_ndcg@10"] < 1
        for name, value in scores[1].items():
            assert scores[0][name] == pytest.approx(value, abs=0.02), name

    @pytest.mark.parametrize("precision", [None, *THEIR_TYPES])
    def test_embedding_similarity(
        self, encoder: exporter.Encoder, reference: SentenceTransformer, precision: VectorType | None
    ) -> None:
        """int8 takes its ranges from the bundle here and from the sentences of the test there."""
        first, second = TEXTS[:-1], TEXTS[1:]
        labels = [number % 5 / 5 for number in range(len(first))]
        scores = []
        for model in (encoder, reference):
            evaluator = EmbeddingSimilarityEvaluator(
                first,
                second,
                labels,
                similarity_fn_names=["cosine", "dot", "euclidean", "manhattan"],
                precision=precision,
                write_csv=False,
            )
            scores.append(evaluator(model))
        tolerance = 0.05 if precision in ("int8", "uint8") else 0.005
        for name, value in scores[1].items():
            assert scores[0][name] == pytest.approx(value, abs=tolerance), name


def _encode_in_worker(encode: Callable[..., np.ndarray], texts: list[str]) -> np.ndarray:
    return encode(texts)


class TestProcesses:
    def test_a_worker_opens_the_bundle_again(
        self, demo_fp32: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(demo_fp32.parent)
        with exporter.load(demo_fp32.name, threads=1, truncate_dim=50) as encoder:
            monkeypatch.chdir(tmp_path)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found = pool.starmap(
                    _encode_in_worker,
                    [(encoder.encode, TEXTS), (encoder.encode_query, TEXTS), (encoder.encode_document, TEXTS)],
                )
            wanted = encoder.encode(TEXTS)
        assert wanted.shape[1] == 50
        for vectors in found:
            np.testing.assert_allclose(vectors, wanted, rtol=0, atol=1e-6)

    def test_a_bound_method_is_pickled_as_itself(self, encoder: exporter.Encoder) -> None:
        for name in ("encode", "encode_query", "encode_document"):
            with pickle.loads(pickle.dumps(encoder)) as opened:
                method = getattr(opened, name)
                assert pickle.dumps(method).find(name.encode()) > 0
                assert method.__name__ == name
                assert opened.device == "cpu"

    def test_any_other_encoder_says_why_it_cannot_be_pickled(self, demo_fp32: Path) -> None:
        with Bundle.open(demo_fp32).encoder() as encoder, pytest.raises(TypeError, match="if `load` has opened it"):
            pickle.dumps(encoder)

    def test_repr(self, demo_fp32: Path) -> None:
        encoder = exporter.load(demo_fp32)
        assert repr(encoder) == (
            "Encoder(256 dimensions, 256 tokens, cosine similarity, prompts: 'query', 'document'; CPUExecutionProvider)"
        )
        encoder.close()
        assert repr(encoder).endswith("; closed)")

    def test_the_tokenizer_is_the_bundles(self, encoder: exporter.Encoder) -> None:
        assert encoder.tokenizer.encode(TEXTS[0]).ids == encoder._ids([TEXTS[0]], "")[0]
