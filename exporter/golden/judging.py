"""A bundle and a golden file to a parity report: the gate from string to vector, without torch and weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from exporter.bundle import Bundle, Manifest
from exporter.bundle.minimum_gate import DEFAULT_MINIMUM_GATE, MinimumGate
from exporter.errors import InputError, first_line, quoted
from exporter.golden.content import Golden
from exporter.recipe import Gate
from exporter.runtime.tokens import TextTokenizer
from exporter.runtime.vector_types import Vectors
from exporter.targets import Precision
from exporter.validator import Check, ParityReport, validate
from exporter.validator.check import check_facts
from exporter.validator.prompts import Prompted, check_prompts

_FLOAT16_ROUNDING = 2**-11  # relative to a number, and so to a vector
_FINEST = 10 * _FLOAT16_ROUNDING
"""The smallest bound of the relative error that vectors in float16 can judge."""
_SHOWN = 3


def validate_with_golden(
    bundle: Bundle,
    golden: Golden,
    *,
    device: str | None = None,
    minimum_gate: MinimumGate = DEFAULT_MINIMUM_GATE,
) -> ParityReport:
    """Judge a bundle by the answers in a golden file. Its weights and its graph are not compared with a checkpoint.

    Args:
        bundle: What to judge.
        golden: The answers.
        device: Where the bundle runs; by default where it was validated.
        minimum_gate: Bounds that count where those of the bundle's own gate, and of the golden file's, are weaker.

    Returns:
        The report, passed or not.

    Raises:
        InputError: The golden file cannot judge this bundle.
    """
    manifest, facts = bundle.manifest, golden.facts
    engine, precision = manifest.engine, manifest.engine.precision
    gate = minimum_gate.gate_for(manifest).tightened(facts.gates.of(precision))
    refuse_to_judge(golden, manifest, gate)
    ranges = bundle.ranges()
    dimensions = tuple(sorted((size for size in ranges.normalized if size < facts.encoder.dimension), reverse=True))
    with bundle.encoder(device=device, truncate_dim=manifest.encoder.dimension) as candidate:
        subject = f"{manifest.recipe.name} {precision} on {engine.backend}"
        report = validate(golden.reference(ranges, dimensions), candidate, gate, subject, precision)
        checks = [check_made_from(manifest, golden), check_token_ids(golden, candidate.tokenizer)]
        checks += check_golden_prompts(golden, manifest, candidate, gate)
    checks += [
        Check.skipped(f"{size} dimensions", "the bundle does not declare them")
        for size in facts.truncate_dims
        if size not in dimensions
    ]
    checks += not_compared(golden, precision)
    report = replace(report, golden=facts.seal, bundle=manifest.seal, device=device or manifest.validation.device)
    return report.with_checks(*checks)


def check_golden_prompts(golden: Golden, manifest: Manifest, encoder: Prompted, gate: Gate) -> list[Check]:
    """Compare a candidate with the golden file under every prompt; no check where there is only the default."""
    if golden.prompts is None:
        return []
    missing = sorted(golden.prompts.named.keys() - manifest.encoder.prompts.keys())
    if missing:
        told = tuple(f"the bundle has no prompt {quoted(name)}" for name in missing)
        return [Check("prompts", f"{len(golden.prompts.named)} prompts", told)]
    return [check_prompts(golden.prompts, encoder, gate)]


def not_compared(golden: Golden, precision: Precision) -> list[Check]:
    """Return a check for everything that only the checkpoint could judge. Its coverage says so."""
    names = ["engine facts", "weights", "graph", "dataflow", "lookup", "sweep"]
    checks = [Check.skipped(name, "a golden file has no weights") for name in names]
    if precision.is_int8:
        checks.append(Check.skipped("emulator", "only an export emulates int8"))
    elif precision.value not in {*golden.losses, "fp32"}:
        checks.append(Check.skipped("format", f"the golden file does not know what {precision} loses"))
    return checks


def judge_function(
    encode: Callable[[list[str]], npt.ArrayLike],
    golden: Golden,
    precision: Precision,
    minimum_gate: MinimumGate = DEFAULT_MINIMUM_GATE,
) -> ParityReport:
    """Judge a function from texts to vectors, such as the client of a server, by the answers in a golden file.

    Args:
        encode: Returns (texts, dimension) numbers, with the default prompt. It is called with all probes at once, and
            with batches of 1 and of 8 texts.
        golden: The answers.
        precision: What it computes in: which gate counts.
        minimum_gate: Bounds that count where the golden file's are weaker.

    Raises:
        InputError: The golden file is too coarse, or the function returns something else than vectors of its dimension.
    """
    gate = minimum_gate.gates.of(precision).tightened(golden.facts.gates.of(precision))
    if golden.facts.dtype == "float16":
        refuse_too_coarse(gate)
    candidate = _Function(encode, golden.facts.encoder.dimension)
    report = validate(golden.reference(None), candidate, gate, "the function", precision)
    unseen = [Check.skipped(name, "a function has vectors only") for name in ("facts", "tokenizer", "prompts")]
    return replace(report, golden=golden.facts.seal).with_checks(*unseen, *not_compared(golden, precision))


class _Function:
    execution = "a Python function"

    def __init__(self, encode: Callable[[list[str]], npt.ArrayLike], dimension: int) -> None:
        self._encode = encode
        self._dimension = dimension

    def encode(self, sentences: Sequence[str], /) -> Vectors:
        answer = self._encode(list(sentences))
        try:
            vectors = np.asarray(answer, np.float32)
        except (TypeError, ValueError, RuntimeError) as error:  # texts, ragged lists, tensors on a GPU
            raise InputError(
                f"the function returned {type(answer).__name__}, which is no array of numbers: {first_line(error)}",
                next_step="return an array of numpy, or lists of numbers",
            ) from error
        if vectors.shape != (len(sentences), self._dimension):
            raise InputError(
                f"the function returned {vectors.shape} for {len(sentences)} texts, and the golden file has vectors of "
                f"{self._dimension} dimensions",
                next_step="return one vector for each text",
            )
        return vectors

    encode_batch = encode


def refuse_to_judge(golden: Golden, manifest: Manifest, gate: Gate) -> None:
    """Refuse a golden file of other vectors, or one that is too coarse.

    Raises:
        InputError: With both values.
    """
    wanted, found = golden.facts.encoder.dimension, manifest.encoder.dimension
    if wanted != found:
        raise InputError(
            f"the golden file has vectors of {wanted} dimensions ({golden.facts.recipe}), the bundle of {found} "
            f"({manifest.recipe.name})",
            next_step="give the golden file of the bundle's checkpoint",
        )
    if golden.facts.dtype == "float16":
        refuse_too_coarse(gate)


def refuse_too_coarse(gate: Gate) -> None:
    """Refuse to judge by vectors in float16 where a gate asks for more.

    Raises:
        InputError: With the bound.
    """
    bound = gate.max_relative_error
    if bound is None or bound < _FINEST:
        raise InputError(
            f"a golden file in float16 is too coarse for a relative error of {bound}, which must be reached",
            next_step="write one in float32",
        )


def check_made_from(manifest: Manifest, golden: Golden) -> Check:
    """Compare what a manifest states of the checkpoint and of the encoder with what the golden file states."""
    stated = {**manifest.encoder.model_dump(), "weights_sha256": manifest.source.weights_sha256}
    found = {**golden.facts.encoder.model_dump(), "weights_sha256": golden.facts.source.weights_sha256}
    return check_facts(stated, found, "the golden file")


def check_token_ids(golden: Golden, tokenizer: Tokenizer) -> Check:
    """Compare the token ids that a bundle's tokenizer gives for the probes with those of the reference."""
    prompt, texts = golden.facts.encoder.prompt, [text for text, _ in golden.facts.probes]
    found = TextTokenizer(tokenizer).ids([prompt + text for text in texts])
    wrong = [row for row, ids in enumerate(golden.token_ids) if found[row] != ids]
    return Check("tokenizer", f"token ids of {len(texts)} probes", _told(wrong, texts, golden.token_ids, found))


def _told(
    wrong: Sequence[int], texts: Sequence[str], wanted: Sequence[Sequence[int]], found: Sequence[Sequence[int]]
) -> tuple[str, ...]:
    if not wrong:
        return ()
    shown = "; ".join(
        f"{texts[row][:40]!r} gives {list(found[row][:12])}, the reference has {list(wanted[row][:12])}"
        for row in wrong[:_SHOWN]
    )
    return (f"{len(wrong)} of {len(texts)} probes have other token ids: {shown}",)
