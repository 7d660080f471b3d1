"""Snapshot: a private copy of a checkpoint's files, each one read once, hashed and written in the same pass.

Everything that is loaded is loaded from the copy. So no library can open a file that is not hashed, a file that changes
meanwhile changes nothing, and a JSON file holds the keys that are followed and no others.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from exporter.checkpoint.configuration import (
    DECODERS,
    MODULES,
    POOLING_FLAGS,
    SENTENCE_BERT,
    SENTENCE_TRANSFORMERS,
    SPECIAL_TOKENS,
    TOKENIZER,
    WITHOUT_POSITIONS,
    hidden_size,
    transformer_rules,
    transformer_rules_without_class,
)
from exporter.checkpoint.headers import open_safetensors
from exporter.checkpoint.layout import (
    MODULES_FILE,
    Module,
    check_prompt_is_pooled,
    check_task,
    read_json,
    read_modules,
    transformer_and_pooling,
)
from exporter.checkpoint.rules import Rules, select_keys
from exporter.errors import CheckpointError, ExportError, UnsupportedModelError, quoted
from exporter.files import CONFIGURATION, SMALL

# In the order sentence-transformers looks for them; it takes the first.
_SENTENCE_BERT = tuple(
    f"sentence_{kind}_config.json" for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta")
)
_SENTENCE_TRANSFORMERS = "config_sentence_transformers.json"
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model", "spm.model")
_SAFE, _PICKLED = "model.safetensors", "pytorch_model.bin"
_WITH_VOCABULARY = frozenset({*_VOCABULARIES, "merges.txt", "added_tokens.json", "tokenizer_config.json"})
_CHUNK = 1 << 20  # bytes


@dataclass(frozen=True)
class Snapshot:
    """The copy.

    Attributes:
        folder: The private folder, laid out as sentence-transformers reads it. Gone when the block ends.
        transformer: Folder of the transformer in it.
        weights: Weight files of every module that has some, by the module's folder.
        files: SHA-256 of each file as the checkpoint has it, by its name relative to the checkpoint.
        ignored: Keys that were left out because nothing here knows them, as ``"config.json: key"``.
        stated_pooling: Pooling modes that were asked for because the checkpoint states none, or None.
        lower_case: Whether sentence-transformers puts lower-casing before the tokenizer's own steps.
        stated_limit: The smallest number of tokens per sentence that its JSON files state as a limit: it serves no
            more, and maybe fewer. None where they state none.
    """

    folder: Path
    transformer: Path
    weights: dict[Path, tuple[Path, ...]]
    files: dict[str, str]
    ignored: tuple[str, ...]
    stated_pooling: tuple[str, ...] | None
    lower_case: bool
    stated_limit: int | None = None

    def weight_names(self) -> list[str]:
        """Return the names of all weight files, relative to the checkpoint."""
        return [path.relative_to(self.folder).as_posix() for files in self.weights.values() for path in files]


@contextmanager
def snapshot_of(origin: Path, pooling: Sequence[str] | None = None, *, weights: bool = True) -> Iterator[Snapshot]:
    """Copy what a checkpoint consists of to a private folder, which is removed when the block ends.

    Weights that were mapped into memory from it stay readable: the system keeps a file until nobody has it open.

    Args:
        origin: The checkpoint's folder. Links are followed, as those of the hub's cache are.
        pooling: Pooling modes for a folder without ``modules.json``, which states none.
        weights: Whether it is to be loaded. If not, weights are not copied, and torch is not imported: ``config.json``
            is judged by the rules that need no class of transformers, and of safetensors only the headers are read.

    Raises:
        CheckpointError: No checkpoint there, a file of it is missing or unreadable, a key steers a loader, or nothing
            states the pooling.
        UnsupportedModelError: A module, an architecture, a task or an activation that cannot be folded.
    """
    with _private_folder(origin) as folder:
        try:
            yield _copy(origin, folder, pooling, weights=weights)
        except ExportError as error:
            raise _naming(error, str(folder), str(origin)) from error.__cause__


@contextmanager
def _private_folder(origin: Path) -> Iterator[Path]:
    """Make a temporary folder for the copy of ``origin``, and remove it when the block ends."""
    try:
        scratch = tempfile.TemporaryDirectory(prefix="korsbert-checkpoint-")
    except OSError as error:
        raise CheckpointError(
            f"{origin}: cannot create a temporary folder for a copy of it: {error.strerror or error}",
            next_step="set TMPDIR to a folder that you can write to",
        ) from error
    with scratch as name:
        yield Path(name).resolve()


def _copy(origin: Path, folder: Path, pooling: Sequence[str] | None, *, weights: bool) -> Snapshot:
    """Copy a checkpoint, and say which side failed where the system refuses to read or to write."""
    copier = _Copier(origin, folder, weights=weights)
    try:
        if not origin.is_dir():
            raise CheckpointError(f"{origin}: no such folder")
        return copier.copy(pooling)
    except OSError as error:
        if str(error.filename or "").startswith(str(origin)):
            raise CheckpointError(f"{error.filename}: cannot be read: {error.strerror or error}") from error
        raise CheckpointError(
            f"{origin}: {tempfile.gettempdir()} has no room for a copy of it ({copier.size() / 1e6:,.1f} MB or more): "
            f"{error.strerror or error}",
            next_step="free some space there, or set TMPDIR to a folder on another disk",
        ) from error


def _naming(error: ExportError, private: str, origin: str) -> ExportError:
    """Let an error name the user's folder where it names the private one."""
    error.message = error.message.replace(private, origin)
    error.args = (error.message,)
    return error


