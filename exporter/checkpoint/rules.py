"""Which keys of a JSON file a loader may see: what rules are, and how they are applied.

transformers and sentence-transformers pass on most of what a checkpoint's files hold: to constructors, to loaders of
weights, to the hub. So a file can name other weights, another tokenizer or a kernel to download. Here each kind of file
has rules (``configuration.py``); the private copy of the file holds the keys that they know and no others.

A key is one of four kinds:

* known: copied, and where the rules say so, only with certain values;
* without effect on a sentence vector (dropout of a classifier, the folder it was trained in): left out;
* steering a loader (``*_kwargs``, ``*_args``, a path, code): the checkpoint is refused, unless the value says nothing;
* unknown: left out, and reported; the checkpoint is refused where such a key would name a special token.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from exporter.errors import CheckpointError, UnsupportedModelError, quoted

# Values that decide nothing. transformers and sentence-transformers write many keys out with them.
_NOTHING: tuple[Any, ...] = (None, False, "", [], {})

_STEERING = re.compile(
    r".*(_kwargs|_args|_paths?|_files?|_dirs?|_folders?|_repo|_repo_id|_plan|_implementation)"
    r"|adapter.*|auto_map|backend|code_revision|compression_config|custom_pipelines|device_map|distributed_config"
    r"|allow_all_kernels|fusion_config|init_inputs|kernel_config|key_mapping|kwargs|name_or_path|per_layer_config"
    r"|quantization_config|revision|state_dict|subfolder|tokenizer_name_or_path|transformers_weights"
    r"|trust_remote_code|use_kernels|use_safetensors|variant|weights_only"
)


# transformers 5 makes special tokens of them, whatever stands before the ending.
_TOKEN = re.compile(r".*_tokens?")


@dataclass(frozen=True)
class Rules:
    """What one kind of JSON file may hold.

    Attributes:
        known: Keys that are copied.
        values: Keys that are copied if they have one of these values; with another one the checkpoint is refused.
        without_effect: Keys that are left out without a word.
        text: Known keys whose strings may hold a slash: they are text, never a path or the name of a repository.
        names_tokens: Whether a loader makes a special token of any key that ends in ``_token``. Unknown ones change how
            text is split, and are refused.
        kinds: What the value of a known key must be, by the names of ``_KINDS``. None is legal for each.
    """

    known: frozenset[str]
    values: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    without_effect: frozenset[str] = frozenset()
    text: frozenset[str] = frozenset()
    kinds: Mapping[str, str] = field(default_factory=dict)
    names_tokens: bool = False


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


_KINDS: Mapping[str, Callable[[Any], bool]] = {
    "a text": lambda value: isinstance(value, str),
    "a list of texts": _is_texts,
    "a text or a list of different texts": lambda value: (
        isinstance(value, str) or (_is_texts(value) and 0 < len(value) == len(set(value)))
    ),
    "an object of texts": lambda value: isinstance(value, dict) and _is_texts(list(value.values())),
    "true or false": lambda value: isinstance(value, bool),
    "a positive integer": lambda value: type(value) is int and value > 0,
    "a positive number": lambda value: type(value) in {int, float} and value > 0,
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
            if rules.names_tokens and _TOKEN.fullmatch(key):
                _check_names_no_token(key, value, where)
            unknown.append(key)
    return seen, tuple(unknown)


def _check_value(key: str, value: Any, legal: tuple[Any, ...], where: str) -> None:
    # By type as well: for Python 0 is False and 1 is True.
    if not any(value == one and type(value) is type(one) for one in legal):
        shown = " or ".join(repr(one) for one in legal)
        raise CheckpointError(
            f"{where}: {key} is {quoted(value)}, and only {shown} can be exported",
            next_step="export a checkpoint that does not need it",
        )


def _check_kind(key: str, value: Any, kind: str | None, where: str) -> None:
    if kind is not None and value is not None and not _KINDS[kind](value):
        raise CheckpointError(
            f"{where}: {key} is {quoted(value)}, and must be {kind}",
            next_step="correct it, or save the checkpoint again with SentenceTransformer.save",
        )


def _check_no_path(key: str, value: Any, where: str) -> None:
    texts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    for text in texts:
        if isinstance(text, str) and ("/" in text or "\\" in text):
            raise CheckpointError(
                f"{where}: {key} is {quoted(text)}, which is a path or the name of a repository",
                next_step="remove the key if the model does not need it",
            )


def _check_names_no_token(key: str, value: Any, where: str) -> None:
    if not value or not isinstance(value, (str, list, dict)):
        return  # a setting, as add_bos_token is
    raise CheckpointError(
        f"{where}: the key {quoted(key)} makes a special token of {quoted(value)}, which is not supported",
        next_step="remove the key if the model does not need it",
    )


def _check_says_nothing(key: str, value: Any, where: str) -> None:
    if any(value == nothing and type(value) is type(nothing) for nothing in _NOTHING):
        return
    if key == "auto_map":
        raise UnsupportedModelError(f"{where}: the model is code on the hub (auto_map), which is never run")
    raise CheckpointError(
        f"{where}: the key {quoted(key)} controls what a library loads, and such keys are not supported",
        next_step="remove the key if the model does not need it; weights and tokenizer come from the folder's own "
        "files",
    )
