"""Checkpoint: the FP32 PyTorch reference, read without running anybody's code and held against the recipe."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from optimum.utils import NormalizedConfigManager
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from exporter.checkpoint.declared_sizes import check_declared_sizes
from exporter.checkpoint.hub import download
from exporter.checkpoint.layout import MODULES
from exporter.checkpoint.snapshot import Snapshot, snapshot_of
from exporter.checkpoint.tokenizer_anchor import build_anchor
from exporter.checkpoint.weights import Equality, StoredWeights, check_parameters, hash_of
from exporter.errors import CheckpointError, ExportError, MissingDependencyError, UnsupportedModelError, first_sentence
from exporter.recipe import KnownAnswer, Recipe, Source, recipes_folder
from exporter.runtime.tokens import IntArray, TextTokenizer, batches_by_length

TOKEN_BUDGET = 2048  # tokens per batch of the reference, with padding
TRIAL = ("1", "\U00013080")  # a common sign, and a hieroglyph that vocabularies do not know


@dataclass(frozen=True)
class Checkpoint:
    """A SentenceTransformer in FP32 eval mode, whatever dtype was stored, and the facts read from it.

    Attributes:
        model: The reference.
        source: Where it came from: a hub id or the name of a folder.
        commit: Commit on the hub, or None for a folder.
        weights_sha256: One hash over all weight files, by relative name.
        files: SHA-256 of every file that was loaded, by relative name: weights, configuration and tokenizer.
        stated_pooling: Pooling modes that were asked for because the folder states none, or None.
        equality: What was found equal to the weight files, bit for bit.
        ignored_keys: Keys of the configuration that no loader saw because they are unknown here.
        decisions: What was found and decided while loading, one sentence each.
        anchor: The tokenizer by the checkpoint's own files and ``tokenizers`` alone, without transformers.
        tokenizer: The tokenizer as the bundle will carry it: truncation, lower-casing and special tokens included.
        architecture: Class name of the transformer.
        modules: Class names of the modules, in order.
        pooling: Pooling modes, in the order they are concatenated.
        dimension: Length of a sentence vector.
        max_seq_length: Tokens per sentence, special tokens included.
        do_lower_case: Whether text is lower-cased before the vocabulary is consulted.
        has_token_types: Whether the architecture embeds token types.
        pad_token_id: Id that padding is made of.
        prompt: Text that ``encode`` puts before every sentence ("" for most models).
        layers: Transformer layers (uses of the shared layer, for ALBERT).
        heads: Attention heads.
        hidden_size: Width of a token's vector.
    """

    model: SentenceTransformer
    source: str
    commit: str | None
    weights_sha256: str
    files: Mapping[str, str]
    stated_pooling: tuple[str, ...] | None
    equality: Equality
    ignored_keys: tuple[str, ...]
    decisions: tuple[str, ...]
    anchor: Tokenizer
    tokenizer: Tokenizer
    architecture: str
    modules: tuple[str, ...]
    pooling: tuple[str, ...]
    dimension: int
    max_seq_length: int
    do_lower_case: bool
    has_token_types: bool
    pad_token_id: int
    prompt: str
    layers: int
    heads: int
    hidden_size: int

    def encode(self, sentences: list[str]) -> npt.NDArray[np.float32]:
        """Return the reference vectors (len(sentences), dimension) float32, by ``SentenceTransformer.encode``.

        It is given batches of few tokens: activations that fit below the C library's threshold for memory maps (32 MB)
        are reused instead of being mapped and cleared anew by every operator, which made the demo's probes 5x slower.

        Raises:
            CheckpointError: The tokenizer knows a token that the embedding table has no row for.
        """
        rows = TextTokenizer(self.tokenizer).ids([self.prompt + sentence for sentence in sentences])
        vectors = np.empty((len(sentences), self.dimension), dtype=np.float32)
        try:
            for batch in batches_by_length([len(row) for row in rows], batch_size=32, token_budget=TOKEN_BUDGET):
                chosen = [sentences[row] for row in batch]
                vectors[batch] = self.model.encode(chosen, batch_size=len(chosen), show_progress_bar=False)
        except IndexError as error:
            raise CheckpointError(
                f"{self.source}: its tokenizer gives ids beyond the rows of its embedding table",
                next_step="check that tokenizer and weights belong together",
            ) from error
        return vectors

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The parameters of the reference by the model's own names, float32. Each was compared with the files."""
        return dict(self.model.named_parameters())

    def provenance(self) -> Source:
        """Return what a manifest says of the checkpoint."""
        return Source(
            checkpoint=self.source,
            commit=self.commit,
            weights_sha256=self.weights_sha256,
            files=dict(self.files),
            pooling=self.stated_pooling,
        )

    def encode_tokens(self, input_ids: IntArray, attention_mask: IntArray) -> npt.NDArray[np.float32]:
        """Return the reference vectors (batch, dimension) float32 of token ids, by the modules' own ``forward``.

        Token types, where the architecture has them, are 0, as for single sentences.

        Args:
            input_ids: (batch, sequence) int64.
            attention_mask: (batch, sequence) int64, 1 for tokens and 0 for padding.
        """
        features = {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(attention_mask)}
        if self.has_token_types:
            features["token_type_ids"] = torch.zeros_like(features["input_ids"])
        features = {name: values.to(self.model.device) for name, values in features.items()}
        with torch.inference_mode():
            for module in self.model:
                features = module(features)
        vectors: npt.NDArray[np.float32] = features["sentence_embedding"].float().cpu().numpy()
        return vectors

    def parameter_bytes(self) -> int:
        """Return the size of the unique parameters in bytes, as float32."""
        return sum(parameter.numel() * 4 for parameter in self.model.parameters())


