"""A running server as an encoder: texts go out, vectors come back.

Whatever else a server answers, and too much, too late or nothing, is a ``ServerError``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

import numpy as np

from exporter.errors import InputError, ServerError
from exporter.runtime.vector_types import Vectors
from exporter.serving.answers import AnswerError, parse
from exporter.serving.embeddings.address import BaseUrl, base_url
from exporter.serving.embeddings.apis import (
    TEXTS_PER_REQUEST,
    EmbeddingApi,
    Info,
    Models,
    OpenAi,
    Question,
    Tei,
    said_by,
)
from exporter.serving.embeddings.options import ServerOptions
from exporter.serving.embeddings.requests import RefusedError, Requests


class RemoteServer(Protocol):
    """A server, whatever it speaks."""

    @property
    def execution(self) -> str:
        """Where it runs, for reports."""
        ...

    def encode(self, sentences: Sequence[str], prompt_name: str | None = None) -> Vectors:
        """Return (len(sentences), dimension) float32, asked for in requests of at most 32 sentences."""
        ...

    def encode_batch(self, sentences: Sequence[str], prompt_name: str | None = None) -> Vectors:
        """Return the same, asked for in one request."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...

    def __enter__(self) -> Self:
        """Return itself."""
        ...

    def __exit__(self, *_: object) -> None:
        """Close it."""
        ...


