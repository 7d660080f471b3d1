"""What a recipe holds: what to export, and what it must turn out to be. Its gates are in ``gates.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from exporter.recipe.gates import Frozen, Gates

NAME = r"^\w[\w.-]*$"
"""What the name of a recipe or a bundle looks like: it is the name of a folder, and nothing leads out of it."""

PoolingMode = Literal["cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


class Expectations(Frozen):
    """What the checkpoint must turn out to be. ``None`` means that nothing is expected.

    Attributes:
        architecture: Class name of the transformer, for example ``"AlbertModel"``.
        pooling: Pooling modes, in the order they are concatenated.
        dimension: Length of a sentence vector.
        max_seq_length: Tokens per sentence, special tokens included; what is longer is truncated.
        do_lower_case: Whether text is lower-cased before the vocabulary is consulted.
        modules: Class names of the modules, in order, for example ``[Transformer, Pooling, Normalize]``.
        prompts: Prompts that the checkpoint must have, by name, with their texts. It may have others.
    """

    architecture: str | None = None
    pooling: tuple[PoolingMode, ...] | None = None
    dimension: int | None = Field(default=None, ge=1)
    max_seq_length: int | None = Field(default=None, ge=1)
    do_lower_case: bool | None = None
    modules: tuple[str, ...] | None = None
    prompts: dict[str, str] | None = None


class Range(Frozen):
    """The extent of one dynamic axis, as engines with optimization profiles want it."""

    min: int = Field(default=1, ge=1)
    opt: int = Field(ge=1)
    max: int = Field(ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.min <= self.opt <= self.max:
            message = f"wants min <= opt <= max, has {self.min}, {self.opt}, {self.max}"
            raise ValueError(message)
        return self


class Shapes(Frozen):
    """Batch and sequence extents the engine must serve. ``sequence=None`` means up to the model's own maximum."""

    batch: Range = Range(min=1, opt=32, max=128)
    sequence: Range | None = None


class PrecisionOptions(Frozen):
    """What the user decides about one reduced precision.

    Attributes:
        keep_fp32: Module names (or their beginnings, as the report prints them) that stay float32.
    """

    keep_fp32: tuple[str, ...] = ()


class Int8Options(Frozen):
    """What the user decides about int8.

    Attributes:
        exclude: Names of modules, or their prefixes, that are not quantized. ``int8.json`` lists the names.
    """

    exclude: tuple[str, ...] = ()


class Precisions(Frozen):
    """Options per reduced precision."""

    fp16: PrecisionOptions = PrecisionOptions()
    bf16: PrecisionOptions = PrecisionOptions()
    int8: Int8Options = Int8Options()
    int8_dynamic: Int8Options = Int8Options()


class PublishedScore(Frozen):
    """A score the checkpoint's authors state, for the model card and for whoever has the weights and the data."""

    dataset: str
    metric: Literal["spearman", "pearson", "ndcg@10", "mean of tasks"]
    value: float = Field(description="x100, as cards print it")


class KnownAnswer(Frozen):
    """Vectors the checkpoint's authors print: checked against the reference before anything is exported.

    Attributes:
        sentences: The sentences that were encoded.
        first: The first numbers of each vector.
        last: The last numbers of each vector.
        cosine: Cosine between the first two vectors.
        tolerance: Largest absolute difference of any number; printed figures carry about 8 digits.
    """

    sentences: tuple[str, ...]
    first: tuple[tuple[float, ...], ...]
    last: tuple[tuple[float, ...], ...]
    cosine: float
    tolerance: float = 1e-4

    @model_validator(mode="after")
    def _complete(self) -> Self:
        rows = {len(self.sentences), len(self.first), len(self.last)}
        if len(rows) > 1 or len(self.sentences) < 2:
            message = "wants as many rows in first and in last as there are sentences, and two or more of each"
            raise ValueError(message)
        if len({len(row) for row in self.first}) > 1 or len({len(row) for row in self.last}) > 1:
            message = "wants rows of one length in first, and rows of one length in last"
            raise ValueError(message)
        return self


class KnownIds(Frozen):
    """The token ids of one text, special tokens included: checked against the tokenizer before anything is exported.

    Attributes:
        text: The text.
        ids: Its ids, by another tool than transformers.
    """

    text: str
    ids: tuple[int, ...]