def load_checkpoint(
    recipe: Recipe,
    *,
    folder: Path | None = None,
    revision: str | None = None,
    pooling: Sequence[str] | None = None,
    device: str = "cpu",
) -> Checkpoint:
    """Load the checkpoint a recipe names, prove that it is what its files hold, and compare it with the recipe.

    Args:
        recipe: What to load and what to expect.
        folder: A local copy that takes the place of the recipe's source.
        revision: Branch, tag or commit that takes the place of the recipe's.
        pooling: Pooling modes for a folder without ``modules.json``; by default those that the recipe expects.
        device: Where the reference computes, ``"cpu"`` or ``"cuda"``.

    Raises:
        CheckpointError: No checkpoint there, damaged files, pickled code, a key that steers a loader, weights that are
            missing or were loaded otherwise than the files hold them, or a disagreement with the recipe.
        UnsupportedModelError: A module, an architecture or a task that is not folded.
        HubError: The hub cannot be reached.
    """
    local, commit, source = _resolve(recipe, folder, revision)
    with snapshot_of(local, pooling or recipe.expect.pooling) as snapshot:
        # Every weight file is opened as data before a library may open it.
        stored = {place: StoredWeights(files) for place, files in snapshot.weights.items()}
        for place, weights in stored.items():
            check_declared_sizes(place, weights)
        with _told_as_checkpoint_error(snapshot.folder):
            model = _load(snapshot.folder, device)
            equality = _check_weights(model, stored)
            checkpoint = _read_facts(model, snapshot, source=source, commit=commit, equality=equality)
    _check_finite(checkpoint)
    _check_encodes(checkpoint)
    _check_pooling(checkpoint, pooling)
    _check_expectations(checkpoint, recipe)
    _check_known_ids(checkpoint, recipe)
    if recipe.known_answer is not None:
        _check_known_answer(checkpoint, recipe.known_answer)
    return checkpoint


def load_source(
    recipe: Recipe, source: Source, folder: Path | None, made_from_it: str, device: str = "cpu"
) -> Checkpoint:
    """Load the very checkpoint a bundle was made from.

    Args:
        recipe: The bundle's recipe.
        source: What its manifest says of the checkpoint.
        folder: A local copy; by default the source itself, at its commit.
        made_from_it: The bundle, for messages.
        device: Where the reference computes.

    Raises:
        CheckpointError: It cannot be loaded, or one of its files has another hash than the bundle's.
        HubError: The hub cannot be reached.
    """
    same = recipe.model_copy(update={"source": source.checkpoint})
    checkpoint = load_checkpoint(same, folder=folder, revision=source.commit, pooling=source.pooling, device=device)
    _check_same_weights(checkpoint, source, made_from_it)
    _check_same_files(checkpoint, source, made_from_it)
    return checkpoint


