"""verify(): compare a running server with what it should answer, from string to vector, and under load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from exporter.bundle.minimum_gate import DEFAULT_MINIMUM_GATE, MinimumGate
from exporter.errors import GateError, InputError
from exporter.golden.judging import refuse_too_coarse
from exporter.recipe import Gate
from exporter.runtime.vector_types import Vectors
from exporter.serving.concurrency import load_bound
from exporter.serving.embeddings.answering import (
    check_dimensions,
    check_encoding,
    check_norms,
    check_refusals,
    check_rounding,
    check_server_prompts,
    is_normalized,
)
from exporter.serving.embeddings.apis import TEXTS_PER_REQUEST
from exporter.serving.embeddings.batches import Load, check_batches, check_concurrency
from exporter.serving.embeddings.options import ServerOptions
from exporter.serving.embeddings.probing import answerable
from exporter.serving.embeddings.remote import EmbeddingServer, embedding_server
from exporter.serving.embeddings.truncation import check_truncation
from exporter.serving.expected import Expected
from exporter.targets import Precision
from exporter.validator import Check, ParityReport, validate
from exporter.validator.prompts import PromptVectors


@dataclass(frozen=True)
class Judged:
    """How a server is judged.

    Attributes:
        precision: What it computes in: which gate counts.
        minimum_gate: Bounds that count where those of the reference's own gate are weaker.
        clients: At the same time.
        requests: Under load.
        normalize: Whether the reference's vectors are normalized before they are compared.
    """

    precision: Precision = Precision.FP32
    minimum_gate: MinimumGate = DEFAULT_MINIMUM_GATE
    clients: int = 32
    requests: int = 512
    normalize: bool = False


def refuse_unreachable(url: str, options: ServerOptions) -> None:
    """Ask a server for one vector: what the reference answers takes longer to find out.

    Raises:
        InputError: The URL or an option cannot be used.
        ServerError: The server cannot be reached, refuses, or answers something that is no vector.
    """
    with embedding_server(url, options) as server:
        server.encode_batch(["a text"])


def verify(url: str, options: ServerOptions, expected: Expected, judged: Judged) -> ParityReport:
    """Hold a running server with TEI's or OpenAI's API against what it should answer.

    The server is asked as a client must ask it to get the checkpoint's vectors. TEI is told to normalize if the
    reference's vectors are normalized, and not to if they are not: by default it normalizes in any case.
    The default prompt is named in each request to TEI, and put before each text for OpenAI's API, which has none.

    Args:
        url: See ``remote.connect``.
        options: How the server is asked.
        expected: What it should answer.
        judged: How it is judged.

    Returns:
        The report, passed or not.

    Raises:
        InputError: The URL or an option cannot be used, or the golden file is too coarse.
        GateError: The server's vectors have another dimension.
        ServerError: It cannot be reached, is too slow, or answers something that is no vector.
    """
    precision = judged.precision
    gate = judged.minimum_gate.gates.of(precision).tightened(expected.gates.of(precision))
    if expected.coarse:
        refuse_too_coarse(gate)
    if judged.normalize:
        expected = _changed(expected, _normalized, "the reference was normalized")
    with embedding_server(url, _as_a_client_must(options, expected)) as server:
        expected = _of_its_dimension(server, expected)
        expected, refused = answerable(server, expected)
        load = Load(judged.clients, judged.requests, load_bound(gate, precision))
        # First of all: a wrong answer that a cache of the server keeps is then judged by the gate.
        under_load = check_concurrency(server, *_sentences(expected), load)
        report = validate(expected.reference, server, gate, f"{expected.name}, {precision}", precision)
        checks = [refused, *_checks_of(server, expected, gate, report, under_load, load.bound, precision)]
        checks.append(Check("connection", server.requests))
    return replace(report, golden=expected.golden).with_checks(*expected.checks, *checks)


def _as_a_client_must(options: ServerOptions, expected: Expected) -> ServerOptions:
    norms = np.linalg.norm(expected.reference.vectors.astype(np.float64), axis=1)
    prompt = expected.facts.prompt
    name = next((name for name, text in expected.facts.prompts.items() if prompt and text == prompt), None)
    normalize = is_normalized(norms) if options.normalize is None else options.normalize
    return replace(options, normalize=normalize, prompt_name=name, prompt=prompt)


def _checks_of(
    server: EmbeddingServer,
    expected: Expected,
    gate: Gate,
    report: ParityReport,
    under_load: Sequence[Check],
    bound: float,
    precision: Precision,
) -> list[Check]:
    texts, tokens = _sentences(expected)
    order = np.argsort(np.array(tokens), kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, min(TEXTS_PER_REQUEST, len(order))).astype(int)]
    some = [texts[row] for row in dict.fromkeys(chosen.tolist())]
    requests, in_order, alone = check_batches(server, some, bound)
    return [
        requests,
        in_order,
        *under_load,
        check_truncation(server, expected, gate, bound),
        *check_server_prompts(server, expected, gate),
        check_norms(expected, report.parity.norm_ratio),
        check_dimensions(server, expected, gate),
        check_encoding(server, some, alone, bound),
        check_rounding(alone, precision),
        check_refusals(server, some[0]),
    ]


def _sentences(expected: Expected) -> tuple[list[str], list[int]]:
    """Return the probes that are ordinary sentences, and how many tokens each has."""
    reference = expected.reference
    rows = [row for row, probe in enumerate(reference.probes) if not probe.kind.startswith("edge")]
    return [reference.probes[row].text for row in rows], [len(reference.token_ids[row]) for row in rows]


def _of_its_dimension(server: EmbeddingServer, expected: Expected) -> Expected:
    """Return what is expected at the dimension that a server answers with.

    Raises:
        GateError: It is neither that of the reference nor the one that its checkpoint truncates to by itself.
    """
    wanted = expected.reference.vectors.shape[1]
    row = next(row for row, probe in enumerate(expected.reference.probes) if not probe.kind.startswith("edge"))
    found = server.encode_batch([expected.reference.probes[row].text]).shape[1]
    if found == wanted:
        return expected
    if found == expected.facts.truncate_dim:
        return _changed(expected, lambda vectors: vectors[:, :found], f"the reference was truncated to {found}")
    raise GateError(
        f"{server.execution}: its vectors have {found} dimensions, those of {expected.told} ({expected.name}) "
        f"{wanted}: it serves another model",
        report={},
        next_step="check which model is served",
    )


def _changed(expected: Expected, change: Callable[[Vectors], Vectors], told: str) -> Expected:
    """Return other vectors. What number formats lose is not known of them, so no bound is widened."""
    prompts = expected.prompts
    if prompts is not None:
        named = {name: change(vectors) for name, vectors in prompts.named.items()}
        prompts = PromptVectors(prompts.texts, named, change(prompts.query), change(prompts.document))
    reference = replace(expected.reference, vectors=change(expected.reference.vectors), format_losses={}, rounding=None)
    skipped = Check.skipped("format", f"{told}, so what the number format loses is not known")
    return replace(expected, reference=reference, prompts=prompts, checks=(*expected.checks, skipped))


def _normalized(vectors: Vectors) -> Vectors:
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    if not norms.all():
        raise InputError("a vector of the reference is zero, and cannot be normalized", next_step="omit `normalize`")
    normalized: Vectors = (vectors / norms).astype(np.float32)
    return normalized
