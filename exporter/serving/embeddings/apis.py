"""The APIs: a question to the JSON of a request, and the JSON of an answer to vectors. Both are checked here.

TEI: ``/embed`` and ``/info`` of https://huggingface.github.io/text-embeddings-inference/. OpenAI: ``/v1/embeddings`` of
https://platform.openai.com/docs/api-reference/embeddings.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, RootModel

from exporter.runtime.vector_types import MOST_NUMBERS, Vectors
from exporter.serving.answers import AnswerError, parse

TEXTS_PER_REQUEST = 32


@dataclass(frozen=True)
class Question:
    """Texts, and how they are asked for.

    Attributes:
        texts: Without a prompt.
        prompt_name: The prompt that the server puts before them; TEI only.
        dimensions: To how many the server truncates; by default it is not asked to.
        encoded: Whether numbers are asked for in base64; OpenAI only.
        model: Another name of a model than the usual one; OpenAI only.
    """

    texts: Sequence[str]
    prompt_name: str | None = None
    dimensions: int | None = None
    encoded: bool = False
    model: str | None = None


class EmbeddingApi(Protocol):
    """What is known of an API."""

    @property
    def title(self) -> str:
        """Its name."""
        ...

    @property
    def path(self) -> str:
        """Where texts are sent."""
        ...

    @property
    def has_prompts(self) -> bool:
        """Whether a request can name a prompt."""
        ...

    @property
    def has_base64(self) -> bool:
        """Whether numbers can be asked for in base64."""
        ...

    def content(self, question: Question) -> dict[str, Any]:
        """Return the JSON of a request."""
        ...

    def vectors(self, answer: bytes, question: Question) -> Vectors:
        """Return (texts, dimension) float32.

        Raises:
            AnswerError: The answer is something else.
        """
        ...


Size = Annotated[int, Field(ge=0, lt=2**53)]
Number = Annotated[float, Field(strict=True)] | None
"""A value; null where a server writes NaN or Inf so."""


class Info(BaseModel):
    """What TEI says of itself at ``/info``, as far as it is looked at."""

    model_config = ConfigDict(protected_namespaces=())

    model_id: str = "unknown model"
    model_dtype: str = "unknown"
    version: str = "of unknown version"
    max_input_length: Size | None = None
    max_client_batch_size: Size | None = None


class _Rows(RootModel[list[list[Number]]]):
    """What TEI answers."""


class _Datum(BaseModel):
    index: Size
    embedding: list[Number] | str


class _Answer(BaseModel):
    """What OpenAI answers."""

    data: list[_Datum]


class _Model(BaseModel):
    id: str


class Models(BaseModel):
    """What ``/v1/models`` answers."""

    data: list[_Model]


@dataclass(frozen=True)
class Tei:
    """Text Embeddings Inference.

    Attributes:
        path: Of ``/embed``.
        normalize: What the server is told to do with vectors; None to tell it nothing.
        prompt_name: The prompt where a question names none.
    """

    path: str
    normalize: bool | None
    prompt_name: str | None
    title: str = "TEI"
    has_prompts: bool = True
    has_base64: bool = False

    def content(self, question: Question) -> dict[str, Any]:
        """Return the JSON of a request. Long texts are to be truncated, as SentenceTransformer does."""
        optional = {
            "normalize": self.normalize,
            "prompt_name": question.prompt_name or self.prompt_name,
            "dimensions": question.dimensions,
        }
        stated = {name: value for name, value in optional.items() if value is not None}
        return {"inputs": list(question.texts), "truncate": True, **stated}

    def vectors(self, answer: bytes, question: Question) -> Vectors:
        """Return (texts, dimension) float32; see ``EmbeddingApi``."""
        _refuse_too_long(answer, len(question.texts))
        return _matrix(parse(_Rows, answer, self.title).root, len(question.texts))


@dataclass(frozen=True)
class OpenAi:
    """A server with OpenAI's API.

    Attributes:
        path: Of ``/v1/embeddings``.
        model: What a request calls ``model``.
        prompt: Put before every text.
    """

    path: str
    model: str
    prompt: str
    title: str = "OpenAI API"
    has_prompts: bool = False
    has_base64: bool = True

    def content(self, question: Question) -> dict[str, Any]:
        """Return the JSON of a request."""
        dimensions = {} if question.dimensions is None else {"dimensions": question.dimensions}
        encoding = "base64" if question.encoded else "float"
        model = self.model if question.model is None else question.model
        return {
            "model": model,
            "input": [self.prompt + text for text in question.texts],
            "encoding_format": encoding,
            **dimensions,
        }

    def vectors(self, answer: bytes, question: Question) -> Vectors:
        """Return (texts, dimension) float32; see ``EmbeddingApi``."""
        _refuse_too_long(answer, len(question.texts))
        data = sorted(parse(_Answer, answer, f"the {self.title}").data, key=lambda datum: datum.index)
        numbers = [datum.index for datum in data]
        if numbers != list(range(len(question.texts))):
            raise AnswerError(
                f"{len(question.texts)} texts were answered with {len(data)} vectors, numbered {_shown(numbers)}"
            )
        rows = [_decoded(datum.embedding, encoded=question.encoded) for datum in data]
        return _matrix(rows, len(question.texts))


def said_by(body: bytes) -> str | None:
    """Return the message in the body of an error, as TEI, OpenAI and the frameworks of servers write it."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    for _ in range(4):
        if isinstance(found, list) and found:
            found = found[0]
        elif isinstance(found, dict):
            found = next((found[name] for name in ("error", "message", "detail", "msg") if name in found), None)
    return found if isinstance(found, str) and found.strip() else None


def _refuse_too_long(answer: bytes, texts: int) -> None:
    """Refuse JSON with more numbers than so many vectors have: each takes 32 bytes of memory, and many clients read."""
    if answer.count(b",") > (texts + 1) * MOST_NUMBERS:
        raise AnswerError(f"{texts} texts were answered with more than {MOST_NUMBERS:,} numbers each")


def _decoded(embedding: list[float | None] | str, *, encoded: bool) -> Sequence[float | None] | Vectors:
    if isinstance(embedding, str) is not encoded:
        wanted, found = ("base64", "numbers") if encoded else ("numbers", "text")
        raise AnswerError(f"a vector is {found}, and {wanted} was asked for")
    if not isinstance(embedding, str):
        return embedding
    try:
        data = base64.b64decode(embedding, validate=True)
    except (binascii.Error, ValueError) as error:
        raise AnswerError(f"a vector is no base64: {error}") from error
    if len(data) % 4:
        raise AnswerError(f"a vector has {len(data)} bytes, which are no float32")
    return np.frombuffer(data, "<f4")


def _matrix(rows: Sequence[Sequence[float | None] | Vectors], count: int) -> Vectors:
    """Return (count, dimension) float32.

    Raises:
        AnswerError: There are other than ``count`` rows, or their lengths differ.
    """
    lengths = {len(row) for row in rows}
    if len(rows) != count:
        raise AnswerError(f"{count} texts were answered with {len(rows)} vectors")
    if len(lengths) != 1 or lengths == {0}:
        raise AnswerError(f"{count} texts were answered with vectors of {_shown(sorted(lengths))} dimensions")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes Inf, which no gate passes
        return np.array(rows, dtype=np.float64).astype(np.float32)


def _shown(numbers: Sequence[int]) -> str:
    return f"{', '.join(map(str, numbers[:8]))}{', ...' if len(numbers) > 8 else ''}" or "none"
