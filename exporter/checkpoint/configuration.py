"""What each of a checkpoint's JSON files may hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from exporter.checkpoint.rules import Rules
from exporter.dependencies import release_of
from exporter.errors import MissingDependencyError, UnsupportedModelError, quoted

MODEL_TYPES = (
    *("albert", "bert", "camembert", "deberta-v2", "distilbert", "electra", "eurobert", "gemma3_text", "gte"),
    *("jina_embeddings_v3", "modernbert", "mpnet", "nomic_bert", "qwen3", "roberta", "roformer", "t5", "xlm-roberta"),
)
RECENT = (
    *("deberta-v2", "eurobert", "gemma3_text", "gte", "jina_embeddings_v3", "modernbert", "nomic_bert", "qwen3"),
    *("roformer", "t5"),
)
RECENT_NEEDS = {"torch": "2.13", "transformers": "5.23"}
"""Older exporters write a graph of ``RECENT`` architectures that is wrong, or that the proof cannot follow.

The package asks for no less, but GPU images come with a torch of their own that pip is told to leave alone.
"""
DECODERS = ("gemma3_text", "qwen3")
"""Language models that embedders are made of: their checkpoints may name the class with the head."""
RELATIVE_POSITIONS = (
    *("eurobert", "gemma3_text", "gte", "jina_embeddings_v3", "modernbert", "nomic_bert", "qwen3", "roformer"),
)
"""Architectures whose positions are rotations or distances: no table has a row for each."""
WITHOUT_POSITIONS = ("t5",)
"""Architectures whose class has no ``max_position_embeddings``: what ``config.json`` says of it is not read."""

_ROPE = ("rope_theta", "rope_scaling")
_READ_BUT_NO_FIELD: Mapping[str, tuple[str, ...]] = {
    "deberta-v2": ("embedding_size", "norm_rel_ebd", "position_buckets", "share_att_key"),
    "eurobert": _ROPE,
    "gemma3_text": (*_ROPE, "rope_local_base_freq", "sliding_window_pattern"),
    "modernbert": ("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta", "rope_scaling"),
    "qwen3": _ROPE,
    "t5": ("tie_word_embeddings",),
}
"""Keys of ``config.json`` that transformers reads although they are no fields of its class."""

_TRANSFORMER_VALUES: Mapping[str, tuple[Any, ...]] = {
    "add_cross_attention": (False, None),
    "is_causal": (False, None),  # transformers heeds it, although it is no field of these classes
    "is_decoder": (False, None),
    "is_encoder_decoder": (False, None),
    "position_embedding_type": ("absolute", None),
    "chunk_size_feed_forward": (0, None),
    "attn_implementation": ("sdpa", "eager", None),
    "_attn_implementation": ("sdpa", "eager", None),
}
_VALUES_OF: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "deberta-v2": {"conv_kernel_size": (0,)},  # a convolution over tokens
    "t5": {"is_encoder_decoder": (True, False, None)},  # its encoder alone is loaded
}
_TRANSFORMER_WITHOUT_EFFECT = frozenset(
    {
        # what transformers notes of a checkpoint's origin
        *("_commit_hash", "_name_or_path", "finetuning_task", "name_or_path", "torch_dtype", "transformers_version"),
        # heads and losses
        *("id2label", "label2id", "num_labels", "_num_labels", "pooler_hidden_size", "problem_type"),
        "task_specific_params",
        # what a call returns: sentence-transformers asks for what it needs
        *("output_attentions", "output_hidden_states", "return_dict", "torchscript", "use_return_dict"),
        # written by old versions, read by none
        *("directionality", "down_scale_factor", "gap_size", "gradient_checkpointing", "net_structure_type"),
        *("num_memory_blocks", "output_past", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers"),
        *("pooler_size_per_head", "pooler_type", "tie_weights_"),
        # T5 and Gemma write what they derive from other keys; T5 also has keys of its decoder
        *("_sliding_window_pattern", "dense_act_fn", "is_gated_act", "n_positions", "scale_decoder_outputs"),
    }
)


def transformer_rules(model_type: object, where: str) -> Rules:
    """Return the rules of a transformer's ``config.json``: the fields of its own class in transformers are known.

    Raises:
        UnsupportedModelError: The architecture cannot be folded.
        MissingDependencyError: It needs newer packages than those that are installed.
    """
    rules = transformer_rules_without_class(model_type, where)
    kind = _class_of(str(model_type))
    fields = {entry.name for entry in dataclasses.fields(kind)} | set(kind.attribute_map)
    fields |= {"model_type", "tokenizer_class", *_READ_BUT_NO_FIELD.get(str(model_type), ())}
    return dataclasses.replace(rules, known=frozenset(fields) - _TRANSFORMER_WITHOUT_EFFECT)


def transformer_rules_without_class(model_type: object, where: str) -> Rules:
    """Return ``transformer_rules`` without known keys: importing the class that has them imports torch.

    They refuse nothing that ``transformer_rules`` accept, as no class has a field that steers a loader.

    Raises:
        UnsupportedModelError: The architecture cannot be folded.
        MissingDependencyError: It needs newer packages than those that are installed.
    """
    if model_type not in MODEL_TYPES:
        raise UnsupportedModelError(
            f"{where}: architecture {quoted(model_type)} cannot be folded",
            next_step=f"use one of {', '.join(MODEL_TYPES)}",
        )
    _require_versions(str(model_type), where)
    return Rules(
        known=frozenset(),
        values={**_TRANSFORMER_VALUES, **_VALUES_OF.get(str(model_type), {})},
        without_effect=_TRANSFORMER_WITHOUT_EFFECT,
    )


def missing_versions(model_type: str) -> list[str]:
    """Return what an architecture needs and is not installed, such as ``"torch 2.13 (2.10.0 is installed)"``."""
    needed = RECENT_NEEDS if model_type in RECENT else {}
    return [
        f"{package} {lowest} ({version(package)} is installed)"
        for package, lowest in needed.items()
        if release_of(version(package)) < release_of(lowest)
    ]


def _require_versions(model_type: str, where: str) -> None:
    if missing := missing_versions(model_type):
        raise MissingDependencyError(
            f"{where}: architecture {quoted(model_type)} needs newer versions: {', '.join(missing)}",
            next_step=f"pip install -U {' '.join(f'{package}>={lowest}' for package, lowest in RECENT_NEEDS.items())}",
        )


def _class_of(model_type: str) -> Any:
    """Return the class of an architecture's configuration in transformers."""
    from transformers import CONFIG_MAPPING  # noqa: PLC0415 - imports torch

    return CONFIG_MAPPING[model_type]