def _check_same_weights(checkpoint: Checkpoint, source: Source, bundle: str) -> None:
    if checkpoint.weights_sha256 != source.weights_sha256:
        raise CheckpointError(
            f"{bundle}: made from other weights than {checkpoint.source} holds: "
            f"{source.weights_sha256[:12]}… and {checkpoint.weights_sha256[:12]}…",
            next_step="give the checkpoint that it was made from with `checkpoint=FOLDER`",
        )


def _check_same_files(checkpoint: Checkpoint, source: Source, bundle: str) -> None:
    """Name the first file that the checkpoint has otherwise than the bundle's manifest says, with both hashes."""
    for name in sorted({**source.files, **checkpoint.files}):
        wanted, found = source.files.get(name), checkpoint.files.get(name)
        if wanted != found:
            shown = [f"sha256 {value[:12]}…" if value else "no such file" for value in (wanted, found)]
            raise CheckpointError(
                f"{bundle}: made from another {name} than {checkpoint.source} holds: {shown[0]} and {shown[1]}",
                next_step="give the checkpoint that it was made from with `checkpoint=FOLDER`",
            )


def _resolve(recipe: Recipe, folder: Path | None, revision: str | None) -> tuple[Path, str | None, str]:
    """Return the local folder, the commit where it is the hub's, and what a manifest calls the source."""
    local = folder if folder is not None else recipe.local_source()
    if local is None:
        path, commit = download(recipe.source, revision or recipe.revision)
        return path, commit, recipe.source
    if revision is not None and folder is None:
        raise CheckpointError(f"{local}: a local folder has no revision {revision!r}", next_step="leave out `revision`")
    shipped = recipes_folder().resolve()
    whole = local.resolve()
    return local, None, whole.relative_to(shipped).as_posix() if whole.is_relative_to(shipped) else str(whole)


def _load(folder: Path, device: str) -> SentenceTransformer:
    if device == "cuda" and not torch.cuda.is_available():
        raise MissingDependencyError("torch finds no CUDA device here", next_step="use `device=cpu`")
    with _quiet():
        model = SentenceTransformer(
            str(folder),
            device=device,
            trust_remote_code=False,
            local_files_only=True,
            # transformers 5 keeps the stored dtype unless told. Its attention is left to it: SDPA, which folds to
            # one Attention operator, for all that have it (MPNet alone has not).
            model_kwargs={"dtype": torch.float32},
        )
    return model.float().eval()


