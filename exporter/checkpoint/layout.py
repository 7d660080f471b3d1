"""The layout of a checkpoint folder: its modules, and where the parts of each one stand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from exporter.checkpoint.configuration import MODULE_ENTRY
from exporter.checkpoint.rules import select_keys
from exporter.errors import CheckpointError, UnsupportedModelError, quoted

MODULES = ("Transformer", "Pooling", "Dense", "LayerNorm", "Normalize")
MODULES_FILE = "modules.json"

# Classes of transformers whose checkpoints answer another question than "what is this sentence's vector".
_OTHER_TASKS = {
    "ForSequenceClassification": "a classifier or a reranker",
    "ForTokenClassification": "a tagger of tokens",
    "ForQuestionAnswering": "a reader that marks answers",
    "ForMultipleChoice": "a classifier of choices",
    "ForCausalLM": "a language model that generates text",
    "LMHeadModel": "a language model that generates text",
    "ForConditionalGeneration": "a language model that generates text",
}


@dataclass(frozen=True)
class Module:
    """One entry of ``modules.json``.

    Attributes:
        name: Class name, one of ``MODULES``.
        path: Folder relative to the checkpoint, ``""`` for the checkpoint's own.
        entry: The entry as sentence-transformers reads it.
    """

    name: str
    path: str
    entry: dict[str, Any]


def read_modules(content: Any, where: Path) -> tuple[Module, ...]:
    """Return the modules that ``modules.json`` names, in order.

    Args:
        content: What the file holds.
        where: The file, for messages.

    Raises:
        CheckpointError: It is no list of modules, or a module stands outside the folder.
        UnsupportedModelError: A module that cannot be folded, or no transformer among them.
    """
    modules = tuple(_module(entry, where) for entry in content)
    for key in ("name", "path"):
        if len({str(module.entry.get(key)) for module in modules}) < len(modules):
            raise CheckpointError(
                f"{where}: two modules have the same {key}",
                next_step="save the checkpoint again with SentenceTransformer.save",
            )
    transformers = [module for module in modules if module.name == "Transformer"]
    if len(transformers) != 1:
        raise UnsupportedModelError(f"{where}: {'no' if not transformers else 'more than one'} Transformer in it")
    check_order([module.name for module in modules], str(where))
    return modules


def check_order(names: Sequence[str], where: str) -> None:
    """Refuse modules that cannot be folded, or in another order than transformer, pooling, then others.

    Args:
        names: Class names of the modules, in order.
        where: The file or the checkpoint, for messages.

    Raises:
        UnsupportedModelError: The module or the order is named.
    """
    foreign = [name for name in names if name not in MODULES]
    if foreign or tuple(names[:2]) != MODULES[:2]:
        wrong = foreign[0] if foreign else " then ".join(names)
        raise UnsupportedModelError(
            f"{where}: {wrong} cannot be folded",
            next_step=f"use a Transformer, a Pooling, then any of {', '.join(MODULES[2:])}",
        )


def check_prompt_is_pooled(include_prompt: bool, where: str) -> None:
    """Refuse a pooling that leaves the prompt out of the vector.

    Args:
        include_prompt: ``include_prompt`` of the pooling.
        where: The file or the checkpoint, for messages.

    Raises:
        UnsupportedModelError: It does.
    """
    if not include_prompt:
        raise UnsupportedModelError(
            f"{where}: Pooling with include_prompt=false cannot be folded: it leaves the prompt out of the vector, "
            "and an engine does not know which tokens the prompt is",
            next_step="use a checkpoint whose vectors include the prompt",
        )


def transformer_and_pooling() -> tuple[Module, ...]:
    """Return what ``modules.json`` would name for a transformer in the checkpoint's own folder and a pooling."""
    types = {
        "": "sentence_transformers.base.modules.transformer.Transformer",
        "1_Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    }
    return tuple(
        Module(kind.rpartition(".")[2], path, {"idx": idx, "name": str(idx), "path": path, "type": kind})
        for idx, (path, kind) in enumerate(types.items())
    )


def check_task(architectures: Any, where: str, *, may_generate: bool = False) -> None:
    """Refuse a checkpoint that was trained for another task than sentence vectors.

    Args:
        architectures: ``architectures`` of the transformer's ``config.json``.
        where: The file, for messages.
        may_generate: Whether it may be a language model: its ``modules.json`` makes an encoder of it.

    Raises:
        UnsupportedModelError: It was; the message says for which.
    """
    for architecture in architectures if isinstance(architectures, list) else []:
        for ending, task in _OTHER_TASKS.items():
            if str(architecture).endswith(ending) and not (may_generate and ending == "ForCausalLM"):
                raise UnsupportedModelError(
                    f"{where}: {architecture} is {task}, not an encoder of sentences",
                    next_step="export a sentence-transformers checkpoint",
                )


def read_json(content: bytes, kind: type, where: str) -> Any:
    """Return what a JSON file holds.

    Raises:
        CheckpointError: The bytes are no JSON, or hold another kind of value.
    """
    try:
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: not readable as JSON: {error}") from error
    if not isinstance(value, kind):
        raise CheckpointError(f"{where}: expected a JSON {kind.__name__}, found {type(value).__name__}")
    return value


def _module(entry: Any, where: Path) -> Module:
    if not isinstance(entry, dict):
        raise CheckpointError(f"{where}: expected a list of objects, found {quoted(entry)} in it")
    kind, path = str(entry.get("type")), str(entry.get("path", ""))
    name = kind.rpartition(".")[2]
    if name not in MODULES or not kind.startswith("sentence_transformers."):
        raise UnsupportedModelError(
            f"{where}: module {quoted(kind)} cannot be folded",
            next_step=f"use only {', '.join(MODULES)}",
        )
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise CheckpointError(f"{where}: module {name} is outside the checkpoint: {path}")
    seen, _ = select_keys(entry, MODULE_ENTRY, str(where))
    place = "" if path in {"", "."} else PurePosixPath(path).as_posix()
    return Module(name, place, seen | {"path": place})
