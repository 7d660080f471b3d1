"""Text -> vectors from a bundle, without torch or transformers."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Concatenate, ParamSpec, Self

import numpy.typing as npt
from tokenizers import Tokenizer

from exporter.runtime.contract import VectorType
from exporter.runtime.evaluation import EvaluationResults
from exporter.runtime.facts import DOCUMENT_PROMPTS, QUERY_PROMPTS, EncoderFacts, first_prompt
from exporter.runtime.runner import Runner
from exporter.runtime.similarity import SimilarityName, similarity, similarity_pairwise
from exporter.runtime.tensors import tensors_of
from exporter.runtime.texts import ids_of
from exporter.runtime.token_encoder import TokenEncoder, encoder_batches
from exporter.runtime.vector_types import (
    Ranges,
    Stored,
    Vectors,
    normalized,
    quantize_embeddings,
    truncated,
)

_Rest = ParamSpec("_Rest")


def _with_first_prompt(
    encode: Callable[Concatenate[Encoder, _Rest], Stored], names: tuple[str, ...], name: str, purpose: str
) -> Callable[Concatenate[Encoder, _Rest], Stored]:
    """Return ``encode`` with another default of its prompt, so that its arguments are written once.

    Args:
        encode: ``Encoder.encode``.
        names: The first of them that is a prompt of the model is the default.
        name: Of the method.
        purpose: Of the method, for its docstring.
    """
    signature = inspect.signature(encode)

    @functools.wraps(encode)
    def encode_with_prompt(self: Encoder, /, *args: _Rest.args, **options: _Rest.kwargs) -> Stored:
        given = signature.bind(self, *args, **options)
        if given.arguments.get("prompt_name") is None:
            given.arguments["prompt_name"] = first_prompt(self.prompts, names)
        return encode(*given.args, **given.kwargs)

    encode_with_prompt.__name__ = name  # a bound method is pickled by it
    encode_with_prompt.__qualname__ = f"Encoder.{name}"
    encode_with_prompt.__doc__ = f"{purpose}\n\n        Arguments, result and errors are those of ``encode``.\n        "
    return encode_with_prompt


class Encoder(TokenEncoder):
    """A bundle's tokenizer and engine, with the interface of SentenceTransformer.

    Attributes:
        full_dimension: Length of the vectors that the engine computes.
        truncate_dim: To how many dimensions ``encode`` truncates where nothing else is asked for; None for no limit.
        max_seq_length: Tokens per sentence, special tokens included; what is longer is truncated.
        prompts: The model's prompts, by name.
        similarity_fn_name: What ``similarity`` computes: ``"cosine"``, ``"dot"``, ``"euclidean"`` or ``"manhattan"``.
        tokenizer: The bundle's, of the ``tokenizers`` library (SentenceTransformer has one of transformers).
        device: ``"cpu"`` or ``"cuda"``.
        execution: Where and in what numbers the engine really runs.
        model_card_data: Where evaluators of sentence-transformers leave their metrics.
        ranges: The ranges of int8 and uint8, or None where the encoder is not a bundle's.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        runner: Runner,
        *,
        dimension: int,
        max_seq_length: int,
        prompt: str = "",
        prompts: Mapping[str, str] = MappingProxyType({}),
        similarity_fn_name: SimilarityName = "cosine",
        truncate_dim: int | None = None,
        ranges: Ranges | None = None,
        device: str = "cpu",
    ) -> None:
        super().__init__(tokenizer, runner, dimension)
        self._prompt = prompt
        self._opened_by: Callable[[], Encoder] | None = None
        self.tokenizer = tokenizer
        self.prompts = dict(prompts)
        self.truncate_dim = None if truncate_dim is None else _dimension(truncate_dim)
        self.max_seq_length = max_seq_length
        self.similarity_fn_name: SimilarityName = similarity_fn_name
        self.ranges = ranges
        self.device = device
        self.model_card_data = EvaluationResults()

    @classmethod
    def of(
        cls,
        facts: EncoderFacts,
        tokenizer: Tokenizer,
        runner: Runner,
        *,
        truncate_dim: int | None = None,
        ranges: Ranges | None = None,
        device: str = "cpu",
    ) -> Self:
        """Return an encoder of a model.

        Args:
            facts: The facts of the model, from its checkpoint or from a manifest.
            tokenizer: Its tokenizer, which truncates by itself.
            runner: Its engine.
            truncate_dim: To how many dimensions vectors are truncated (default: as the model says).
            ranges: The ranges of int8 and uint8.
            device: Where the engine runs.
        """
        return cls(
            tokenizer,
            runner,
            dimension=facts.dimension,
            max_seq_length=facts.max_seq_length,
            prompt=facts.prompt,
            prompts=facts.prompts,
            similarity_fn_name=facts.similarity,
            truncate_dim=facts.truncate_dim if truncate_dim is None else truncate_dim,
            ranges=ranges,
            device=device,
        )

    def opened_by(self, open_again: Callable[[], Encoder]) -> Self:
        """Return this encoder, to be pickled as a call of ``open_again``, which must be pickled itself."""
        self._opened_by = open_again
        return self

    def __reduce__(self) -> tuple[Callable[[], Encoder], tuple[()]]:
        if self._opened_by is None:
            raise TypeError(
                "an Encoder can be pickled if `load` has opened it: the bundle is opened again from its path"
            )
        return self._opened_by, ()

    def __repr__(self) -> str:
        prompts = ", ".join(map(repr, self.prompts)) or "none"
        return (
            f"Encoder({self.dimension} dimensions, {self.max_seq_length} tokens, {self.similarity_fn_name} similarity, "
            f"prompts: {prompts}; {'closed' if self._closed else self.execution})"
        )

    @property
    def dimension(self) -> int:
        """Length of the vectors that ``encode`` returns where nothing else is asked for."""
        return min(self.full_dimension, self.truncate_dim or self.full_dimension)

    def get_embedding_dimension(self) -> int:
        """Return ``dimension``, as ``SentenceTransformer.get_embedding_dimension`` does."""
        return self.dimension

    def get_sentence_embedding_dimension(self) -> int:
        """Return ``dimension``, by the older name of ``get_embedding_dimension``."""
        return self.dimension

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the similarity of each of n vectors and each of m others: (n, m), by ``similarity_fn_name``.

        Distances are negative. SentenceTransformer always returns a tensor; here arrays give an array, and tensors, or
        lists of them, a tensor. Integers are computed in float32; packed bits have to be unpacked first.
        """
        return similarity(self.similarity_fn_name, embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the similarity of the vectors in equal rows: (n,). See ``similarity``."""
        return similarity_pairwise(self.similarity_fn_name, embeddings1, embeddings2)

    def encode(
        self,
        inputs: str | Iterable[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: VectorType | None = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: object = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: object = None,
        chunk_size: int | None = None,  # noqa: ARG002 - callers of SentenceTransformer pass it
        *,
        ranges: npt.ArrayLike | None = None,
    ) -> Stored:
        """Return what ``SentenceTransformer.encode`` would, truncated, normalized and stored in this order.

        Args:
            inputs: One sentence, or several.
            prompt_name: The model's prompt of this name is put before every sentence (default: the model's default).
            prompt: This text is put before every sentence, whatever ``prompt_name`` says.
            batch_size: Rows per batch, at most; batches of long sentences are smaller.
            show_progress_bar: Show progress on stderr. None means no.
            output_value: ``"sentence_embedding"``; a bundle has no other output.
            precision: Type of the numbers: ``"float32"`` (also None), ``"float16"``, ``"int8"``, ``"uint8"``,
                ``"binary"`` or ``"ubinary"``. int8 and uint8 are computed with the ranges of the bundle, whereas
                SentenceTransformer takes them from the sentences of the call.
            convert_to_numpy: Return an array. With neither this nor ``convert_to_tensor``, a list of tensors.
            convert_to_tensor: Return a torch tensor on the CPU. torch is imported for this alone.
            device: None, or the device that the bundle was opened on.
            normalize_embeddings: Scale every vector to length 1, after it was truncated.
            truncate_dim: Return this many dimensions (default: ``self.truncate_dim``).
            pool: None: to encode in several processes, send them the encoder, which can be pickled.
            chunk_size: Has an effect with a ``pool`` only.
            ranges: (2, dimension), used for int8 and uint8 instead of the bundle's.

        Returns:
            (dimension,) for one sentence, (sentences, dimension) for several, (0,) for none, as SentenceTransformer
            does. Eight dimensions are one number of binary and ubinary.

        Raises:
            TypeError: A sentence is not a string.
            ValueError: ``batch_size`` or ``truncate_dim`` is below 1, the model has no prompt of that name, there is no
                such ``precision``, int8 or uint8 has no ranges, or another argument asks for what a bundle does not do.
            InputError: A sentence is no Unicode text, or has more than ``MAX_CHARACTERS`` characters; or the bundle has
                no ranges of vectors that are normalized after they are truncated to this dimension.
            EngineError: The tokenizer or the engine fails, or the encoder is closed.
            BundleError: The engine returned another type or shape than float32 (rows, dimension).
        """
        self._refuse_others(output_value, device, pool)
        prompt = self._resolved(prompt_name, prompt)
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, and must be 1 or more")
        dimension = self.dimension if truncate_dim is None else min(_dimension(truncate_dim), self.full_dimension)
        if precision in ("int8", "uint8") and ranges is None:
            ranges = self._own_ranges(dimension, normalize_embeddings)
        texts = [inputs] if isinstance(inputs, str) else list(inputs)
        rows = self._ids(texts, prompt)
        batches = encoder_batches([len(row) for row in rows], batch_size)
        vectors = truncated(self._run_batches(rows, _shown(batches) if show_progress_bar else batches), dimension)
        if normalize_embeddings:
            vectors = normalized(vectors)
        stored = quantize_embeddings(vectors, precision, ranges)
        found = stored[0] if isinstance(inputs, str) else stored if texts else stored.reshape(-1)[:0]
        if convert_to_numpy and not convert_to_tensor:
            return found
        tensors: Stored = tensors_of(found, stacked=convert_to_tensor or isinstance(inputs, str))
        return tensors  # typed as the array that callers ask for by default

    encode_query = _with_first_prompt(
        encode, QUERY_PROMPTS, "encode_query", 'Encode queries: with the prompt ``"query"``, where there is one.'
    )
    """Encode queries: with the prompt ``"query"``, where there is one. Arguments and result are those of ``encode``."""

    encode_document = _with_first_prompt(
        encode,
        DOCUMENT_PROMPTS,
        "encode_document",
        'Encode documents: with the prompt ``"document"``, ``"passage"`` or ``"corpus"``, the first that there is.',
    )
    """Encode documents: with the prompt ``"document"``, ``"passage"`` or ``"corpus"``, the first that there is.

    Arguments and result are those of ``encode``.
    """

    def _refuse_others(self, output_value: str | None, device: object, pool: object) -> None:
        """Refuse what SentenceTransformer would do and a bundle does not."""
        if output_value != "sentence_embedding":
            raise ValueError(f"output_value is {output_value!r}, and a bundle returns 'sentence_embedding' only")
        if device is not None and str(device).partition(":")[0] != self.device:
            raise ValueError(f"device is {device!s}, and the bundle was opened on {self.device}: load it on the other")
        if pool is not None:
            raise ValueError("pool is not supported: send the encoder, which can be pickled, to processes of your own")

    def _own_ranges(self, dimension: int, normalize: bool) -> Vectors:
        """Return the (2, dimension) ranges of the bundle."""
        if self.ranges is None:
            raise ValueError(
                "this encoder has no ranges for int8 and uint8: pass `ranges`, or open a bundle with `load`"
            )
        return self.ranges.at(dimension, normalize=normalize)

    def _resolved(self, prompt_name: str | None, prompt: str | None) -> str:
        """Return the text that is put before every sentence."""
        if prompt is not None:
            return prompt
        if prompt_name is None:
            return self._prompt
        if prompt_name not in self.prompts:
            known = ", ".join(map(repr, self.prompts)) or "none"
            raise ValueError(f"the model has no prompt {prompt_name!r}; its prompts are {known}")
        return self.prompts[prompt_name]

    def encode_batch(self, sentences: Sequence[str]) -> Vectors:
        """Encode ``sentences`` as one batch in the order given: (len(sentences), full_dimension) float32.

        ``encode`` sorts and splits; this is for whoever needs to know what shares a batch.
        """
        return self._run(self._ids(sentences, self._prompt))

    def count_tokens(self, sentences: Sequence[str]) -> list[int]:
        """Return how many tokens each sentence has after truncation."""
        return [len(row) for row in self._ids(sentences, self._prompt)]

    def _ids(self, sentences: Sequence[str], prompt: str) -> list[list[int]]:
        return ids_of(self._tokenizer, sentences, prompt)


def _dimension(truncate_dim: int) -> int:
    if truncate_dim < 1:
        raise ValueError(f"truncate_dim is {truncate_dim}, and must be 1 or more")
    return truncate_dim


def _shown(batches: list[list[int]]) -> Iterable[list[int]]:
    """Show progress on stderr. rich is imported only here: a server has no use for it."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import track  # noqa: PLC0415

    return track(batches, "encoding", console=Console(stderr=True), transient=True)
