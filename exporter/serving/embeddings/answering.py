"""Prompts, lengths of vectors, dimensions, number formats, and requests that must be refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from exporter.errors import ServerError
from exporter.recipe import Gate
from exporter.runtime.facts import DOCUMENT_PROMPTS, QUERY_PROMPTS, EncoderFacts, first_prompt
from exporter.runtime.vector_types import Vectors
from exporter.serving.embeddings.apis import Question
from exporter.serving.embeddings.remote import EmbeddingServer
from exporter.serving.embeddings.requests import RefusedError
from exporter.serving.expected import Expected
from exporter.targets import Precision
from exporter.validator import Check
from exporter.validator.gates import significant
from exporter.validator.parity import row_cosine
from exporter.validator.prompts import check_prompts
from exporter.validator.rounding import can_be_told, rounded_to

UNIT_TOLERANCE = 1e-2
"""How far from 1 the lengths of normalized vectors may be: float16 and bfloat16 leave as much."""
_NO_MODEL = "korsbert-asks-for-a-model-that-is-not-there"
# Coarser than what a precision computes in: rounding that its gate should not be asked to allow.
_TOO_COARSE = {Precision.FP32: ("float16", "bfloat16", "8 bits"), Precision.FP16: ("bfloat16", "8 bits")}


def check_server_prompts(server: EmbeddingServer, expected: Expected, gate: Gate) -> list[Check]:
    """Ask with every named prompt; the check is called ``"prompts"``, and is none where there is only the default."""
    if expected.prompts is None:
        return []
    if not server.api.has_prompts:
        reason = f"a request of the {server.api.title} names no prompt; clients put it before the text"
        return [Check.skipped("prompts", reason)]
    try:
        return [check_prompts(expected.prompts, _Prompted(server, expected.facts), gate)]
    except RefusedError as error:
        return [Check("prompts", f"prompts {', '.join(expected.prompts.named)}", (f"refused: {error.said}",))]


@dataclass(frozen=True)
class _Prompted:
    """A server that is told the name of a prompt, as an encoder with prompts."""

    server: EmbeddingServer
    facts: EncoderFacts

    def encode(self, sentences: Sequence[str], /, prompt_name: str | None = None) -> Vectors:
        return self.server.encode(sentences, prompt_name)

    def encode_query(self, sentences: Sequence[str], /) -> Vectors:
        return self.server.encode(sentences, first_prompt(self.facts.prompts, QUERY_PROMPTS))

    def encode_document(self, sentences: Sequence[str], /) -> Vectors:
        return self.server.encode(sentences, first_prompt(self.facts.prompts, DOCUMENT_PROMPTS))


def is_normalized(norms: npt.NDArray[np.float64]) -> bool:
    """Whether all lengths are 1, within what number formats leave."""
    return bool(np.abs(norms - 1).max(initial=0.0) < UNIT_TOLERANCE)


def check_norms(expected: Expected, norm_ratio: npt.NDArray[np.float64]) -> Check:
    """Compare whether vectors are normalized; the check is called ``"normalization"``.

    Args:
        expected: The reference.
        norm_ratio: (probes,) length of the server's vector to that of the reference's.
    """
    wanted = np.linalg.norm(expected.reference.vectors.astype(np.float64), axis=1)
    finite = np.isfinite(norm_ratio)
    found = (norm_ratio * wanted)[finite]
    if not len(found):
        return Check.skipped("normalization", "no vector is finite")
    coverage = f"lengths of {len(found)} vectors: {_range(found)}, of the reference {_range(wanted)}"
    failures: tuple[str, ...] = ()
    if is_normalized(wanted) and not is_normalized(found):
        failures = (f"the reference's vectors have length 1, the server's {_range(found)}: it does not normalize",)
    elif is_normalized(found) and not is_normalized(wanted):
        failures = (
            f"the server's vectors have length 1, the reference's {_range(wanted)}: the server normalizes, and the "
            "checkpoint does not. If that is meant, compare with a reference that is normalized too",
        )
    return Check("normalization", coverage, failures)


def check_dimensions(server: EmbeddingServer, expected: Expected, gate: Gate) -> Check:
    """Ask for fewer dimensions, and compare with the reference truncated; the check is called ``"dimensions"``.

    A server need not take the parameter. If it does, its vectors must be those of the reference, cut off; they may be
    scaled to length 1 again.
    """
    full = expected.reference.vectors.shape[1]
    declared = expected.truncate_dims
    asked = declared or ((full // 2,) if full > 1 else ())
    rows = [row for row, probe in enumerate(expected.reference.probes) if not probe.kind.startswith("edge")]
    rows = rows[: min(8, server.texts_per_request)]
    texts = [expected.reference.probes[row].text for row in rows]
    told, failures, compared = [f"{full}"], [], False
    for size in asked:
        try:
            found = server.ask(Question(texts, dimensions=size))
        except RefusedError as error:
            if not error.is_refusal:
                failures.append(f"{size} dimensions were asked for, and the server failed: {_told(error)}")
                continue
            told.append(f"{size} asked for and refused ({_told(error)})")
            continue
        if found.shape[1] == full:
            told.append(f"{size} asked for, which the server ignores")
            continue
        if found.shape[1] != size:
            failures.append(f"{size} dimensions were asked for, and {found.shape[1]} are answered")
            continue
        compared = True
        wanted = expected.reference.vectors[rows, :size].astype(np.float64)
        cosine = float(np.min(row_cosine(wanted, found.astype(np.float64))))
        told.append(f"{size} asked for, min cosine {significant(cosine)} on {len(rows)} probes")
        if not cosine >= gate.min_cosine:
            failures.append(
                f"{size} dimensions asked for: min cosine {significant(cosine)} < {gate.min_cosine:g} with the first "
                f"{size} of the reference"
            )
    if failures or compared:
        return Check("dimensions", ", ".join(told), tuple(failures))
    return Check.skipped("dimensions", ", ".join(told))


def check_encoding(server: EmbeddingServer, texts: Sequence[str], alone: Vectors, bound: float) -> Check:
    """Compare vectors in base64 with those in JSON numbers; the check is called ``"encoding"``.

    Args:
        server: To ask.
        texts: Some texts.
        alone: Their vectors in JSON numbers.
        bound: Largest relative difference of a text in two requests.
    """
    if not server.api.has_base64:
        return Check.skipped("encoding", f"{server.api.title} answers in JSON numbers only")
    try:
        found = server.ask(Question(texts, encoded=True))
    except RefusedError as error:
        if error.is_refusal:
            return Check.skipped("encoding", f"base64 is refused ({_told(error)})")
        return Check("encoding", f"{len(texts)} texts in base64", (f"base64: the server failed: {_told(error)}",))
    except ServerError as error:
        return Check("encoding", f"{len(texts)} texts in base64", (f"base64: {error.message}",))
    coverage = f"{len(texts)} texts in base64 and in JSON numbers"
    if found.shape != alone.shape:
        told = f"base64 has {found.shape[1]} dimensions, JSON numbers have {alone.shape[1]}: another type of number"
        return Check("encoding", coverage, (told,))
    a, b = found.astype(np.float64), alone.astype(np.float64)
    deviation = float((np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)).max())
    failures = () if deviation <= bound else (f"base64 and JSON numbers differ by {deviation:.2g}",)
    return Check("encoding", f"{coverage}, deviation {deviation:.2g}", failures)


def check_rounding(vectors: Vectors, precision: Precision) -> Check:
    """Find out whether answers are rounded to a coarser format; the check is called ``"dtype"``."""
    if not can_be_told(vectors):
        return Check.skipped("dtype", "there are too few values, or some are NaN or Inf")
    found = rounded_to(vectors)
    if found is None:
        return Check("dtype", f"{vectors.size:,} values, which are not rounded to a coarser format than float32")
    coverage = f"{vectors.size:,} values, all of which are numbers of {found}"
    coarse = found in _TOO_COARSE.get(precision, ("8 bits",))
    failures = (f"every value is a number of {found}: answers are rounded to {found}",) if coarse else ()
    return Check("dtype", coverage, failures)


def check_refusals(server: EmbeddingServer, text: str) -> Check:
    """Send requests that must be refused; the check is called ``"refusals"``.

    No text at all must be refused by both APIs. An unknown model must be by OpenAI; servers of one model take any name,
    which is told and fails nothing.
    """
    told, failures = [], []
    status = _status_of(server, Question([]))
    told.append(f"no text: {status}")
    if not status.startswith("HTTP 4"):
        failures.append(f"a request without a text is answered with {status}, and must be refused (HTTP 400 to 499)")
    if server.api.has_base64:
        status = _status_of(server, Question([text], model=_NO_MODEL))
        told.append(f"an unknown model: {'a vector, so the server ignores the name' if status == _ANSWER else status}")
    return Check("refusals", ", ".join(told), tuple(failures))


_ANSWER = "an answer"


def _status_of(server: EmbeddingServer, question: Question) -> str:
    try:
        server.ask(question)
    except RefusedError as error:
        return f"HTTP {error.status}"
    except ServerError:  # HTTP 200 with something that is no vector
        return _ANSWER
    return _ANSWER


def _told(error: RefusedError) -> str:
    return f"HTTP {error.status}: {error.said}"


def _range(norms: npt.NDArray[np.float64]) -> str:
    low, high = float(norms.min()), float(norms.max())
    return f"{low:.4g}" if high - low < 1e-3 * high else f"{low:.4g} to {high:.4g}"
