"""What is read from a loaded reference: its modules, its sizes, and the tokenizer that a bundle will carry."""

from __future__ import annotations

from typing import Any

from optimum.utils import NormalizedConfigManager, NormalizedTextConfig
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from exporter.checkpoint.layout import check_order, check_prompt_is_pooled
from exporter.checkpoint.limits import refuse_more_tokens, refuse_no_room
from exporter.checkpoint.parameters import Equality
from exporter.checkpoint.reference import Checkpoint
from exporter.checkpoint.snapshot import Snapshot
from exporter.checkpoint.tokenizer_anchor import build_anchor, splits_first
from exporter.checkpoint.weights import hash_of, hash_of_parameter
from exporter.errors import CheckpointError, UnsupportedModelError, quoted
from exporter.runtime.facts import EncoderFacts

_NO_LIMIT = 2**20  # tokens; transformers gives a tokenizer whose files state no limit 10^30


def read_facts(
    model: SentenceTransformer,
    snapshot: Snapshot,
    *,
    source: str,
    source_name: str,
    commit: str | None,
    equality: Equality,
    max_seq_length: int | None = None,
) -> Checkpoint:
    """Return a loaded model with its facts.

    Args:
        model: Loaded from the snapshot.
        snapshot: The files it was loaded from.
        source: Where they came from, for messages: a hub id or a folder.
        source_name: What a bundle calls it.
        commit: Commit on the hub, or None for a folder.
        equality: What was found equal to the weight files.
        max_seq_length: Tokens per sentence that are asked for; by default the checkpoint's own limit.

    Raises:
        InputError: ``max_seq_length`` is more than the checkpoint serves, or leaves no room for text.
        CheckpointError: The modules or the configuration contradict each other.
        UnsupportedModelError: A module or a tokenizer that a bundle cannot carry.
    """
    names = tuple(type(module).__name__ for module in model)
    check_order(names, source)
    transformer, pooling = model[0], model[1]
    check_prompt_is_pooled(pooling.include_prompt, source)
    if not isinstance(transformer.tokenizer, PreTrainedTokenizerFast):
        raise UnsupportedModelError(
            f"{source}: its tokenizer {type(transformer.tokenizer).__name__} is not one of the tokenizers library, and "
            "a bundle can carry no other",
            next_step="correct tokenizer_class in tokenizer_config.json, or save tokenizer.json",
        )
    config = transformer.auto_model.config
    _check_ids(transformer, source)
    if pooling.embedding_dimension != config.hidden_size:
        raise CheckpointError(
            f"{source}: Pooling states embedding_dimension {pooling.embedding_dimension}, and config.json states "
            f"hidden_size {config.hidden_size}",
            next_step="correct it in the config.json of Pooling",
        )
    _refuse_lengths_in_rotation(config, source)
    sizes = _sizes_of(config)
    backend = transformer.tokenizer.backend_tokenizer
    own_max_seq_length = _limit_by_positions(model, source)
    if max_seq_length is not None:
        _limit_as_asked(model, max_seq_length, source)
    longest = int(model.max_seq_length)
    modes = pooling.pooling_mode
    default = model.default_prompt_name
    truncate_dim = model.truncate_dim
    if truncate_dim is not None:  # set apart: the graph, and the reference that judges it, have all dimensions
        model.truncate_dim = None
    dimension = int(model.get_embedding_dimension())
    return Checkpoint(
        model=model,
        source=source,
        source_name=source_name,
        commit=commit,
        weights_sha256=hash_of(snapshot.files, snapshot.weight_names()),
        files=snapshot.files,
        stated_pooling=snapshot.stated_pooling,
        equality=equality,
        parameter_hashes={
            name: hash_of_parameter(tensor) for name, tensor in (*model.named_parameters(), *model.named_buffers())
        },
        ignored_keys=snapshot.ignored,
        decisions=_decisions(snapshot, equality, longest, own_max_seq_length),
        anchor=build_anchor(snapshot.transformer, lower_case=snapshot.lower_case, max_seq_length=longest),
        tokenizer=_bundle_tokenizer(model, longest),
        facts=EncoderFacts(
            architecture=type(transformer.auto_model).__name__,
            modules=names,
            pooling=(modes,) if isinstance(modes, str) else tuple(modes),
            dimension=dimension,
            max_seq_length=longest,
            do_lower_case=backend.normalizer is not None and backend.normalizer.normalize_str("KOREA") == "korea",
            prompt=model.prompts[default] if default else "",
            prompts=dict(model.prompts),
            similarity=model.similarity_fn_name,
            truncate_dim=None if truncate_dim is None else min(truncate_dim, dimension),
            layers=int(sizes.num_layers),
            heads=int(sizes.num_attention_heads),
            hidden_size=int(sizes.hidden_size),
        ),
        own_max_seq_length=own_max_seq_length,
        has_token_types=getattr(config, "type_vocab_size", 0) > 0,
        pad_token_id=int(transformer.tokenizer.pad_token_id),
    )