class Recipe(Frozen):
    """What to export and what it must prove.

    Attributes:
        name: The name of the recipe, and of the folder that its bundles are written to.
        source: Hub id, or a folder (relative to the recipe file).
        revision: Branch, tag or commit on the hub.
        license: Of the weights: its SPDX identifier, or the name that the model card gives to another one.
        languages: Codes of ISO 639; ``mul`` stands for many.
        parameters: How many numbers the checkpoint's weights are.
        truncate_dims: Dimensions to which vectors will be truncated (Matryoshka), besides that of the checkpoint. Each
            is judged by the gates.
        proven_on: Of recipes that ship: what korsbert's tests export. ``weights``: the checkpoint's. ``rounded``:
            these, rounded to 4 bits. ``twin``: seeded weights, with the checkpoint's architecture, kind of tokenizer
            and files. A manifest does not repeat it.
    """

    name: str = Field(pattern=NAME)
    source: str
    revision: str | None = None
    summary: str = ""
    license: str | None = None
    languages: tuple[str, ...] = ()
    parameters: int | None = Field(default=None, ge=1)
    expect: Expectations = Expectations()
    shapes: Shapes = Shapes()
    gates: Gates = Gates()
    precision: Precisions = Precisions()
    truncate_dims: tuple[Annotated[int, Field(ge=1)], ...] = ()
    proven_on: Literal["weights", "rounded", "twin"] | None = Field(default=None, exclude=True)
    published: tuple[PublishedScore, ...] = ()
    known_answer: KnownAnswer | None = None
    known_ids: tuple[KnownIds, ...] = ()

    _home: Path | None = PrivateAttr(default=None)  # the folder of the file it was read from

    @model_validator(mode="after")
    def _sequence_fits(self) -> Self:
        limit, sequence = self.expect.max_seq_length, self.shapes.sequence
        if limit is not None and sequence is not None and sequence.max > limit:
            message = f"shapes.sequence.max {sequence.max} is above expect.max_seq_length {limit}"
            raise ValueError(message)
        return self

    def found_in(self, folder: Path) -> Self:
        """Return the same recipe as read from a file in ``folder``, where a relative ``source`` starts."""
        recipe = self.model_copy()
        recipe._home = folder
        return recipe

    def local_source(self) -> Path | None:
        """Return the folder ``source`` names, or None where it is a hub id.

        A relative path starts at the recipe's file, or, for a recipe read back from a manifest, at the recipes that
        ship. The working folder does not matter: a folder there must not take the place of a model on the hub.
        """
        path = (self._home or recipes_folder()) / self.source
        return path if path.is_dir() else None

    def source_name(self, folder: Path | None = None) -> str:
        """Return what a bundle calls the source: a hub id, a folder among the recipes that ship, or a folder's name.

        Where a folder stands on this machine is of no use to anybody else, and can tell them what is private.

        Args:
            folder: A local copy that takes the place of ``source``.
        """
        local = folder if folder is not None else self.local_source()
        if local is None:
            return self.source
        whole = local.resolve()
        return whole.relative_to(recipes_folder().resolve()).as_posix() if ships(local) else whole.name


class Source(Frozen):
    """What a bundle was made from.

    Attributes:
        checkpoint: A hub id, a folder among the recipes that ship, or the name of another folder.
        commit: Commit on the hub, or None for a folder.
        weights_sha256: One hash over all weight files.
        files: SHA-256 of every file that was loaded, by its name in the checkpoint: weights, configuration, tokenizer.
        pooling: Pooling modes that were asked for because the checkpoint states none, or None.
        max_seq_length: Tokens per sentence that were asked for, fewer than the checkpoint's own limit, or None.
    """

    checkpoint: str
    commit: str | None
    weights_sha256: str
    files: dict[str, str]
    pooling: tuple[str, ...] | None = None
    max_seq_length: int | None = None


def recipes_folder() -> Path:
    """Return the folder of the recipes that ship: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def ships(folder: Path) -> bool:
    """Whether a folder is among the recipes that ship."""
    return folder.is_dir() and folder.resolve().is_relative_to(recipes_folder().resolve())
