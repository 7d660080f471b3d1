"""Which keys of a checkpoint's JSON files a loader may see.

transformers and sentence-transformers pass on most of what these files hold: to constructors, to loaders of weights, to
the hub. So a file can name other weights, another tokenizer or a kernel to download. Here each file has a list of the
keys that are read; the private copy of the file holds these and no others.

A key is one of four kinds:

* known: copied, and where the list says so, only with certain values;
* of no effect on a sentence vector (dropout of a classifier, the name of the folder it was trained in): left out;
* steering a loader (``*_kwargs``, ``*_args``, a path, code): the checkpoint is refused, unless the value says nothing;
* unknown: left out, and told.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import CONFIG_MAPPING

from exporter.errors import CheckpointError, UnsupportedModelError

MODEL_TYPES = ("albert", "bert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")

# Values that decide nothing. transformers and sentence-transformers write many keys out with them.
_NOTHING: tuple[Any, ...] = (None, False, "", [], {})

_STEERING = re.compile(
    r".*(_kwargs|_args|_paths?|_files?|_dirs?|_folders?|_repo|_repo_id|_plan|_implementation)"
    r"|adapter.*|auto_map|backend|code_revision|compression_config|custom_pipelines|device_map|distributed_config"
    r"|allow_all_kernels|fusion_config|init_inputs|kernel_config|key_mapping|kwargs|name_or_path|per_layer_config"
    r"|quantization_config|revision|state_dict|subfolder|tokenizer_name_or_path|transformers_weights"
    r"|trust_remote_code|use_kernels|use_safetensors|variant|weights_only"
)


@dataclass(frozen=True)
class Rules:
    """What one kind of JSON file may hold.

    Attributes:
        known: Keys that are copied.
        values: Keys that are copied if they have one of these values; with another one the checkpoint is refused.
        without_effect: Keys that are left out without a word.
        text: Known keys whose strings may hold a slash: they are text, never a path or the name of a repository.
        kinds: What the value of a known key must be, by the names of ``_KINDS``. None is legal for each.
    """

    known: frozenset[str]
    values: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    without_effect: frozenset[str] = frozenset()
    text: frozenset[str] = frozenset()
    kinds: Mapping[str, str] = field(default_factory=dict)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _is_text_or_texts(value: Any) -> bool:
    return _is_text(value) or (_is_texts(value) and bool(value) and len(set(value)) == len(value))


def _is_prompts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_number(value: Any) -> bool:
    return type(value) in {int, float} and value > 0


_KINDS: Mapping[str, Callable[[Any], bool]] = {
    "a text": _is_text,
    "a list of texts": _is_texts,
    "a text or a list of different texts": _is_text_or_texts,
    "an object of texts": _is_prompts,
    "true or false": _is_flag,
    "a positive integer": _is_size,
    "a positive number": _is_number,
}


def select_keys(content: Mapping[str, Any], rules: Rules, where: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the part of a JSON object that loaders may see, and the names of its unknown keys.

    Args:
        content: The object as the checkpoint has it.
        rules: What this kind of file may hold.
        where: The file, for messages.

    Raises:
        CheckpointError: A key steers a loader, or a known key has a value of the wrong type or one that is not
            followed here.
        UnsupportedModelError: The file names code on the hub.
    """
    seen: dict[str, Any] = {}
    unknown: list[str] = []
    for key, value in content.items():
        if key in rules.values:
            _check_value(key, value, rules.values[key], where)
            seen[key] = value
        elif key in rules.known:
            if key not in rules.text:
                _check_no_path(key, value, where)
            _check_kind(key, value, rules.kinds.get(key), where)
            seen[key] = value
        elif key in rules.without_effect:
            continue
        elif _STEERING.fullmatch(key):
            _check_says_nothing(key, value, where)
        else:
            unknown.append(key)
    return seen, tuple(unknown)


