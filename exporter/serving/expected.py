"""What a server should answer to the probes: by a checkpoint, by a bundle itself, or by a golden file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer

from exporter.bundle import TOKENIZER, Bundle, Manifest
from exporter.errors import InputError
from exporter.golden import Golden
from exporter.golden.judging import check_made_from
from exporter.recipe import Gates
from exporter.runtime.facts import EncoderFacts
from exporter.runtime.tokens import TextTokenizer
from exporter.targets import Precision
from exporter.validator import Check, Reference
from exporter.validator.probes import probes_for
from exporter.validator.prompts import PromptVectors, named_prompts, prompt_vectors_of, sampled

Source = Literal["checkpoint", "bundle"]


@dataclass(frozen=True)
class Expected:
    """The answers that a server is compared with.

    Attributes:
        told: Whose answers they are, for people: ``"the checkpoint"``, ``"the golden file"`` or ``"the bundle"``.
        name: Name of the recipe.
        reference: The probes, and the vectors with the default prompt.
        prompts: The same with the other prompts; None where there are none.
        facts: Of the encoder.
        gates: The bounds that it states, by precision.
        truncate_dims: Dimensions below the full one that the checkpoint declares, largest first.
        checks: What was compared of the source itself.
        golden: Seal of the golden file, where there is one.
        coarse: Whether the vectors are rounded to float16.
    """

    told: str
    name: str
    reference: Reference
    prompts: PromptVectors | None
    facts: EncoderFacts
    gates: Gates
    truncate_dims: tuple[int, ...]
    checks: tuple[Check, ...] = ()
    golden: str | None = None
    coarse: bool = False


def expected_of(
    bundle: Bundle | None, checkpoint: str | None, golden: Golden | None, source: Source, precision: Precision
) -> Expected:
    """Return the answers of whatever is given.

    Args:
        bundle: Opened, if there is one.
        checkpoint: With a bundle a local copy of its checkpoint, or else what ``expected_of_model`` takes.
        golden: Answers that take the place of a checkpoint's.
        source: See ``expected_of_bundle``.
        precision: What the server computes in.

    Raises:
        InputError: Nothing is given, or the golden file and the bundle do not fit together.
        ExportError: See the other functions.
    """
    if golden is not None:
        return expected_of_golden(golden, None if bundle is None else bundle.manifest)
    if bundle is not None:
        copy = None if checkpoint is None else Path(checkpoint)
        return expected_of_bundle(bundle, source, precision, checkpoint=copy)
    if checkpoint is None:
        raise InputError("neither a bundle, nor `checkpoint`, nor `golden` is given", next_step="give one of them")
    return expected_of_model(checkpoint, precision)


def expected_of_golden(golden: Golden, manifest: Manifest | None = None) -> Expected:
    """Return the answers in a golden file.

    Args:
        golden: Its content.
        manifest: Of a bundle that should have been made from the same checkpoint; its gates count too.

    Raises:
        InputError: The bundle's vectors have another dimension.
    """
    facts = golden.facts
    checks: tuple[Check, ...] = ()
    gates = facts.gates
    if manifest is not None:
        wanted, found = facts.encoder.dimension, manifest.encoder.dimension
        if wanted != found:
            raise InputError(
                f"the golden file has vectors of {wanted} dimensions ({facts.recipe}), the bundle of {found} "
                f"({manifest.recipe.name})",
                next_step="give the golden file of the bundle's checkpoint",
            )
        checks = (check_made_from(manifest, golden),)
        own = manifest.recipe.gates
        gates = Gates(**{precision.value: gates.of(precision).tightened(own.of(precision)) for precision in Precision})
    return Expected(
        "the golden file",
        facts.recipe,
        golden.reference(None),
        golden.prompts,
        facts.encoder,
        gates,
        facts.truncate_dims,
        checks,
        golden=facts.seal,
        coarse=facts.dtype == "float16",
    )


def expected_of_bundle(
    bundle: Bundle, source: Source, precision: Precision, *, checkpoint: Path | None = None
) -> Expected:
    """Return the answers that belong to a bundle.

    Args:
        bundle: Opened; for its own answers, with its files verified for encoding.
        source: ``"checkpoint"``: what PyTorch answers with the checkpoint that it was made from. ``"bundle"``: what the
            bundle's engine answers here, without torch.
        precision: What the server computes in.
        checkpoint: A local copy of the checkpoint; by default the source in the manifest, at its commit.

    Raises:
        CheckpointError: The checkpoint cannot be loaded, or holds other weights than the bundle was made from.
        ExportError: The bundle cannot be run here.
    """
    if source == "bundle":
        return _own_answers(bundle)
    from exporter.checkpoint import load_source  # noqa: PLC0415 - imports torch
    from exporter.validator.reference import reference_of  # noqa: PLC0415 - imports torch

    manifest = bundle.manifest
    loaded = load_source(manifest.recipe, manifest.source, checkpoint, str(bundle.folder))
    reference = reference_of(loaded, precisions=(precision,))
    return Expected(
        "the checkpoint",
        manifest.recipe.name,
        reference,
        prompt_vectors_of(loaded, reference.texts),
        manifest.encoder,
        manifest.recipe.gates,
        loaded.truncate_dims(manifest.recipe.truncate_dims),
    )


def expected_of_model(model: str, precision: Precision) -> Expected:
    """Return what PyTorch answers with a checkpoint of which there is no bundle.

    Args:
        model: Name of a recipe, local folder or hub id; a bundle names its checkpoint.
        precision: What the server computes in.

    Raises:
        ExportError: The checkpoint cannot be loaded; see ``exporter.errors``.
    """
    from exporter.golden.making import load_model  # noqa: PLC0415 - imports torch
    from exporter.validator.reference import reference_of  # noqa: PLC0415 - imports torch

    loaded, recipe = load_model(model)
    reference = reference_of(loaded, precisions=(precision,))
    return Expected(
        "the checkpoint",
        recipe.name,
        reference,
        prompt_vectors_of(loaded, reference.texts),
        loaded.facts,
        recipe.gates,
        loaded.truncate_dims(recipe.truncate_dims),
    )


def _own_answers(bundle: Bundle) -> Expected:
    manifest = bundle.manifest
    facts = manifest.encoder
    tokenizer = Tokenizer.from_buffer(bundle.read(TOKENIZER))
    probes = tuple(probes_for(tokenizer, facts.max_seq_length, facts.prompt))
    texts = [probe.text for probe in probes]
    ids = TextTokenizer(tokenizer).ids([facts.prompt + text for text in texts])
    with bundle.encoder(truncate_dim=facts.dimension) as encoder:
        prompts = None
        if names := named_prompts(facts):
            chosen = list(sampled(texts))
            named = {name: encoder.encode(chosen, prompt_name=name) for name in names}
            prompts = PromptVectors(tuple(chosen), named, encoder.encode_query(chosen), encoder.encode_document(chosen))
        vectors = encoder.encode(texts)
    dimensions = {*manifest.recipe.truncate_dims, *(() if facts.truncate_dim is None else (facts.truncate_dim,))}
    return Expected(
        "the bundle",
        manifest.recipe.name,
        Reference(probes, vectors, ids, ()),
        prompts,
        facts,
        manifest.recipe.gates,
        tuple(sorted(dimensions - {facts.dimension}, reverse=True)),
    )