def _check_ids(transformer: Any, source: str) -> None:
    """Refuse a token that has no row in the table of word vectors: PyTorch fails there, and OpenVINO reads a row."""
    rows = int(transformer.auto_model.get_input_embeddings().num_embeddings)
    token, number = max(transformer.tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    if number >= rows:
        raise CheckpointError(
            f"{source}: its tokenizer gives ids beyond the rows of its embedding table: {quoted(token)} has the id "
            f"{number}, and there are {rows} rows",
            next_step="check that tokenizer and weights belong together",
        )


def _sizes_of(config: Any) -> Any:
    """Return layers, heads and width of a transformer, by optimum's names or by those that transformers maps to."""
    try:
        return NormalizedConfigManager.get_normalized_config_class(config.model_type)(config)
    except KeyError:  # an architecture newer than optimum
        return NormalizedTextConfig(config)


def _refuse_lengths_in_rotation(config: Any, source: str) -> None:
    """Refuse rotations that change with the length of a batch: a sentence would depend on what stands beside it."""
    rope = getattr(config, "rope_parameters", None) or {}
    parts = [part for part in (rope, *rope.values()) if isinstance(part, dict)]
    for kind in (str(part.get("rope_type", "default")) for part in parts):
        if kind in {"dynamic", "longrope"}:
            raise UnsupportedModelError(
                f"{source}: rope_type {kind} makes a vector depend on the other sentences of its batch, and cannot be "
                "folded"
            )


def _limit_by_positions(model: SentenceTransformer, source: str) -> int:
    """Let the reference truncate at what its positions serve, where the checkpoint asks for more or nothing.

    Returns the tokens per sentence that the checkpoint serves.

    A limit of the checkpoint's own is left alone, so that a mistake here does not change what judges an export.
    """
    capacity = _capacity(model[0].auto_model)
    wanted = model.max_seq_length
    special = model[0].tokenizer.num_special_tokens_to_add()
    if wanted is not None and (not isinstance(wanted, int) or wanted <= special):
        raise CheckpointError(
            f"{source}: max_seq_length is {quoted(wanted)}, which leaves no room for text beside {special} special "
            "tokens",
            next_step="correct it in sentence_bert_config.json",
        )
    if capacity is None and (wanted is None or wanted > _NO_LIMIT):
        raise CheckpointError(
            f"{source}: nothing limits how many tokens it takes",
            next_step="set max_seq_length in sentence_bert_config.json",
        )
    if capacity is not None and (wanted is None or wanted > capacity):
        model.max_seq_length = capacity
    return int(model.max_seq_length)


def _limit_as_asked(model: SentenceTransformer, wanted: int, source: str) -> None:
    """Let the reference truncate earlier than the checkpoint states."""
    refuse_more_tokens(wanted, int(model.max_seq_length), source)
    refuse_no_room(wanted, model[0].tokenizer.num_special_tokens_to_add(), source)
    model.max_seq_length = wanted


def _capacity(transformer: Any) -> int | None:
    """Return how many tokens the positions of a transformer serve; None for relative positions without an end.

    RoBERTa and its kin number positions from ``padding_idx + 1``: a table of 514 serves 512 tokens. Where positions are
    rotations or distances, the configuration says what the model was made for.
    """
    table = getattr(getattr(transformer, "embeddings", None), "position_embeddings", None)
    if table is None:
        stated = getattr(transformer.config, "max_position_embeddings", None)
        return None if stated is None else int(stated)
    offset = table.padding_idx + 1 if table.padding_idx is not None else 0
    return int(table.num_embeddings) - offset


def _bundle_tokenizer(model: SentenceTransformer, max_seq_length: int) -> Tokenizer:
    """Return a copy of the tokenizer that truncates, lower-cases and pads by itself as the reference does."""
    wrapped = model[0].tokenizer
    tokenizer = Tokenizer.from_str(wrapped.backend_tokenizer.to_str())
    tokenizer.enable_truncation(max_seq_length, direction=wrapped.truncation_side)
    tokenizer.enable_padding(
        direction=wrapped.padding_side,
        pad_id=wrapped.pad_token_id,
        pad_token=wrapped.pad_token,
    )
    return tokenizer


def _decisions(snapshot: Snapshot, equality: Equality, longest: int, own: int) -> tuple[str, ...]:
    """Return what a manifest tells of the loading."""
    told = [f"checkpoint: {equality.tensors} tensors, {equality.weights:,} weights equal to the files, bit for bit"]
    if snapshot.stated_pooling is not None:
        told.append(f"no modules.json: {' and '.join(snapshot.stated_pooling)} pooling, as asked for")
    if longest < own:
        told.append(f"max_seq_length {longest} of {own}, as asked for")
    if splits_first(snapshot.transformer):
        told.append(
            "tokenizer: transformers splits at whitespace first, so whitespace at the end of a text is no token"
        )
    if snapshot.ignored:
        told.append(f"left out of the configuration, unknown: {', '.join(snapshot.ignored)}")
    return tuple(told)
