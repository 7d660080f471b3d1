"""Recipe: what to export, what it must turn out to be, and what it must prove.

A recipe is frozen data read from one YAML file. Unknown keys are refused with the nearest legal name, so that a
misspelt gate is an error and not a gate that never ran.
"""

from __future__ import annotations

import difflib
import math
import os
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from exporter.errors import RecipeError
from exporter.files import read_text

PoolingMode = Literal["cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


class _Frozen(BaseModel):
    """Immutable data with no room for unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Expectations(_Frozen):
    """What the checkpoint must turn out to be. ``None`` means that nothing is expected.

    Attributes:
        architecture: Class name of the transformer, for example ``"AlbertModel"``.
        pooling: Pooling modes, in the order they are concatenated.
        dimension: Length of a sentence vector.
        max_seq_length: Tokens per sentence, special tokens included; what is longer is truncated.
        do_lower_case: Whether text is lower-cased before the vocabulary is consulted.
    """

    architecture: str | None = None
    pooling: tuple[PoolingMode, ...] | None = None
    dimension: int | None = Field(default=None, ge=1)
    max_seq_length: int | None = Field(default=None, ge=1)
    do_lower_case: bool | None = None


class Range(_Frozen):
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


class Shapes(_Frozen):
    """Batch and sequence extents the engine must serve. ``sequence=None`` means up to the model's own maximum."""

    batch: Range = Range(min=1, opt=32, max=128)
    sequence: Range | None = None


class Gate(_Frozen):
    """The least a candidate must reach against the FP32 PyTorch reference.

    Cosines are per probe, in float64. A bound of ``None`` (null in a recipe) is not judged; one that a recipe leaves
    out keeps its default. A bound called ``max_...`` is an upper bound, any other is a lower one.

    Attributes:
        min_cosine: Smallest cosine between a candidate row and its reference row.
        p01_cosine: First percentile of those cosines.
        mean_cosine: Mean of those cosines.
        min_centered_cosine: Smallest cosine after the mean reference vector is taken from both sides. It judges the
            difference relative to how far apart sentences are, which the plain cosine of a narrow cone does not.
        max_relative_error: Largest ``|candidate - reference| / |reference|`` (Euclidean).
        max_mean_error: Mean of these errors over the probes. It also holds where the bound of a single probe is
            widened (see ``max_widening``).
        max_norm_error: Largest ``| |candidate| / |reference| - 1 |``. Cosines do not see a factor.
        max_norm_bias: Distance from 1 of the mean ``|candidate| / |reference|`` over the probes: rounding makes some
            vectors longer and others shorter, a factor makes all of them longer.
        neighbor_identity: Share of probes whose nearest reference vector is their own (equal token ids tie). Only the
            probes are counted whose nearest other reference vector is farther away than ``rounding_distance``: the
            order of two texts that are nearer than that is a matter of luck, which a sound export may not have.
        mean_neighbor_overlap: Mean share of a text's ten nearest that stay among the ten nearest.
        min_neighbor_overlap: The smallest such share.
        max_similarity_drift: Largest change of any pairwise cosine between two probes.
        max_batch_deviation: Largest relative difference between a sentence encoded alone and in a ragged batch.
        max_mean_format_ratio: Largest ratio of the mean relative error to the mean relative error that PyTorch itself
            makes in the same number format on the same probes.
        max_format_ratio: The same of single probes: of the largest relative error to PyTorch's largest.
        max_widening: How many times what ``min_cosine``, ``min_centered_cosine`` and ``max_relative_error`` allow a
            probe may lose at most, where the format itself loses much on that probe. The bound of such a probe is
            ``max_format_ratio`` times the distance that PyTorch loses on it. At 1 no bound is ever widened.
        max_emulator_ratio: Largest ratio of the mean ``|candidate - emulated| / |emulated|`` to the mean relative error
            of the emulator, where int8 was emulated. Both compute with the same integers; what is left are roundings to
            int8 that a difference in the last digit of float32 has turned over, and faults.
        max_spearman_drop: Largest loss of Spearman's correlation on an STS set, in points (x100).
    """

    min_cosine: float = Field(le=1.0)
    p01_cosine: float | None = Field(default=None, le=1.0)
    mean_cosine: float | None = Field(default=None, le=1.0)
    min_centered_cosine: float | None = Field(default=None, le=1.0)
    max_relative_error: float | None = Field(default=None, gt=0)
    max_mean_error: float | None = Field(default=None, gt=0)
    max_norm_error: float | None = Field(default=None, gt=0)
    max_norm_bias: float | None = Field(default=None, gt=0)
    neighbor_identity: float = Field(default=1.0, ge=0, le=1)
    mean_neighbor_overlap: float | None = Field(default=None, ge=0, le=1)
    min_neighbor_overlap: float | None = Field(default=None, ge=0, le=1)
    max_similarity_drift: float | None = Field(default=None, gt=0)
    max_batch_deviation: float | None = Field(default=None, gt=0)
    max_mean_format_ratio: float | None = Field(default=None, gt=0)
    max_format_ratio: float | None = Field(default=None, gt=0)
    max_widening: float = Field(default=1.0, ge=1)
    max_emulator_ratio: float | None = Field(default=None, gt=0)
    max_spearman_drop: float = Field(default=0.1, ge=0)

    @property
    def rounding_distance(self) -> float:
        """How far ``min_cosine`` lets a vector move, as the distance between two vectors of length 1."""
        return math.sqrt(max(2 - 2 * self.min_cosine, 0.0))

    def weaker_bounds(self, minimum: Gate) -> tuple[str, ...]:
        """Return the names of the bounds in which this gate allows more than ``minimum`` does.

        A bound that ``minimum`` has and this gate lacks is among them.
        """
        return tuple(name for name in type(self).model_fields if self._stricter(name, minimum) != getattr(self, name))

    def tightened(self, other: Gate) -> Gate:
        """Return a gate with the stricter of the two bounds, for every bound."""
        return Gate.model_validate({name: self._stricter(name, other) for name in type(self).model_fields})

    def _stricter(self, name: str, other: Gate) -> float | None:
        """Return the stricter of two bounds. A bound called ``max_...`` is an upper bound, any other is a lower one."""
        bounds = [bound for bound in (getattr(self, name), getattr(other, name)) if bound is not None]
        choose = min if name.startswith("max_") else max
        return choose(bounds, default=None)


class Gates(_Frozen):
    """One gate per precision."""

    # The bounds are set from measurements. "sound" is the worst of all sound exports: the demo, the demo with Dense and
    # Normalize, all-MiniLM-L6-v2 and the five small twins (all probes), with onnxruntime and openvino on the CPU. Rows
    # with a * also hold for four full-size twins (a tenth of the probes; two in bfloat16). "fault" is the smallest
    # seeded fault at fp32 (tests/FAULTS.md): GELU by its tanh form, and a mask that is ignored for the batch deviation.
    #
    #                              sound fp32  fault  sound fp16  sound bf16
    #     1 - min cosine *            8.6e-12  2.5e-8      8.2e-6      1.3e-3
    #     1 - min centred cosine *    9.7e-12  3.7e-8      9.3e-6      1.5e-3
    #     max relative error *         4.1e-6  2.2e-4      4.1e-3      5.2e-2
    #     mean relative error          1.0e-6              1.3e-3      1.5e-2
    #     norm error                   7.8e-7              1.1e-3      1.1e-2
    #     norm bias                    1.5e-8              8.4e-5      1.3e-3
    #     1 - mean neighbour overlap   1.4e-5              4.2e-3      2.5e-2
    #     1 - min neighbour overlap       0.1                 0.3         0.3
    #     similarity drift *           1.2e-6  1.6e-4      2.5e-3      2.8e-2
    #     batch deviation *            2.0e-6    0.47      2.3e-6      7.1e-3
    #
    # Relative to PyTorch in the same format, on the same probes: the mean error of a sound engine is at most 0.86 times
    # PyTorch's in float16 and 1.20 times in bfloat16, its largest error at most 0.93 and 1.20 times (1.24 over one
    # probe in 16). In bfloat16 two full-size twins come to 1 - min centred cosine 3.9e-3 and 4.6e-3 on a processor with
    # AVX512_BF16, where PyTorch's own bfloat16 comes to 3.3e-3 and 3.8e-3: there the bound of these texts is widened.
    fp32: Gate = Gate(
        min_cosine=0.999999,
        min_centered_cosine=0.99999999,
        max_relative_error=2e-5,
        max_mean_error=1e-5,
        max_norm_error=1e-5,
        max_norm_bias=2e-6,
        mean_neighbor_overlap=0.999,
        min_neighbor_overlap=0.8,
        max_similarity_drift=2e-5,
        max_batch_deviation=2e-5,
    )
    fp16: Gate = Gate(
        min_cosine=0.9999,
        min_centered_cosine=0.9998,
        max_relative_error=1.5e-2,
        max_mean_error=5e-3,
        max_norm_error=4e-3,
        max_norm_bias=5e-4,
        mean_neighbor_overlap=0.98,
        min_neighbor_overlap=0.5,
        max_similarity_drift=1e-2,
        max_batch_deviation=1e-2,
        max_mean_format_ratio=1.5,
        max_format_ratio=2.0,
    )
    bf16: Gate = Gate(
        min_cosine=0.999,
        min_centered_cosine=0.997,
        max_relative_error=0.1,
        max_mean_error=4e-2,
        max_norm_error=3e-2,
        max_norm_bias=5e-3,
        mean_neighbor_overlap=0.93,
        min_neighbor_overlap=0.3,
        max_similarity_drift=0.1,
        max_batch_deviation=5e-2,
        max_mean_format_ratio=1.5,
        max_format_ratio=2.0,
        max_widening=2.0,
    )
    # For int8 the cosines are what a user notices, not what sound code reaches: real weights come to 0.98 where they
    # are treated well and to 0.44 where they are not, with the same code. What a fault is, is told by the emulator:
    #
    #                                    sound int8                               mask that adds -6
    #                                    small twins   demo          MiniLM        twin  demo  MiniLM
    #     difference from the emulator   0.00 to 0.13  0.03 to 0.13  0.20 to 0.40  0.75  0.16    0.67
    #     max relative error             0.11          0.13          0.18
    #     mean relative error            0.043         0.072         0.097
    #     norm error                     0.024         0.062         4e-7
    #     norm bias                                    4.7e-3        1e-8
    #     1 - mean neighbour overlap     0.045         0.051         0.133
    #     1 - min neighbour overlap      0.3           0.3           0.5
    #     batch deviation                2e-7          0             2e-7
    #     batch deviation, dynamic       0.063         0.070         0.112
    #
    # The difference is a multiple of what the emulator itself loses, and grows with the number of layers. The faults:
    # the output multiplied by 100, Normalize dropped, one head zeroed, one output dimension zero, positions that
    # restart at 128, a mask that adds -6. All are caught but the mask on the demo, which moves a vector by less than
    # int8 itself does.
    #
    # Static int8 may depend on the batch all the same: 0.0273 and 0.0153 were seen with openvino on another processor,
    # 0 on the one of these measurements. Where an engine sums in another order when the batch has another shape, the
    # last digit of a float32 turns a rounding to int8 over, and later layers make that as large: engine and emulator,
    # which differ by nothing else, come to 0.02 (demo) and 0.11 (MiniLM) on single probes. Dynamic int8 takes its
    # scales from the batch, and depends on it by design.
    int8: Gate = Gate(
        min_cosine=0.97,
        p01_cosine=0.98,
        mean_cosine=0.99,
        max_relative_error=0.3,
        max_mean_error=0.15,
        max_norm_error=0.15,
        mean_neighbor_overlap=0.8,
        min_neighbor_overlap=0.2,
        max_batch_deviation=0.05,
        max_norm_bias=0.02,
        max_emulator_ratio=0.6,
        max_spearman_drop=0.3,
    )
    int8_dynamic: Gate = int8.model_copy(update={"max_batch_deviation": 0.2})

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:
        """Complete a recipe's gate with that gate's defaults: to name one bound is not to drop the rest."""
        if not isinstance(given, dict):
            return given
        defaults = {name: field.default.model_dump() for name, field in cls.model_fields.items()}
        return {
            name: {**defaults[name], **gate} if name in defaults and isinstance(gate, dict) else gate
            for name, gate in given.items()
        }

    def of(self, precision: str) -> Gate:
        """Return the gate of ``precision`` (a name of this class's fields)."""
        gate: Gate = getattr(self, precision)
        return gate


class PrecisionOptions(_Frozen):
    """What the user decides about one reduced precision.

    Attributes:
        keep_fp32: Module names (or their beginnings, as the report prints them) that stay float32.
    """

    keep_fp32: tuple[str, ...] = ()


class Int8Options(_Frozen):
    """What the user decides about int8.

    Attributes:
        exclude: Names of modules, or their prefixes, that are not quantized. ``int8.json`` lists the names.
    """

    exclude: tuple[str, ...] = ()


class Precisions(_Frozen):
    """Options per reduced precision."""

    fp16: PrecisionOptions = PrecisionOptions()
    bf16: PrecisionOptions = PrecisionOptions()
    int8: Int8Options = Int8Options()
    int8_dynamic: Int8Options = Int8Options()


class PublishedScore(_Frozen):
    """A score the checkpoint's authors state, for the model card and for whoever has the weights and the data."""

    dataset: str
    metric: Literal["spearman", "pearson"]
    value: float = Field(description="x100, as cards print it")


class KnownAnswer(_Frozen):
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


class KnownIds(_Frozen):
    """The token ids of one text, special tokens included: checked against the tokenizer before anything is exported.

    Attributes:
        text: The text.
        ids: Its ids, by another tool than transformers.
    """

    text: str
    ids: tuple[int, ...]


class Recipe(_Frozen):
    """What to export and what it must prove.

    Attributes:
        name: The name of the recipe, and of the folder that its bundles are written to.
        source: Hub id, or a folder (relative to the recipe file).
        revision: Branch, tag or commit on the hub.
    """

    name: str = Field(pattern=r"^\w[\w.-]*$")
    source: str
    revision: str | None = None
    summary: str = ""
    license: str | None = None
    expect: Expectations = Expectations()
    shapes: Shapes = Shapes()
    gates: Gates = Gates()
    precision: Precisions = Precisions()
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


class Source(_Frozen):
    """What a bundle was made from.

    Attributes:
        checkpoint: A hub id, a folder among the recipes that ship, or the name of another folder.
        commit: Commit on the hub, or None for a folder.
        weights_sha256: One hash over all weight files.
        files: SHA-256 of every file that was loaded, by its name in the checkpoint: weights, configuration, tokenizer.
        pooling: Pooling modes that were asked for because the checkpoint states none, or None.
    """

    checkpoint: str
    commit: str | None
    weights_sha256: str
    files: dict[str, str]
    pooling: tuple[str, ...] | None = None


def recipes_folder() -> Path:
    """Return the folder of the recipes that ship: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def ships(folder: Path) -> bool:
    """Whether a folder is among the recipes that ship."""
    return folder.is_dir() and folder.resolve().is_relative_to(recipes_folder().resolve())


def list_recipes() -> list[Recipe]:
    """Return every recipe that ships, by name."""
    return [load_recipe(path) for path in sorted(recipes_folder().glob("*.yaml"))]


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from a YAML file.

    Raises:
        RecipeError: The file cannot be read, is no YAML mapping, has an unknown key or an impossible value.
    """
    try:
        recipe = Recipe.model_validate(_read_mapping(path))
    except ValidationError as error:
        raise RecipeError(f"{path}: {_explain(error)}") from error
    recipe._home = path.parent
    return recipe


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(read_text(path))
    except OSError as error:
        raise RecipeError(f"{path}: the recipe cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise RecipeError(f"{path}: not YAML: {_one_line(error)}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of keys, this is {type(content).__name__}")
    return content


class _GatesFile(_Frozen):
    """A YAML file with gates alone, as a recipe states them."""

    gates: Gates


def load_gates(path: Path) -> Gates:
    """Read gates from a YAML file that has one key, ``gates``, as recipes have it.

    Raises:
        RecipeError: The file cannot be read, is no YAML mapping, has an unknown key or an impossible value.
    """
    try:
        return _GatesFile.model_validate(_read_mapping(path)).gates
    except ValidationError as error:
        raise RecipeError(f"{path}: {_explain(error)}", next_step="a file of gates has one key, gates") from error


def named_recipe(recipe: str) -> Recipe:
    """Return a recipe by its file or, where there is no such file, by the name of one that ships.

    Raises:
        RecipeError: It is neither, or the file is not a recipe.
    """
    names = sorted(path.stem for path in recipes_folder().glob("*.yaml"))
    if recipe in names and not Path(recipe).is_file():
        return load_recipe(recipes_folder() / f"{recipe}.yaml")
    if not Path(recipe).is_file():
        raise RecipeError(f"{recipe}: neither a file nor a built-in recipe", next_step=f"use one of {', '.join(names)}")
    return load_recipe(Path(recipe))


def find_recipe(model: str) -> Recipe:
    """Return the recipe ``model`` names: a shipped one, or one made up for a local folder or a hub id.

    Without a recipe nothing is expected of the checkpoint and the default gates apply.

    Raises:
        RecipeError: ``model`` is none of the three; the nearest shipped names are told.
    """
    names = sorted(path.stem for path in recipes_folder().glob("*.yaml"))
    if model in names:
        return load_recipe(recipes_folder() / f"{model}.yaml")
    if os.path.isdir(model):  # noqa: PTH112 - False, not an error, for a name that no folder can have
        return Recipe(name=_slug(Path(model).resolve().name), source=str(Path(model).resolve()))
    if _looks_like_hub_id(model):
        return Recipe(name=_slug(model.rsplit("/", 1)[-1]), source=model)
    close = difflib.get_close_matches(model, names, n=3, cutoff=0.4)
    raise RecipeError(
        f"{model!r} is neither a recipe nor a folder nor a hub id (owner/name)",
        next_step=f"did you mean {' or '.join(close)}?"
        if close
        else f"use one of {', '.join(names)}, a folder or owner/name",
    )


def _looks_like_hub_id(model: str) -> bool:
    owner, slash, name = model.partition("/")
    return bool(slash and owner and name) and "/" not in name and not model.startswith((".", "~"))


def _slug(name: str) -> str:
    kept = "".join(c if c.isalnum() or c in "._-" else "-" for c in name).strip("-._")
    return kept or "model"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _explain(error: ValidationError) -> str:
    """Turn pydantic's list of complaints into sentences that name the nearest legal key."""
    return "; ".join(_explain_one(detail) for detail in error.errors())


def _explain_one(detail: Any) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] != "extra_forbidden":
        return f"{where}: {detail['msg'].removeprefix('Value error, ')}" if where else str(detail["msg"])
    legal = _legal_keys(detail["loc"][:-1])
    close = difflib.get_close_matches(str(detail["loc"][-1]), legal, n=1, cutoff=0.5)
    return f"{where}: unknown key" + (f", did you mean {close[0]!r}?" if close else f" (legal: {', '.join(legal)})")


def _legal_keys(path: tuple[str | int, ...]) -> list[str]:
    """Return the keys allowed at ``path`` by walking the models' annotations."""
    model: type[BaseModel] = Recipe
    for part in path:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        if field is None:
            return []
        model = next((m for m in _models_in(field.annotation) if m), model)
    return sorted(model.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in _models_in(argument)]