def own_names(model_type: str) -> Mapping[str, str]:
    """Return what an architecture calls sizes that have another standard name, by these names."""
    names: Mapping[str, str] = _class_of(model_type).attribute_map
    return names


def hidden_size(config: Mapping[str, Any]) -> Any:
    """Return the width of a token's vector that a transformer's ``config.json`` states, or its class's default."""
    kind = _class_of(config["model_type"])
    own = kind.attribute_map.get("hidden_size", "hidden_size")
    return config.get(own, config.get("hidden_size", getattr(kind(), own)))


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
    known=frozenset(
        {"__version__", "default_prompt_name", "prompts", "requirements", "similarity_fn_name", "truncate_dim"}
    ),
    values={"model_type": ("SentenceTransformer",)},
    text=frozenset({"default_prompt_name", "prompts"}),
    kinds={
        "default_prompt_name": "a text",
        "prompts": "an object of texts",
        "similarity_fn_name": "a text",
        "truncate_dim": "a positive integer",
    },
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
    names_tokens=True,
    kinds={
        **dict.fromkeys(("padding_side", "truncation_side", "tokenizer_class"), "a text"),
        **dict.fromkeys(("model_max_length", "max_len", "max_length"), "a positive number"),
        **dict.fromkeys(("do_lower_case", "strip_accents", "tokenize_chinese_chars"), "true or false"),
        "model_input_names": "a list of texts",
    },
)

SPECIAL_TOKENS = Rules(known=TOKENS, text=TOKENS, names_tokens=True)