class _Copier:
    """Copies the files of a checkpoint one by one, and keeps their hashes."""

    def __init__(self, origin: Path, folder: Path, *, weights: bool) -> None:
        self._origin, self._folder, self._with_weights = origin, folder, weights
        self._files: dict[str, str] = {}
        self._ignored: list[str] = []
        self._size = 0

    def size(self) -> int:
        """Return how many bytes the files have that were copied so far, the one that is being copied included."""
        return self._size

    def copy(self, pooling: Sequence[str] | None) -> Snapshot:
        modules = self._modules(pooling)
        stated = self._exists(MODULES_FILE)
        settings: dict[str, Any] = {}
        weights: dict[Path, tuple[Path, ...]] = {}
        for module in modules:
            if module.name == "Transformer":
                config = self._transformer(module.path)
                settings = self._sentence_settings(module.path) if stated else {}
            elif stated:
                self._module(module)
            if module.name in {"Transformer", "Dense", "LayerNorm"}:
                weights[self._folder / module.path] = self._weights(module.path)
        if stated:
            self._json(_SENTENCE_TRANSFORMERS, SENTENCE_TRANSFORMERS)
        else:
            self._leave_out(_SENTENCE_TRANSFORMERS, *_SENTENCE_BERT)
            if self._with_weights:
                self._state_pooling(modules, pooling or (), hidden_size(config))
        transformer = next(module.path for module in modules if module.name == "Transformer")
        return Snapshot(
            folder=self._folder,
            transformer=self._folder / transformer,
            weights=weights,
            files=dict(sorted(self._files.items())),
            ignored=tuple(self._ignored),
            stated_pooling=None if stated else tuple(pooling or ()),
            lower_case=settings.get("do_lower_case") is True,
            stated_limit=_stated_limit(config, settings),
        )

    def _modules(self, pooling: Sequence[str] | None) -> tuple[Module, ...]:
        """Return the modules: those of ``modules.json``, or a transformer and the pooling that was asked for."""
        if self._exists(MODULES_FILE):
            content = read_json(self._copy_file(MODULES_FILE), list, self._shown(MODULES_FILE))
            modules = read_modules(content, self._origin / MODULES_FILE)
            self._write(MODULES_FILE, [module.entry for module in modules])
            return modules
        if not self._exists("config.json"):
            raise CheckpointError(
                f"{self._origin}: no checkpoint: neither modules.json nor config.json is there",
                next_step="give the folder that SentenceTransformer.save wrote",
            )
        if not pooling:
            check_task(self._read_architectures(), self._shown("config.json"))
            raise CheckpointError(
                f"{self._origin}: there is no modules.json, so the pooling is unknown: sentence-transformers would "
                "take the mean, which is wrong for a model that was trained with cls, as KoSimCSE was",
                next_step="set `pooling` (cls, mean, max, ...) to what the model was trained with",
            )
        return transformer_and_pooling()

    def _read_architectures(self) -> Any:
        self._check_small("config.json")
        content = b"".join(self._chunks("config.json"))
        return read_json(content, dict, self._shown("config.json")).get("architectures")

    def _transformer(self, place: str) -> dict[str, Any]:
        """Copy configuration and tokenizer of the transformer; return the configuration as the checkpoint has it."""
        name = _join(place, "config.json")
        where = self._shown(name)
        if not self._exists(name):
            raise CheckpointError(f"{where}: cannot be read: No such file or directory")
        if self._exists(_join(place, "adapter_config.json")):
            raise UnsupportedModelError(
                f"{self._shown(_join(place, 'adapter_config.json'))}: adapters cannot be folded",
                next_step="merge the adapter into the weights and save the checkpoint again",
            )
        content: dict[str, Any] = read_json(self._copy_file(name), dict, where)
        rules_of = transformer_rules if self._with_weights else transformer_rules_without_class
        rules = rules_of(content.get("model_type"), where)
        embedder = self._exists(MODULES_FILE) and content.get("model_type") in DECODERS
        check_task(content.get("architectures"), where, may_generate=embedder)
        self._select(name, content, rules)
        if not any(self._exists(_join(place, file)) for file in _VOCABULARIES):
            raise CheckpointError(
                f"{self._origin / place}: no tokenizer: none of {', '.join(_VOCABULARIES)} is there",
                next_step="save the checkpoint again with SentenceTransformer.save",
            )
        self._json(_join(place, "tokenizer_config.json"), TOKENIZER)
        self._json(_join(place, "special_tokens_map.json"), SPECIAL_TOKENS)
        for file in (*_VOCABULARIES, "merges.txt", "added_tokens.json"):
            if self._exists(_join(place, file)):
                data = self._copy_file(_join(place, file))
                if file in {"tokenizer.json", "added_tokens.json"}:
                    read_json(data, dict, self._shown(_join(place, file)))
        return content

    def _sentence_settings(self, place: str) -> dict[str, Any]:
        """Copy what sentence-transformers adds to a transformer: its maximum of tokens and its lower-casing."""
        for file in _SENTENCE_BERT:
            if self._exists(_join(place, file)):
                return self._json(_join(place, file), SENTENCE_BERT)
        return {}

    def _module(self, module: Module) -> None:
        """Copy the configuration of a module that follows the transformer."""
        name = _join(module.path, "config.json")
        if module.name in {"Pooling", "Dense", "LayerNorm"} and not self._exists(name):
            raise CheckpointError(
                f"{self._origin / MODULES_FILE}: names a {module.name}, and {self._shown(name)} is not there"
            )
        config = self._json(name, MODULES[module.name])
        if module.name == "Pooling":
            self._check_pooling(config, name)
            check_prompt_is_pooled(config.get("include_prompt") is not False, self._shown(name))
        activation = config.get("activation_function")
        if activation is not None and not str(activation).startswith("torch.nn."):
            # sentence-transformers would take Tanh instead and say so in a log: the wrong reference.
            raise UnsupportedModelError(f"{self._shown(name)}: activation {quoted(activation)} is not one of torch.nn")

    def _check_pooling(self, config: dict[str, Any], name: str) -> None:
        """Refuse a pooling that states no mode, or one that is not known: sentence-transformers would take the mean."""
        unknown = [key for key in self._ignored if key.startswith(f"{name}: pooling_mode")]
        if unknown or not (config.get("pooling_mode") or any(config.get(flag) for flag in POOLING_FLAGS)):
            found = f"{unknown[0].rpartition(' ')[2]} is not known" if unknown else "no pooling mode is set"
            raise CheckpointError(
                f"{self._shown(name)}: {found}, and sentence-transformers would take the mean",
                next_step="set pooling_mode there to what the model was trained with",
            )

    def _state_pooling(self, modules: Sequence[Module], modes: Sequence[str], width: Any) -> None:
        """Write what ``SentenceTransformer.save`` would have written for the pooling that was asked for."""
        self._write(MODULES_FILE, [module.entry for module in modules])
        mode = modes[0] if len(modes) == 1 else list(modes)
        self._write(_join(modules[-1].path, "config.json"), {"embedding_dimension": width, "pooling_mode": mode})

    def _leave_out(self, *names: str) -> None:
        """Note files that sentence-transformers reads only beside a ``modules.json``."""
        self._ignored += [name for name in names if self._exists(name)]

    def _weights(self, place: str) -> tuple[Path, ...]:
        """Copy the weights of one module: one format, by the order in which transformers looks for it."""
        for name in (_SAFE, f"{_SAFE}.index.json", _PICKLED, f"{_PICKLED}.index.json"):
            if self._exists(_join(place, name)):
                names = self._shards(place, name) if name.endswith(".json") else (name,)
                for file in names:
                    self._take_weights(_join(place, file))
                return tuple(self._folder / place / file for file in names)
        raise CheckpointError(f"{self._origin / place}: no weights: neither {_SAFE} nor {_PICKLED} is there")

    def _take_weights(self, name: str) -> None:
        """Copy a file of weights, or only read its header, if it has one."""
        if self._with_weights:
            self._copy_file(name, keep=False)
            return
        self._refuse_link_elsewhere(name)
        if name.endswith(".safetensors"):
            open_safetensors(self._origin / name)

    def _shards(self, place: str, index: str) -> tuple[str, ...]:
        """Copy an index of weight files; return the files it names, which must stand beside it."""
        where = self._shown(_join(place, index))
        content = read_json(self._copy_file(_join(place, index)), dict, where)
        weight_map = content.get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{where}: expected a weight_map from tensors to files")
        files = tuple(dict.fromkeys(map(str, weight_map.values())))
        ending = Path(index.removesuffix(".index.json")).suffix
        for file in files:
            if PurePosixPath(file).name != file or "\\" in file or not file.endswith(ending):
                raise CheckpointError(f"{where}: names {quoted(file)}, which is no {ending} file in the same folder")
            if not self._exists(_join(place, file)):
                raise CheckpointError(f"{where}: names {file}, which is not there", next_step="download it again")
        self._write(_join(place, index), {"metadata": {}, "weight_map": weight_map})
        return files

    def _json(self, name: str, rules: Rules) -> dict[str, Any]:
        """Copy the known keys of a JSON file; one that is not there has none."""
        if not self._exists(name):
            return {}
        return self._select(name, read_json(self._copy_file(name), dict, self._shown(name)), rules)

    def _select(self, name: str, content: dict[str, Any], rules: Rules) -> dict[str, Any]:
        seen, unknown = select_keys(content, rules, self._shown(name))
        self._ignored += [f"{name}: {key}" for key in unknown]
        self._write(name, seen)
        return seen

    def _copy_file(self, name: str, *, keep: bool = True) -> bytes:
        """Copy one file and hash it in the same pass; return its bytes, or none if they are not to be kept."""
        target = self._folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        digest, kept = hashlib.sha256(), bytearray()
        if keep:
            self._check_small(name)
        size, free = (self._origin / name).stat().st_size, shutil.disk_usage(target.parent).free
        if size > free:
            raise CheckpointError(
                f"{self._shown(name)}: {size:,} bytes do not fit into the {free:,} that are free in {target.parent}",
                next_step="set TMPDIR to a folder with enough space",
            )
        self._size += size
        with target.open("wb") as copy:
            for chunk in self._chunks(name):
                digest.update(chunk)
                copy.write(chunk)
                if keep:
                    kept += chunk
        self._files[name] = digest.hexdigest()
        return bytes(kept)

    def _check_small(self, name: str) -> None:
        """Refuse a file that is too large to be held in memory as JSON."""
        size = (self._origin / name).stat().st_size
        if size > (CONFIGURATION if PurePosixPath(name).name in _WITH_VOCABULARY else SMALL):
            raise CheckpointError(f"{self._shown(name)}: {size:,} bytes are too many for a JSON file of a checkpoint")

    def _chunks(self, name: str) -> Iterator[bytes]:
        """Read a file of the checkpoint piece by piece."""
        self._refuse_link_elsewhere(name)
        try:
            with (self._origin / name).open("rb") as source:
                while chunk := source.read(_CHUNK):
                    yield chunk
        except OSError as error:
            raise CheckpointError(f"{self._shown(name)}: cannot be read: {error.strerror or error}") from error

    def _refuse_link_elsewhere(self, name: str) -> None:
        """Refuse a link to a file outside of the folder: a bundle would carry what a stranger's link points to.

        In the hub's cache, ``snapshots/COMMIT`` has links to files in ``blobs`` beside ``snapshots``.
        """
        folder, target = self._origin.resolve(), (self._origin / name).resolve()
        caches = [place.parent / "blobs" for place in (folder, *folder.parents) if place.name == "snapshots"]
        if not any(target.is_relative_to(place) for place in (folder, *caches)):
            raise CheckpointError(
                f"{self._shown(name)}: a link to a file outside of the checkpoint, which is not read",
                next_step=f"replace it by a copy of {target}, if you trust whoever made the link",
            )

    def _write(self, name: str, content: Any) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")

    def _exists(self, name: str) -> bool:
        return (self._origin / name).is_file()

    def _shown(self, name: str) -> str:
        """Return how a message names a file of the checkpoint."""
        return str(self._origin / name)


def _stated_limit(config: Mapping[str, Any], settings: Mapping[str, Any]) -> int | None:
    """Return the smallest limit of tokens per sentence that a checkpoint states, or None."""
    positions = None if config.get("model_type") in WITHOUT_POSITIONS else config.get("max_position_embeddings")
    limits = [value for value in (positions, settings.get("max_seq_length")) if type(value) is int and value > 0]
    return min(limits, default=None)


def _join(place: str, name: str) -> str:
    return PurePosixPath(place, name).as_posix()