def transformer_rules(model_type: object, where: str) -> Rules:
    """Return the rules of a transformer's ``config.json``: the fields of its own class in transformers.

    Raises:
        UnsupportedModelError: The architecture cannot be folded.
    """
    if model_type not in MODEL_TYPES:
        raise UnsupportedModelError(
            f"{where}: architecture {model_type!r} cannot be folded",
            next_step=f"the ones that can: {', '.join(MODEL_TYPES)}",
        )
    kind = CONFIG_MAPPING[model_type]
    fields = {entry.name for entry in dataclasses.fields(kind)} | set(kind.attribute_map)
    return Rules(
        known=frozenset(fields | {"model_type", "tokenizer_class"}) - _TRANSFORMER_WITHOUT_EFFECT,
        values=_TRANSFORMER_VALUES,
        without_effect=_TRANSFORMER_WITHOUT_EFFECT,
    )


def hidden_size(config: Mapping[str, Any]) -> Any:
    """Return the width of a token's vector that a transformer's ``config.json`` states, or its class's default."""
    kind = CONFIG_MAPPING[config["model_type"]]
    own = kind.attribute_map.get("hidden_size", "hidden_size")
    return config.get(own, config.get("hidden_size", getattr(kind(), own)))


def _check_value(key: str, value: Any, legal: tuple[Any, ...], where: str) -> None:
    # By type as well: for Python 0 is False and 1 is True.
    if not any(value == one and type(value) is type(one) for one in legal):
        shown = " or ".join(repr(one) for one in legal)
        raise CheckpointError(
            f"{where}: {key} is {value!r}, and only {shown} can be exported",
            next_step="export a checkpoint that does not need it",
        )


def _check_kind(key: str, value: Any, kind: str | None, where: str) -> None:
    if kind is not None and value is not None and not _KINDS[kind](value):
        shown = repr(value)
        raise CheckpointError(
            f"{where}: {key} is {shown if len(shown) <= 40 else shown[:40] + '…'}, and must be {kind}",
            next_step="correct it, or save the checkpoint again with SentenceTransformer.save",
        )


def _check_no_path(key: str, value: Any, where: str) -> None:
    texts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    for text in texts:
        if isinstance(text, str) and ("/" in text or "\\" in text):
            raise CheckpointError(
                f"{where}: {key} is {text!r}, which is a path or the name of a repository",
                next_step="remove the key where the model does not need it",
            )


def _check_says_nothing(key: str, value: Any, where: str) -> None:
    if any(value == nothing and type(value) is type(nothing) for nothing in _NOTHING):
        return
    if key == "auto_map":
        raise UnsupportedModelError(f"{where}: the model is code on the hub (auto_map), which is never run")
    raise CheckpointError(
        f"{where}: the key {key!r} tells a library what to load or how, and is not followed",
        next_step="remove the key where the model does not need it; weights and tokenizer come from the folder's own "
        "files",
    )


_TRANSFORMER_VALUES: Mapping[str, tuple[Any, ...]] = {
    "add_cross_attention": (False, None),
    "is_decoder": (False, None),
    "is_encoder_decoder": (False, None),
    "position_embedding_type": ("absolute", None),
    "chunk_size_feed_forward": (0, None),
    "attn_implementation": ("sdpa", "eager", None),
    "_attn_implementation": ("sdpa", "eager", None),
}
_TRANSFORMER_WITHOUT_EFFECT = frozenset(
    {
        # what transformers notes of a checkpoint's origin
        *("_commit_hash", "_name_or_path", "finetuning_task", "name_or_path", "torch_dtype", "transformers_version"),
        # heads and losses
        *("id2label", "label2id", "num_labels", "_num_labels", "problem_type", "task_specific_params"),
        # what a call returns: sentence-transformers asks for what it needs
        *("output_attentions", "output_hidden_states", "return_dict", "torchscript", "use_return_dict"),
        # written by old versions, read by none
        *("directionality", "down_scale_factor", "gap_size", "gradient_checkpointing", "net_structure_type"),
        *("num_memory_blocks", "output_past", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers"),
        *("pooler_size_per_head", "pooler_type", "tie_weights_"),
    }
)

_TEXT_ONLY = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}