class EmbeddingServer:
    """A server with TEI's or OpenAI's API. Several threads may ask it.

    Attributes:
        api: What it speaks.
        info: What TEI says of itself.
        texts_per_request: How many texts a request may have, at most 32.
        execution: Where it runs, for reports.
    """

    def __init__(self, api: EmbeddingApi, requests: Requests, info: Info | None, dimension: int | None) -> None:
        self.api, self.info = api, info
        stated = TEXTS_PER_REQUEST if info is None else info.max_client_batch_size or TEXTS_PER_REQUEST
        self.texts_per_request = min(stated, TEXTS_PER_REQUEST)
        self._requests, self._dimension = requests, dimension
        of_itself = "" if info is None else requests.said(f"{info.version} ({info.model_id}, {info.model_dtype})") + " "
        self.execution = f"{api.title} {of_itself}at {requests.url}"

    @property
    def requests(self) -> str:
        """How many requests were sent, and why some were sent again."""
        again = ", ".join(f"{count} after {reason}" for reason, count in sorted(self._requests.again.items()))
        return f"{self._requests.sent} requests" + (f", of which were sent again: {again}" if again else "")

    def encode(self, sentences: Sequence[str], prompt_name: str | None = None) -> Vectors:
        """Return (len(sentences), dimension) float32, asked for in requests of at most 32 sentences.

        Args:
            sentences: Without a prompt.
            prompt_name: The prompt that the server puts before them (default: none is named).

        Raises:
            RefusedError: The server refuses.
            ServerError: It cannot be reached, or its answer is unusable.
        """
        step = self.texts_per_request
        batches = (sentences[start : start + step] for start in range(0, len(sentences), step))
        return np.concatenate([self.encode_batch(batch, prompt_name) for batch in batches])

    def encode_batch(self, sentences: Sequence[str], prompt_name: str | None = None) -> Vectors:
        """Return (len(sentences), dimension) float32, in one request if it may have so many; see ``encode``."""
        if len(sentences) > self.texts_per_request:
            return self.encode(sentences, prompt_name)
        vectors = self.ask(Question(sentences, prompt_name))
        if self._dimension is None:
            self._dimension = vectors.shape[1]
        elif vectors.shape[1] != self._dimension:
            raise ServerError(
                f"{self._requests.url}: a vector has {vectors.shape[1]} dimensions, and {self._dimension} were expected"
            )
        return vectors

    def ask(self, question: Question) -> Vectors:
        """Return (texts, dimension) float32, of any dimension, asked for in one request.

        Raises:
            RefusedError: The server refuses.
            ServerError: It cannot be reached, or its answer is unusable.
            InputError: The API has no prompts, and one is named.
        """
        if question.prompt_name is not None and not self.api.has_prompts:
            raise InputError(f"the {self.api.title} has no prompts, and `prompt_name` is given")

        def read(answer: bytes) -> Vectors:
            return self.api.vectors(answer, question)

        vectors: Vectors = self._requests.post(self.api.path, self.api.content(question), read)
        return vectors

    def close(self) -> None:
        """Do nothing: no connection is left open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(url: str, options: ServerOptions) -> RemoteServer:
    """Return a server as an encoder.

    Args:
        url: Of the server. Of TEI, what stands before ``/embed``. Of OpenAI, what stands before ``/v1/embeddings`` or
            ``/embeddings`` behind ``/v1``, or the whole URL with ``/embeddings``. Of Triton, see ``triton.address``.
        options: How it is asked.

    Raises:
        InputError: The URL or an option cannot be used.
        ServerError: TEI's ``/info``, or OpenAI's list of models where no model is given, is unusable.
    """
    if options.api == "triton":
        return _triton(url, options)
    return embedding_server(url, options)


def embedding_server(url: str, options: ServerOptions) -> EmbeddingServer:
    """Return a server with TEI's or OpenAI's API; see ``connect``."""
    where = base_url(url)
    requests = Requests(where, options, said_by)
    if options.api == "tei":
        tei = Tei(f"{where.path.removesuffix('/embed')}/embed", options.normalize, options.prompt_name)
        return EmbeddingServer(tei, requests, _info(requests, where), options.dimension)
    path = where.path if where.path.endswith("/embeddings") else f"{where.path.removesuffix('/v1')}/v1/embeddings"
    api = OpenAi(path, options.model or _model(requests, path), options.prompt)
    return EmbeddingServer(api, requests, None, options.dimension)


def _triton(url: str, options: ServerOptions) -> RemoteServer:
    from exporter.serving.http import read_authorities  # noqa: PLC0415 - only here
    from exporter.serving.limits import Deadline  # noqa: PLC0415
    from exporter.serving.triton.address import address_of  # noqa: PLC0415
    from exporter.serving.triton.remote import RemoteEncoder  # noqa: PLC0415

    if options.model is None:
        raise InputError(
            "Triton serves models by name, and none is given",
            next_step="give `model`, or `api=tei` or `api=openai` for another server",
        )
    if options.headers or options.key is not None:
        raise InputError("headers and keys are not sent to Triton", next_step="omit `header` and `key_env`")
    where = address_of(url, "http")
    return RemoteEncoder(
        "http",
        where,
        f"{options.model}_text",
        ca=None if options.ca_file is None else read_authorities(options.ca_file, tls=where.tls),
        deadline=Deadline(options.timeout_s, options.deadline_s),
        dimension=options.dimension,
    )


def _info(requests: Requests, where: BaseUrl) -> Info | None:
    """Return what TEI says of itself; None where something before it does not let that through."""
    path = f"{where.path.removesuffix('/embed')}/info"
    try:
        content = requests.get(path)
    except RefusedError as error:
        if error.status in {403, 404, 405}:
            return None
        raise
    try:
        return parse(Info, content, "TEI")
    except AnswerError as error:
        raise ServerError(
            f"{requests.url}: {requests.said(error)}", next_step="check the URL, or choose another `api`"
        ) from requests.told(error)


def _model(requests: Requests, path: str) -> str:
    """Return the only model that a server lists.

    Raises:
        InputError: It lists none, or several.
    """
    place = f"{path.removesuffix('/embeddings')}/models"
    try:
        listed = [model.id for model in parse(Models, requests.get(place), "it").data]
    except RefusedError as error:
        told = f"{place} of the server answers HTTP {error.status}"
    except AnswerError:
        told = f"{place} of the server is no list of models"
    else:
        if len(listed) == 1:
            return listed[0]
        told = f"the server lists {'several' if listed else 'none'}"
        told += f": {', '.join(requests.said(name) for name in listed[:8])}" if listed else ""
    raise InputError(
        f"no `model` is given, and {told}",
        next_step="give `model`, or an address that ends in /embeddings if the path is another one",
    )
