"""The sides of a comparison, opened: what encodes text (a bundle, a server), and vectors that were written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from exporter.bundle import MANIFEST, TOKENIZER, Bundle
from exporter.bundle.finding import find_bundle
from exporter.comparison.npy import NpyFile
from exporter.comparison.options import CompareOptions
from exporter.comparison.report import Side
from exporter.comparison.stored import numbers_of, vector_type_of
from exporter.corpus.vectors import VectorRows, VectorTable
from exporter.errors import InputError, printable
from exporter.hub.names import is_hub_id
from exporter.runtime.contract import VectorType
from exporter.runtime.encoder import Encoder
from exporter.runtime.facts import EncoderFacts
from exporter.runtime.similarity import SIMILARITIES, SimilarityName
from exporter.runtime.vector_types import RANGES, Vectors, normalized, quantize_embeddings, truncated
from exporter.targets import Precision

Role = Literal["text", "query", "document"]
Stored = npt.NDArray[Any]
_TOLD = 200  # characters of what a stranger's file says


@dataclass(frozen=True)
class EncodeAs:
    """How texts are to be encoded, so that their vectors can be compared with those of a file.

    Attributes:
        prompt: What is put before each text; None for what the model puts there.
        dtype: The type that vectors are stored in.
        normalize: Whether they are normalized before.
        dimension: To how many dimensions they are truncated; None for the model's own.
    """

    prompt: str | None
    dtype: VectorType
    normalize: bool
    dimension: int | None


class Remote(Protocol):
    """A server, as ``connect`` returns it."""

    @property
    def execution(self) -> str:
        """Where it is."""
        ...

    def encode(self, sentences: Sequence[str], /) -> Vectors:
        """Return (len(sentences), dimension) float32."""
        ...


class BundleSide:
    """A bundle that is open.

    Attributes:
        side: What is known of it.
        encoder: It.
        facts: Of the model.
    """

    def __init__(self, given: str, bundle: Bundle, encoder: Encoder) -> None:
        manifest = bundle.manifest
        served = {*manifest.engine.files, TOKENIZER, RANGES}
        self.bundle, self.encoder, self.facts = bundle, encoder, manifest.encoder
        self.side = Side(
            given,
            "bundle",
            f"{manifest.recipe.name} {manifest.engine.precision} on {manifest.engine.backend}",
            checkpoint=manifest.source.weights_sha256,
            bundle=manifest.seal,
            precision=manifest.engine.precision,
            dimension=encoder.dimension,
            size_bytes=sum(manifest.files[name].size for name in served),
            execution=encoder.execution,
        )

    @property
    def similarity(self) -> SimilarityName | None:
        """How the model compares vectors."""
        return self.facts.similarity

    def encode(self, texts: Sequence[str], role: Role) -> Vectors:
        """Return (texts, dimension) float32."""
        encode = {
            "text": self.encoder.encode,
            "query": self.encoder.encode_query,
            "document": self.encoder.encode_document,
        }[role]
        return encode(texts)

    def encode_as(self, texts: Sequence[str], how: EncodeAs) -> Stored:
        """Return (texts, numbers) as they would be stored."""
        return self.encoder.encode(
            texts,
            prompt=how.prompt,
            precision=how.dtype,
            normalize_embeddings=how.normalize,
            truncate_dim=how.dimension,
        )

    def count_tokens(self, texts: Sequence[str]) -> list[int] | None:
        """Return how many tokens each text has, truncated."""
        return self.encoder.count_tokens(texts)


class ServerSide:
    """A server that answers.

    Attributes:
        side: What is known of it.
        facts: Of the model: nothing.
    """

    facts: EncoderFacts | None = None
    similarity: SimilarityName | None = None

    def __init__(
        self, given: str, remote: Remote, *, seal: str | None = None, precision: Precision | None = None
    ) -> None:
        self._remote = remote
        told = remote.execution
        self.side = Side(given, "server", told, bundle=seal, precision=precision, execution=told)

    def encode(self, texts: Sequence[str], role: Role) -> Vectors:  # noqa: ARG002 - a server has one role
        """Return (texts, dimension) float32."""
        return self._remote.encode(texts)

    def encode_as(self, texts: Sequence[str], how: EncodeAs) -> Stored:
        """Return (texts, numbers) as they would be stored.

        Raises:
            InputError: As int8, for which a server has no ranges.
        """
        if how.dtype in ("int8", "uint8"):
            raise InputError(
                f"{self.side.given}: has no ranges to store vectors as {how.dtype}",
                next_step="compare the file with the bundle that is served",
            )
        vectors = truncated(self._remote.encode([(how.prompt or "") + text for text in texts]), how.dimension)
        return quantize_embeddings(normalized(vectors) if how.normalize else vectors, how.dtype)

    def count_tokens(self, texts: Sequence[str]) -> list[int] | None:  # noqa: ARG002 - it has no tokenizer here
        """Return None: nobody knows."""
        return None


class FileSide:
    """Vectors that were written.

    Attributes:
        side: What is known of them.
        columns: Names of the columns of a table.
        rows: How many rows there are.
    """

    facts: EncoderFacts | None = None

    def __init__(self, given: str, content: NpyFile | VectorTable) -> None:
        self._content, self.columns, self.rows = content, content.columns, content.rows
        self._first = next((rows.vectors for rows in self.batches(None) if rows.vectors.shape[1]), np.zeros((0, 0)))
        if not self._first.shape[1]:
            raise InputError(f"{given}: has no vector", next_step="give a file with vectors")
        made = content.facts
        self._dtype, self._dimension = made.get("dtype"), made.get("dimension")
        precision = made.get("precision")
        self.side = Side(
            given,
            "vectors",
            _told(made),
            bundle=_text(made.get("bundle")),
            precision=next((each for each in Precision if each == precision), None),
            size_bytes=content.size_bytes,
        )
        self.similarity: SimilarityName | None = next(
            (name for name in SIMILARITIES if name == made.get("similarity")), None
        )

    def batches(self, id_column: str | None) -> Iterator[VectorRows]:
        """Yield the rows, some at a time, as they are stored."""
        return self._content.batches(id_column)

    def settle(self, other: int | None) -> None:
        """Decide what type the vectors have and how many dimensions.

        Args:
            other: Dimensions of the other side, where they are known.

        Raises:
            InputError: The file says another type or dimension than it has.
        """
        given, columns = self.side.given, self._first.shape[1]
        dtype = vector_type_of(self._first, self._dtype, other, given)
        bits = dtype in ("binary", "ubinary")
        dimension = self._dimension if isinstance(self._dimension, int) else None
        if dimension is None and bits and other is not None and -(-other // 8) == columns:
            dimension = other
        dimension = dimension or (8 * columns if bits else columns)
        if (-(-dimension // 8) if bits else dimension) != columns:
            raise InputError(
                f"{given}: says that its vectors have {dimension:,} dimensions, and has {columns:,} numbers"
            )
        self.side = replace(self.side, dtype=dtype, dimension=dimension)

    def how(self) -> EncodeAs:
        """Return how texts are to be encoded, to be compared with these vectors."""
        made = self._content.facts
        prompt = made.get("prompt")
        return EncodeAs(
            prompt if isinstance(prompt, str) else None,
            self.side.dtype,
            made.get("normalized") is True,
            self.side.dimension if made else None,
        )

    def numbers(self, stored: Stored) -> Vectors:
        """Return (rows, dimension) float32 to compare."""
        return numbers_of(stored, self.side.dtype, self.side.dimension)


TextSide = BundleSide | ServerSide
OpenServer = Callable[[str], AbstractContextManager[ServerSide]]
AnySide = BundleSide | ServerSide | FileSide


def is_url(given: str) -> bool:
    """Whether a side is the URL of a server."""
    return given.startswith(("http://", "https://"))


@contextmanager
def opened_side(given: str, options: CompareOptions, open_server: OpenServer) -> Iterator[AnySide]:
    """Open a side.

    Args:
        given: Folder of a bundle or its id on the hub, URL of a server, a file of vectors, or a folder of them.
        options: How it is compared.
        open_server: Opens a URL; see ``servers``.

    Raises:
        InputError: It is none of these, or cannot be read.
        BundleError: A bundle is damaged.
        ServerError: A server cannot be reached.
        MissingDependencyError: A package for it is not installed.
    """
    with ExitStack() as stack:
        if is_url(given):
            yield stack.enter_context(open_server(given))
        elif (Path(given) / MANIFEST).is_file() or _may_be_on_hub(given):
            bundle = Bundle.open(
                find_bundle(given).folder, require_signature=options.require_signature, for_encoding=True
            )
            yield BundleSide(given, bundle, stack.enter_context(bundle.encoder(threads=options.threads)))
        elif Path(given).suffix.lower() == ".npy":
            file = NpyFile(Path(given))
            stack.callback(file.close)
            yield FileSide(given, file)
        elif "://" in given or Path(given).is_dir() or Path(given).suffix.lower() in _TABLES or _MAGIC & {*given}:
            yield FileSide(given, VectorTable(given))
        else:
            there = Path(given).exists()
            raise InputError(
                f"{given}: {'holds no vectors that can be read' if there else 'there is no such file or folder'}",
                next_step="give the folder of a bundle, the URL of a server, .npy, .parquet, .arrow, or what "
                "`korsbert embed` wrote",
            )


def _may_be_on_hub(given: str) -> bool:
    """Whether a side looks like ``owner/name``, and not like a file of vectors. No hub is asked."""
    path = Path(given)
    is_vectors = path.suffix.lower() in {".npy", *_TABLES} or bool(_MAGIC & {*given})
    return not path.exists() and not is_vectors and is_hub_id(given.partition("@")[0])


_TABLES = {".parquet", ".pq", ".arrow", ".feather", ".ipc"}
_MAGIC = frozenset("*?[{")


def _told(made: dict[str, Any]) -> str:
    recipe, precision = _text(made.get("recipe")), _text(made.get("precision"))
    return f"vectors of {recipe} {precision or ''}".strip() if recipe else "vectors"


def _text(value: object) -> str | None:
    return printable(value, _TOLD) if isinstance(value, str) else None
