"""The encoder returns what ``SentenceTransformer.encode`` would, whatever it is called with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

import exporter
from exporter.errors import BundleError, EngineError, InputError
from exporter.recipe import recipes_folder
from exporter.runtime import texts
from exporter.runtime.texts import MAX_CHARACTERS
from exporter.runtime.token_encoder import TOKENS_PER_ROW

DEMO = recipes_folder() / "demo" / "checkpoint"

# Ragged on purpose: nothing, spaces, one syllable, far too long, decomposed, doubled, not only Korean.
RAGGED = [
    "우산을 두고 나와서 되돌아갔다.",
    "",
    "밥",
    "   ",
    "그 골목 끝에는 " * 400,
    "A short one.",
    "가나다",
    "밥",
    "MIXED 대문자 AND 소문자",
    "🙂🙃",
    "버스가 두 대 연달아 지나갔지만 타려던 번호는 보이지 않았고, 결국 걸어가기로 했다.",
    "https://example.org/a?b=1 3,000원",
    "줄\n바꿈\t그리고 \u200b폭 없는 공백",
]


class TestLikeSentenceTransformer:
    @pytest.mark.parametrize("normalize", [False, True])
    def test_ragged_text(self, encoder: exporter.Encoder, reference: SentenceTransformer, normalize: bool) -> None:
        wanted = reference.encode(RAGGED, normalize_embeddings=normalize, show_progress_bar=False)
        found = encoder.encode(RAGGED, normalize_embeddings=normalize)
        assert (found.shape, found.dtype) == (wanted.shape, np.dtype(np.float32))
        np.testing.assert_allclose(found, wanted, atol=2e-5, rtol=0)

    def test_one_string_is_one_vector(self, encoder: exporter.Encoder, reference: SentenceTransformer) -> None:
        wanted = reference.encode(RAGGED[0], show_progress_bar=False)
        found = encoder.encode(RAGGED[0])
        assert found.shape == wanted.shape == (encoder.dimension,)
        np.testing.assert_allclose(found, wanted, atol=2e-5, rtol=0)
        np.testing.assert_array_equal(found, encoder.encode([RAGGED[0]])[0])

    def test_a_list_of_one_is_a_matrix(self, encoder: exporter.Encoder) -> None:
        assert encoder.encode([RAGGED[0]]).shape == (1, encoder.dimension)
        assert encoder.encode((RAGGED[0],)).shape == (1, encoder.dimension)
        assert encoder.encode(np.array(RAGGED[:2])).shape == (2, encoder.dimension)

    def test_no_sentences(self, encoder: exporter.Encoder, reference: SentenceTransformer) -> None:
        wanted = reference.encode([], show_progress_bar=False)
        found = encoder.encode([])
        assert (found.shape, found.dtype) == (np.asarray(wanted).shape, np.dtype(np.float32))

    def test_facts(self, encoder: exporter.Encoder, reference: SentenceTransformer) -> None:
        assert encoder.dimension == reference.get_embedding_dimension() == 256
        assert encoder.max_seq_length == reference.max_seq_length == 256
        assert encoder.execution == "CPUExecutionProvider"
        counts = encoder.count_tokens(RAGGED)
        assert counts[1] == 2
        assert max(counts) == counts[4] == 256


class TestOrderAndBatches:
    def test_rows_are_in_the_order_given(self, encoder: exporter.Encoder) -> None:
        vectors = encoder.encode(RAGGED)
        shuffled = np.random.default_rng(0).permutation(len(RAGGED))
        np.testing.assert_allclose(encoder.encode([RAGGED[i] for i in shuffled]), vectors[shuffled], atol=1e-6, rtol=0)
        np.testing.assert_array_equal(vectors[2], vectors[7])
        for row in (0, 4, 10):
            np.testing.assert_allclose(encoder.encode(RAGGED[row]), vectors[row], atol=1e-6, rtol=0)

    @pytest.mark.parametrize("batch_size", [1, 2, 3, 32, 1000])
    def test_the_batch_size_changes_nothing(self, encoder: exporter.Encoder, batch_size: int) -> None:
        found = encoder.encode(RAGGED, batch_size=batch_size)
        np.testing.assert_allclose(found, encoder.encode(RAGGED), atol=1e-6, rtol=0)

    def test_a_batch_holds_no_more_tokens_than_its_budget(
        self, encoder: exporter.Encoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runner = encoder._runner
        shapes: list[tuple[int, ...]] = []
        run = runner.run

        def watched(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
            shapes.append(ids.shape)
            return run(ids, mask)

        monkeypatch.setattr(runner, "run", watched)
        encoder.encode([RAGGED[4]] * 9 + ["짧다"] * 40, batch_size=8)
        assert sum(rows for rows, _ in shapes) == 49
        assert all(rows <= 8 and rows * width <= 8 * TOKENS_PER_ROW for rows, width in shapes)
        assert [width for _, width in shapes] == sorted((width for _, width in shapes), reverse=True)

    def test_encode_batch_is_one_batch(self, encoder: exporter.Encoder) -> None:
        np.testing.assert_allclose(encoder.encode_batch(RAGGED), encoder.encode(RAGGED), atol=1e-6, rtol=0)

    def test_normalized_rows_have_length_one_and_zero_stays_zero(self, encoder: exporter.Encoder) -> None:
        lengths = np.linalg.norm(encoder.encode(RAGGED, normalize_embeddings=True), axis=1)
        np.testing.assert_allclose(lengths, 1, atol=1e-6)


class TestWrongArguments:
    @pytest.mark.parametrize(
        ("sentences", "told"),
        [
            (["하나", 2], "sentence 1 is int"),
            ([None], "sentence 0 is NoneType"),
            ([b"bytes"], "sentence 0 is bytes"),
            (["하나", ["둘"]], "sentence 1 is list"),
        ],
    )
    def test_what_is_no_string_is_a_type_error(
        self, encoder: exporter.Encoder, sentences: list[str], told: str
    ) -> None:
        with pytest.raises(TypeError, match=told):
            encoder.encode(sentences)

    @pytest.mark.parametrize("sentences", ["하나", ["하나"], []])
    @pytest.mark.parametrize("batch_size", [0, -1])
    def test_a_batch_size_below_one(
        self, encoder: exporter.Encoder, sentences: str | list[str], batch_size: int
    ) -> None:
        with pytest.raises(ValueError, match=f"batch_size is {batch_size}"):
            encoder.encode(sentences, batch_size=batch_size)


def test_progress_goes_to_stderr_and_only_when_asked_for(
    encoder: exporter.Encoder, capfd: pytest.CaptureFixture[str]
) -> None:
    encoder.encode(RAGGED)
    encoder.encode(RAGGED, show_progress_bar=False)
    assert capfd.readouterr() == ("", "")
    encoder.encode(RAGGED, show_progress_bar=True)
    assert capfd.readouterr().out == ""


def test_without_prompts_queries_and_documents_are_sentences(encoder: exporter.Encoder) -> None:
    wanted = encoder.encode(RAGGED)
    np.testing.assert_array_equal(encoder.encode_query(RAGGED), wanted)
    np.testing.assert_array_equal(encoder.encode_document(RAGGED), wanted)


class TestPaddedTokens:
    """``encode_padded`` runs exactly the arrays that it is given, as one batch."""

    def test_any_width_gives_the_sentence_its_vector(self, encoder: exporter.Encoder) -> None:
        ids, mask = encoder._tokenizer.pad(encoder._ids(RAGGED[:3], ""), 77)
        assert ids.shape == (3, 77)
        np.testing.assert_allclose(encoder.encode_padded(ids, mask), encoder.encode(RAGGED[:3]), atol=1e-6, rtol=0)

    def test_the_arrays_reach_the_engine_as_they_are(
        self, encoder: exporter.Encoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ids, mask = np.array([[2, 7, 9, 3]], dtype=np.int64), np.array([[1, 0, 1, 0]], dtype=np.int64)
        given: list[np.ndarray] = []
        run = encoder._runner.run

        def watched(*arrays: np.ndarray) -> np.ndarray:
            given.extend(arrays)
            return run(*arrays)

        monkeypatch.setattr(encoder._runner, "run", watched)
        assert encoder.encode_padded(ids, mask).shape == (1, 256)
        assert given[0] is ids
        assert given[1] is mask

    @pytest.mark.parametrize(
        "wrong", [np.zeros((1, 256)), np.zeros((1, 255), np.float32), np.zeros((2, 256), np.float32)]
    )
    def test_an_engine_that_breaks_its_promise_is_refused(
        self, encoder: exporter.Encoder, monkeypatch: pytest.MonkeyPatch, wrong: np.ndarray
    ) -> None:
        monkeypatch.setattr(encoder._runner, "run", lambda *_: wrong)
        with pytest.raises(BundleError, match=r"promises float32 \(1, 256\)"):
            encoder.encode_padded(*encoder._tokenizer.pad([[2, 3]]))


class TestTextOfStrangers:
    @pytest.mark.parametrize("text", ["\ud800", "밥 \udfff", "a" * 50 + "\udc80"])
    def test_a_lone_surrogate_is_named_with_its_place(self, encoder: exporter.Encoder, text: str) -> None:
        with pytest.raises(
            InputError, match=r"sentence 1 has the lone surrogate U\+D[8-F]\w\w at character \d+"
        ) as failure:
            encoder.encode(["밥", text])
        assert failure.value.exit_code == 2

    def test_a_text_beyond_the_limit_is_refused_before_it_is_tokenized(self, encoder: exporter.Encoder) -> None:
        with pytest.raises(InputError, match=r"sentence 0 has 1,000,001 characters, and may have 1,000,000"):
            encoder.encode("a" * (MAX_CHARACTERS + 1))
        assert encoder.count_tokens(["a " * (MAX_CHARACTERS // 2)]) == [encoder.max_seq_length]

    def test_text_is_tokenized_in_parts_of_bounded_size(
        self, encoder: exporter.Encoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = encoder.encode(RAGGED)
        sizes = []
        tokenize = encoder._tokenizer.ids

        def ids(part: list[str]) -> list[list[int]]:
            sizes.append(sum(map(len, part)))
            return tokenize(part)

        monkeypatch.setattr(encoder._tokenizer, "ids", ids)
        monkeypatch.setattr(texts, "_CHARACTERS_AT_ONCE", 50)
        np.testing.assert_array_equal(encoder.encode(RAGGED), whole)
        assert len(sizes) > 1
        assert all(size <= max(50, *map(len, RAGGED)) for size in sizes)

    def test_any_iterable_of_strings_is_taken(self, encoder: exporter.Encoder) -> None:
        np.testing.assert_array_equal(encoder.encode(text for text in RAGGED), encoder.encode(RAGGED))

    def test_a_panic_of_the_tokenizer_is_an_error_with_a_sentence(
        self, encoder: exporter.Encoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class PanicException(BaseException):
            """What pyo3 raises for a panic is no Exception either."""

        def panic(_: list[str]) -> list[list[int]]:
            raise PanicException("index out of bounds")

        monkeypatch.setattr(encoder._tokenizer, "ids", panic)
        with pytest.raises(EngineError, match="the tokenizer fails: index out of bounds"):
            encoder.encode(["밥"])

    def test_an_encoder_that_is_closed_says_so(self, demo_fp32: Path) -> None:
        encoder = exporter.load(demo_fp32)
        encoder.close()
        encoder.close()
        for use in (encoder.encode, encoder.encode_batch):
            with pytest.raises(EngineError, match="the encoder is closed"):
                use(["밥"])