SENTENCE_BERT = Rules(
    known=frozenset({"max_seq_length", "do_lower_case"}),
    values={
        "transformer_task": ("feature-extraction",),
        "modality_config": (_TEXT_ONLY,),
        "module_output_name": ("token_embeddings",),
        "query_length": (None,),
        "document_length": (None,),
        "query_expansion": (None,),
    },
    without_effect=frozenset({"unpad_inputs"}),  # of FlashAttention alone
    kinds={"do_lower_case": "true or false"},  # max_seq_length is compared with the tables, in facts.py
)

SENTENCE_TRANSFORMERS = Rules(
    known=frozenset({"__version__", "default_prompt_name", "prompts", "requirements", "similarity_fn_name"}),
    values={"model_type": ("SentenceTransformer",), "truncate_dim": (None,)},
    text=frozenset({"default_prompt_name", "prompts"}),
    kinds={"default_prompt_name": "a text", "prompts": "an object of texts", "similarity_fn_name": "a text"},
)

POOLING_FLAGS = (
    "pooling_mode_cls_token",
    "pooling_mode_max_tokens",
    "pooling_mode_mean_tokens",
    "pooling_mode_mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens",
    "pooling_mode_lasttoken",
)

MODULES = {
    "Pooling": Rules(
        known=frozenset(
            {"embedding_dimension", "word_embedding_dimension", "pooling_mode", "include_prompt", *POOLING_FLAGS}
        ),
        kinds={
            "embedding_dimension": "a positive integer",
            "word_embedding_dimension": "a positive integer",
            "pooling_mode": "a text or a list of different texts",
            **dict.fromkeys(("include_prompt", *POOLING_FLAGS), "true or false"),
        },
    ),
    "Dense": Rules(
        known=frozenset(
            {
                *("in_features", "out_features", "bias", "activation_function"),
                *("module_input_name", "module_output_name", "use_residual"),
            }
        ),
        kinds={
            **dict.fromkeys(("bias", "use_residual"), "true or false"),
            **dict.fromkeys(("activation_function", "module_input_name", "module_output_name"), "a text"),
        },
    ),
    "LayerNorm": Rules(known=frozenset({"dimension"})),
    "Normalize": Rules(known=frozenset({"module_input_name", "module_output_name"})),
}

MODULE_ENTRY = Rules(known=frozenset({"idx", "name", "path", "type"}), text=frozenset({"path"}))

TOKENS = frozenset(
    {
        *("bos_token", "cls_token", "eos_token", "mask_token", "pad_token", "sep_token", "unk_token"),
        *("additional_special_tokens", "extra_special_tokens"),
    }
)
_TOKENIZER_SETTINGS = frozenset(
    {
        *("add_prefix_space", "clean_up_tokenization_spaces", "do_lower_case", "errors", "keep_accents", "legacy"),
        *("max_length", "max_len", "model_input_names", "model_max_length", "pad_to_multiple_of"),
        *("pad_token_type_id", "padding_side", "remove_space", "stride", "strip_accents"),
        *("tokenize_chinese_chars", "tokenizer_class", "trim_offsets", "truncation_side", "truncation_strategy"),
    }
)

TOKENIZER = Rules(
    known=TOKENS | _TOKENIZER_SETTINGS | {"added_tokens_decoder"},
    values={
        "backend": ("tokenizers", None),
        "do_basic_tokenize": (True, None),
        "never_split": (None, []),
        "split_special_tokens": (False, None),  # tokenizer.json cannot say it
    },
    # save_pretrained of transformers 4 wrote paths of the author's machine into most checkpoints. No loader sees them.
    without_effect=frozenset(
        {
            *("merges_file", "name_or_path", "special_tokens_map_file", "tokenizer_file", "vocab_file"),
            *("is_local", "local_files_only", "use_fast"),
        }
    ),
    text=TOKENS | {"added_tokens_decoder"},
    kinds={
        **dict.fromkeys(("padding_side", "truncation_side", "tokenizer_class"), "a text"),
        **dict.fromkeys(("model_max_length", "max_len", "max_length"), "a positive number"),
        **dict.fromkeys(("do_lower_case", "strip_accents", "tokenize_chinese_chars"), "true or false"),
        "model_input_names": "a list of texts",
    },
)

SPECIAL_TOKENS = Rules(known=TOKENS, text=TOKENS)
