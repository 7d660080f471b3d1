"""What the encoder asks of tokenizer and engine, with an engine that answers as it is told to."""

from __future__ import annotations

from types import TracebackType

import numpy as np
import numpy.typing as npt
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from exporter.errors import BundleError, EngineError
from exporter.runtime.encoder import Encoder

WORDS = {"[PAD]": 0, "하나": 1, "둘": 2, "셋": 3}


class Engine:
    """Answers with as many rows as it was given, changed by a function of the test."""

    execution = "test"

    def __init__(self, answer: npt.NDArray[np.generic] | None = None) -> None:
        self.answer = answer
        self.closed = False

    def run(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:  # noqa: ARG002
        if self.answer is not None:
            return self.answer  # type: ignore[return-value]
        return np.repeat(ids.sum(axis=1, keepdims=True), 4, axis=1).astype(np.float32)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closed = True


def encoder_with(engine: Engine) -> Encoder:
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return Encoder(tokenizer, engine, dimension=4, max_seq_length=8)  # type: ignore[arg-type]


def test_what_the_engine_returns_is_what_the_caller_gets() -> None:
    vectors = encoder_with(Engine()).encode(["하나 둘", "셋"])
    np.testing.assert_array_equal(vectors, [[3, 3, 3, 3], [3, 3, 3, 3]])


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (np.zeros((2, 5), np.float32), r"float32 \(2, 5\)"),
        (np.zeros((2, 3), np.float32), r"float32 \(2, 3\)"),
        (np.zeros((1, 4), np.float32), r"float32 \(1, 4\)"),
        (np.zeros((4,), np.float32), r"float32 \(4,\)"),
        (np.zeros((2, 1), np.float32), r"float32 \(2, 1\)"),
        (np.zeros((2, 4), np.float16), r"float16 \(2, 4\)"),
        (np.zeros((2, 4), np.float64), r"float64 \(2, 4\)"),
    ],
)
@pytest.mark.parametrize("method", ["encode", "encode_batch", "encode_tokens"])
def test_an_engine_that_returns_another_shape_or_type_is_refused(
    answer: npt.NDArray[np.generic], found: str, method: str
) -> None:
    """NumPy would stretch a row over two, or convert another type, without a word."""
    encoder = encoder_with(Engine(answer))
    given = [[1, 2], [3]] if method == "encode_tokens" else ["하나 둘", "셋"]
    with pytest.raises(BundleError, match=rf"the engine returned {found}, .* float32 \(2, 4\)") as failure:
        getattr(encoder, method)(given)
    assert failure.value.next_step == "export the bundle again"


def test_a_row_without_a_token_is_refused() -> None:
    encoder = encoder_with(Engine())
    with pytest.raises(EngineError, match="sentence 1 has no token at all"):
        encoder.encode(["하나", ""])
    with pytest.raises(EngineError, match="row 1 has no token"):
        encoder.encode_tokens([[1], []])


def test_closing_the_encoder_closes_the_engine() -> None:
    engine = Engine()
    with encoder_with(engine):
        assert not engine.closed
    assert engine.closed