@contextmanager
def _told_as_checkpoint_error(place: Path | str, action: str = "load it") -> Iterator[None]:
    """Turn whatever a library raises over a stranger's files into one sentence.

    Raises:
        CheckpointError: A library raised an exception. Errors of this project, ``SystemExit`` and
            ``KeyboardInterrupt`` pass unchanged.
    """
    try:
        yield
    except (ExportError, SystemExit, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # a panic in Rust, which tokenizers is written in, is no Exception
        raise CheckpointError(
            f"{place}: sentence-transformers cannot {action}: {_cause(error)}",
            next_step="check its configuration and tokenizer files, or save it again with SentenceTransformer.save",
        ) from error


def _cause(error: BaseException) -> str:
    """Return what a library says of a checkpoint, in one line."""
    if "ignore_mismatched_sizes" in str(error):
        return "the weights have other shapes than config.json states"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if type(error).__name__.startswith("StrictDataclass") and len(lines) > 1:
        return f"config.json: {lines[1].partition(': ')[2]}"  # the first line ends before the reason
    return first_sentence(error) if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep progress bars, load reports and warnings from the terminal; what matters is checked here instead."""
    level = transformers_logging.get_verbosity()
    loggers = [logging.getLogger(name) for name in ("sentence_transformers", "sentence_transformers.base.model")]
    levels = [logger.level for logger in loggers]
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
        for logger, before in zip(loggers, levels, strict=True):
            logger.setLevel(before)


def _check_weights(model: SentenceTransformer, stored: Mapping[Path, StoredWeights]) -> Equality:
    """Compare the parameters of the transformer, and of each module after it, with the files in its folder."""
    total = Equality(0, 0)
    modules = [module for module in model if next(module.parameters(), None) is not None]
    for module, weights in zip(modules, stored.values(), strict=True):
        transformer = getattr(module, "auto_model", None)
        if transformer is None:
            total += check_parameters(module, weights)
        else:
            total += check_parameters(transformer, weights, transformer.base_model_prefix)
    return total


def _read_facts(
    model: SentenceTransformer, snapshot: Snapshot, *, source: str, commit: str | None, equality: Equality
) -> Checkpoint:
    names = tuple(type(module).__name__ for module in model)
    foreign = [name for name in names if name not in MODULES]
    if foreign or names[:2] != ("Transformer", "Pooling"):
        wrong = foreign[0] if foreign else " then ".join(names)
        raise UnsupportedModelError(
            f"{source}: {wrong} cannot be folded",
            next_step=f"use a Transformer, a Pooling, then any of {', '.join(MODULES[2:])}",
        )
    transformer, pooling = model[0], model[1]
    if not pooling.include_prompt:
        raise UnsupportedModelError(f"{source}: Pooling with include_prompt=false cannot be folded")
    if not isinstance(transformer.tokenizer, PreTrainedTokenizerFast):
        raise UnsupportedModelError(
            f"{source}: its tokenizer {type(transformer.tokenizer).__name__} is not one of the tokenizers library, and "
            "a bundle can carry no other",
            next_step="correct tokenizer_class in tokenizer_config.json, or save tokenizer.json",
        )
    config = transformer.auto_model.config
    if pooling.embedding_dimension != config.hidden_size:
        raise CheckpointError(
            f"{source}: Pooling states embedding_dimension {pooling.embedding_dimension}, and config.json states "
            f"hidden_size {config.hidden_size}",
            next_step="correct it in the config.json of Pooling",
        )
    sizes = NormalizedConfigManager.get_normalized_config_class(config.model_type)(config)
    backend = transformer.tokenizer.backend_tokenizer
    max_seq_length = _max_seq_length(model, source)
    model.max_seq_length = max_seq_length
    modes = pooling.pooling_mode
    default = model.default_prompt_name
    return Checkpoint(
        model=model,
        source=source,
        commit=commit,
        weights_sha256=hash_of(snapshot.files, snapshot.weight_names()),
        files=snapshot.files,
        stated_pooling=snapshot.stated_pooling,
        equality=equality,
        ignored_keys=snapshot.ignored,
        decisions=_decisions(snapshot, equality),
        anchor=build_anchor(snapshot.transformer, lower_case=snapshot.lower_case, max_seq_length=max_seq_length),
        tokenizer=_bundle_tokenizer(model, max_seq_length),
        architecture=type(transformer.auto_model).__name__,
        modules=names,
        pooling=(modes,) if isinstance(modes, str) else tuple(modes),
        dimension=int(model.get_embedding_dimension()),
        max_seq_length=max_seq_length,
        do_lower_case=backend.normalizer is not None and backend.normalizer.normalize_str("KOREA") == "korea",
        has_token_types=getattr(config, "type_vocab_size", 0) > 0,
        pad_token_id=int(transformer.tokenizer.pad_token_id),
        prompt=model.prompts.get(default, "") if default else "",
        layers=int(sizes.num_layers),
        heads=int(sizes.num_attention_heads),
        hidden_size=int(sizes.hidden_size),
    )


def _max_seq_length(model: SentenceTransformer, source: str) -> int:
    """Return the longest input the position table serves, or the shorter one the checkpoint asks for.

    RoBERTa and its kin number positions from ``padding_idx + 1``: a table of 514 serves 512 tokens.
    """
    embeddings = model[0].auto_model.embeddings
    table = embeddings.position_embeddings
    offset = table.padding_idx + 1 if table.padding_idx is not None else 0
    capacity = int(table.num_embeddings) - offset
    wanted = model.max_seq_length
    if wanted is None:
        return capacity
    special = model[0].tokenizer.num_special_tokens_to_add(pair=False)
    if not isinstance(wanted, int) or wanted <= special:
        raise CheckpointError(
            f"{source}: max_seq_length is {wanted!r}, which leaves no room for text beside {special} special tokens",
            next_step="correct it in sentence_bert_config.json",
        )
    return min(wanted, capacity)


def _bundle_tokenizer(model: SentenceTransformer, max_seq_length: int) -> Tokenizer:
    """Return a copy of the tokenizer that truncates, lower-cases and pads by itself as the reference does."""
    wrapped = model[0].tokenizer
    tokenizer = Tokenizer.from_str(wrapped.backend_tokenizer.to_str())
    tokenizer.enable_truncation(max_seq_length, strategy="longest_first", direction=wrapped.truncation_side)
    tokenizer.enable_padding(
        direction=wrapped.padding_side,
        pad_id=wrapped.pad_token_id,
        pad_type_id=wrapped.pad_token_type_id,
        pad_token=wrapped.pad_token,
    )
    return tokenizer


def _decisions(snapshot: Snapshot, equality: Equality) -> tuple[str, ...]:
    """Return what a manifest tells of the loading."""
    told = [f"checkpoint: {equality.tensors} tensors, {equality.weights:,} weights equal to the files, bit for bit"]
    if snapshot.stated_pooling is not None:
        told.append(f"no modules.json: {' and '.join(snapshot.stated_pooling)} pooling, as asked for")
    if snapshot.ignored:
        told.append(f"left out of the configuration, unknown: {', '.join(snapshot.ignored)}")
    return tuple(told)


def _check_finite(checkpoint: Checkpoint) -> None:
    """Refuse weights that no candidate could be held against: a gate would blame the export."""
    for name, parameter in checkpoint.model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise CheckpointError(f"{checkpoint.source}: the weight {name} holds NaN or Inf")


def _check_encodes(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint whose modules do not fit together, or whose vectors are not numbers."""
    with _told_as_checkpoint_error(checkpoint.source, "encode a sentence with it"):
        vectors = checkpoint.encode(list(TRIAL))
    if not np.isfinite(vectors).all():
        raise CheckpointError(
            f"{checkpoint.source}: the vector of a sentence holds NaN or Inf",
            next_step="check the numbers in its config.json, for example layer_norm_eps",
        )


def _check_expectations(checkpoint: Checkpoint, recipe: Recipe) -> None:
    """Refuse a checkpoint that is not what its recipe says, naming both values of everything that differs."""
    expected = recipe.expect.model_dump(exclude_none=True)
    wrong = [
        f"{name} is {getattr(checkpoint, name)!r}, the recipe expects {value!r}"
        for name, value in expected.items()
        if getattr(checkpoint, name) != value
    ]
    if wrong:
        raise CheckpointError(
            f"{checkpoint.source} is not what recipe {recipe.name!r} describes: {'; '.join(wrong)}",
            next_step="give the right checkpoint, or a recipe that describes this one",
        )


def _check_pooling(checkpoint: Checkpoint, asked: Sequence[str] | None) -> None:
    """Refuse a pooling that was asked for where the checkpoint states another."""
    if asked is not None and tuple(asked) != checkpoint.pooling:
        raise CheckpointError(
            f"{checkpoint.source}: its modules.json states {' and '.join(checkpoint.pooling)} pooling, and "
            f"{' and '.join(asked)} was asked for",
            next_step="leave out `pooling`: it is for folders without modules.json",
        )


def _check_known_ids(checkpoint: Checkpoint, recipe: Recipe) -> None:
    """Compare the tokenizer's ids with those that the recipe knows of some texts."""
    rows = TextTokenizer(checkpoint.tokenizer).ids([known.text for known in recipe.known_ids])
    for known, found in zip(recipe.known_ids, rows, strict=True):
        if tuple(found) != known.ids:
            raise CheckpointError(
                f"{checkpoint.source}: its tokenizer gives {found} for {known.text!r}, recipe {recipe.name!r} expects "
                f"{list(known.ids)}",
                next_step="check the revision, and that tokenizer and recipe belong together",
            )


def _check_known_answer(checkpoint: Checkpoint, known: KnownAnswer) -> None:
    """Compare the reference with the vectors its authors print, where the recipe carries them."""
    vectors = checkpoint.encode(list(known.sentences)).astype(np.float64)
    printed = np.array([[*first, *last] for first, last in zip(known.first, known.last, strict=True)])
    head, tail = len(known.first[0]), len(known.last[0])
    found = np.concatenate([vectors[:, :head], vectors[:, -tail:]], axis=1)
    cosine = float(vectors[0] @ vectors[1] / np.linalg.norm(vectors[0]) / np.linalg.norm(vectors[1]))
    worst = max(float(np.abs(found - printed).max()), abs(cosine - known.cosine))
    if worst > known.tolerance:
        raise CheckpointError(
            f"{checkpoint.source}: its vectors differ from the published ones by {worst:.2g} (> {known.tolerance:g})",
            next_step="check the revision and that the files are the authors' own",
        )
