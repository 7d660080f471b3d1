"""The layout of a checkpoint folder: read and held against what can be folded, before anything of it is loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.errors import CheckpointError, UnsupportedModelError

MODULES = ("Transformer", "Pooling", "Dense", "LayerNorm", "Normalize")
MODEL_TYPES = ("albert", "bert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")

_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model", "spm.model")


@dataclass(frozen=True)
class Layout:
    """Where the parts of a checkpoint stand.

    Attributes:
        transformer: Folder of the transformer: the checkpoint's own, or ``0_Transformer`` and the like.
        places: Folder of every module, the transformer's among them, each once.
    """

    transformer: Path
    places: tuple[Path, ...]


def read_layout(folder: Path) -> Layout:
    """Read ``modules.json`` and the configuration of every module.

    A folder without ``modules.json`` is a transformer to which sentence-transformers adds mean pooling.

    Raises:
        CheckpointError: No checkpoint, a file of it is missing or unreadable, or a module stands outside the folder.
        UnsupportedModelError: A module, an architecture or an activation that cannot be folded.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    modules_file = folder / "modules.json"
    if modules_file.is_file():
        modules = [_module(folder, modules_file, entry) for entry in _read_json(modules_file, list)]
    elif (folder / "config.json").is_file():
        modules = [("Transformer", folder)]
    else:
        raise CheckpointError(
            f"{folder}: no checkpoint: neither modules.json nor config.json is there",
            next_step="give the folder that SentenceTransformer.save wrote",
        )
    for name, place in modules:
        _check_module(name, place, modules_file)
    transformer = next((place for name, place in modules if name == "Transformer"), None)
    if transformer is None:
        raise UnsupportedModelError(f"{modules_file}: no Transformer among its modules")
    _check_architecture(transformer / "config.json")
    return Layout(transformer, tuple(dict.fromkeys(place for _, place in modules)))


def _module(folder: Path, modules_file: Path, entry: Any) -> tuple[str, Path]:
    """Return the class name and the folder of one entry of ``modules.json``."""
    if not isinstance(entry, dict):
        raise CheckpointError(f"{modules_file}: expected a list of objects, found {entry!r} in it")
    kind, path = str(entry.get("type")), str(entry.get("path", ""))
    name = kind.rpartition(".")[2]
    if name not in MODULES or not kind.startswith("sentence_transformers."):
        raise UnsupportedModelError(
            f"{modules_file}: module {kind!r} cannot be folded",
            next_step=f"the modules that can: {', '.join(MODULES)}",
        )
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise CheckpointError(f"{modules_file}: module {name} stands outside the checkpoint: {path}")
    return name, folder / path


def _check_module(name: str, place: Path, modules_file: Path) -> None:
    """Refuse a module whose files are not there: sentence-transformers and transformers would make up some of them."""
    if name in {"Pooling", "Dense", "LayerNorm"}:
        if not (place / "config.json").is_file():
            raise CheckpointError(f"{modules_file}: names a {name}, and {place / 'config.json'} is not there")
        activation = _read_json(place / "config.json", dict).get("activation_function")
        if activation is not None and not str(activation).startswith("torch.nn."):
            # sentence-transformers would take Tanh instead and say so in a log: the wrong reference.
            raise UnsupportedModelError(f"{place / 'config.json'}: activation {activation!r} is not one of torch.nn")
    if name == "Transformer" and not any((place / file).is_file() for file in _TOKENIZER_FILES):
        raise CheckpointError(
            f"{place}: no tokenizer: none of {', '.join(_TOKENIZER_FILES)} is there",
            next_step="save the checkpoint again with SentenceTransformer.save",
        )
    if (place / "tokenizer.json").is_file():
        _read_json(place / "tokenizer.json", dict)


def _check_architecture(config_file: Path) -> None:
    config = _read_json(config_file, dict)
    if "auto_map" in config:
        raise UnsupportedModelError(f"{config_file}: the model is code on the hub (auto_map), which is never run")
    if config.get("model_type") not in MODEL_TYPES:
        raise UnsupportedModelError(
            f"{config_file}: architecture {config.get('model_type')!r} cannot be folded",
            next_step=f"the ones that can: {', '.join(MODEL_TYPES)}",
        )


def _read_json(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(content, kind):
        raise CheckpointError(f"{path}: expected a JSON {kind.__name__}, found {type(content).__name__}")
    return content
