"""Bundle: the published folder, its manifest and its hashes.

A bundle comes into being in a staging folder beside its place and is renamed there whole, so at every moment the place
holds the old bundle, the new one, or nothing; never half of one.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tokenizers import Tokenizer

from exporter.backends import BACKENDS, Engine, backend_of
from exporter.encoder import Encoder
from exporter.errors import BundleError
from exporter.recipe import Recipe, Source

FORMAT = 1
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
PARITY = "parity.json"
RECORD = "validation.json"
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100  # linux/fs.h, fcntl.h


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileFacts(_Frozen):
    """Size in bytes and SHA-256 of one file."""

    size: int
    sha256: str


class EncoderFacts(_Frozen):
    """What encoding needs to know besides the tokenizer and the engine."""

    architecture: str
    modules: tuple[str, ...]
    pooling: tuple[str, ...]
    dimension: int
    max_seq_length: int
    do_lower_case: bool
    prompt: str = ""
    layers: int
    heads: int
    hidden_size: int


class GraphFacts(_Frozen):
    """The ONNX graph the engine was built from."""

    sha256: str
    nodes: dict[str, int]
    weight_bytes: int


class QuantizationFacts(_Frozen):
    """Where the scales of an int8 graph are from.

    Attributes:
        source: A file's name, or that the sentences ship.
        sha256: Over the calibration sentences in order.
        sentences: How many scales were taken from.
        method: How ranges were chosen from what was seen.
        ranges: The file of the bundle that holds the range and the scale of every activation.
    """

    source: str
    sha256: str
    sentences: int
    method: str
    ranges: str


class Validation(_Frozen):
    """Where the gate was passed, and each of its bounds in words. All numbers are in ``parity.json``.

    ``state`` is ``"pending"`` where the engine could not be run when it was published: device is then where it will
    run, and everything else is of the graph that it was built from, judged on the CPU.
    """

    state: Literal["passed", "pending"] = "passed"
    device: Literal["cpu", "cuda"]
    execution: str
    probes_sha256: str
    min_cosine: float
    gates: tuple[str, ...]
    note: str


class Manifest(_Frozen):
    """Everything that is known of a bundle, and the hash of every file; ``seal`` is that of the manifest itself."""

    format: int = FORMAT
    recipe: Recipe
    source: Source
    encoder: EncoderFacts
    graph: GraphFacts
    engine: Engine
    quantization: QuantizationFacts | None = None
    decisions: tuple[str, ...]
    validation: Validation
    tools: dict[str, str]
    machine: dict[str, Any]
    created: str
    files: dict[str, FileFacts] = Field(default_factory=dict)
    seal: str = ""


class Record(_Frozen):
    """That a bundle passed its gate after it was published: ``validation.json``, beside the manifest and not of it.

    Attributes:
        manifest_seal: The seal of the manifest that it belongs to.
        report: The parity report as JSON data.
        machine: Where it passed.
        tools: Versions there.
        created: When, ISO 8601.
        seal: SHA-256 of the record's own canonical JSON, this field left out.
    """

    manifest_seal: str
    report: dict[str, Any]
    machine: dict[str, Any]
    tools: dict[str, str]
    created: str
    seal: str = ""


class Bundle:
    """A published folder whose files are what its manifest says.

    Attributes:
        folder: Where it is.
        manifest: What is known of it.
        record: That it passed its gate after it was published, where that is so.
    """

    def __init__(self, folder: Path, manifest: Manifest, record: Record | None = None) -> None:
        self.folder = folder
        self.manifest = manifest
        self.record = record

    @property
    def validated(self) -> bool:
        """Whether its engine has passed the gate: before it was published, or by a record since."""
        return self.manifest.validation.state == "passed" or self.record is not None

    @classmethod
    def open(cls, folder: Path) -> Bundle:
        """Read a bundle and hold every file against its hash.

        Raises:
            BundleError: No bundle, another format, or a listed file that is missing or altered; the file is named.
        """
        path = folder / MANIFEST
        manifest = read_manifest(folder)
        # What is opened later must be among what is held against its hash now.
        unlisted = {TOKENIZER, PARITY, *manifest.engine.files} - set(manifest.files)
        if unlisted or not manifest.engine.files:
            raise BundleError(
                f"{path}: does not list {', '.join(sorted(unlisted)) or 'an engine'}", next_step="export it again"
            )
        for name, facts in manifest.files.items():
            _verify(folder, name, facts)
        return cls(folder, manifest, _read_record(folder, manifest))

    def encoder(self, *, device: str | None = None, threads: int | None = None) -> Encoder:
        """Open the engine and return an encoder.

        Args:
            device: ``"cpu"`` or ``"cuda"``; by default the one the bundle was validated on.
            threads: CPU threads; by default the engine decides.

        Raises:
            BundleError: An int8 bundle is asked to run on another device than the one it is typed for.
        """
        facts, engine, home = self.manifest.encoder, self.manifest.engine, self.manifest.validation.device
        if engine.precision.startswith("int8") and device not in (None, home):
            raise BundleError(
                f"{self.folder}: its int8 is typed for the {home}, and {device} kernels want other types",
                next_step=f"export it again with --device {device}",
            )
        runner = backend_of(engine.backend).open(engine, self.folder, device or home, threads)
        return Encoder(
            Tokenizer.from_file(str(self.folder / TOKENIZER)),
            runner,
            dimension=facts.dimension,
            max_seq_length=facts.max_seq_length,
            prompt=facts.prompt,
        )

    @property
    def size_bytes(self) -> int:
        """Size of all files."""
        return sum(facts.size for facts in self.manifest.files.values())


def read_manifest(folder: Path) -> Manifest:
    """Read a bundle's manifest and hold it against its seal, without a look at the files it lists.

    Raises:
        BundleError: No manifest, another format, or one that was altered.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(f"{folder}: no bundle: there is no {MANIFEST}", next_step="korsbert-export makes one")
    try:
        content = path.read_bytes()
        _check_format(path, content)
        manifest = Manifest.model_validate_json(content)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or MANIFEST
        raise BundleError(f"{path}: not readable: {where}: {first['msg']}", next_step="export it again") from error
    if manifest.engine.backend not in BACKENDS:
        raise BundleError(f"{path}: made for the backend {manifest.engine.backend!r}, which is not known here")
    if manifest.seal != seal_of(manifest):
        raise BundleError(
            f"{path}: altered since it was published: its seal does not agree", next_step="export it again"
        )
    return manifest


def seal_of(sealed: Manifest | Record) -> str:
    """Return the SHA-256 of the canonical JSON of a manifest or a record, its seal left out."""
    return hashlib.sha256(sealed.model_dump_json(exclude={"seal"}).encode()).hexdigest()


def write_record(bundle: Bundle, record: Record) -> Bundle:
    """Write down beside a bundle's manifest that it passed its gate; returns the bundle with the record.

    Raises:
        BundleError: The folder cannot be written to.
    """
    sealed = record.model_copy(update={"manifest_seal": bundle.manifest.seal})
    sealed = sealed.model_copy(update={"seal": seal_of(sealed)})
    path = bundle.folder / RECORD
    partial = path.with_name(f".{RECORD}.partial")
    try:
        partial.write_text(sealed.model_dump_json(indent=1) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise BundleError(
            f"{path}: cannot be written: {error.strerror}", next_step="copy the bundle, then validate"
        ) from error
    return Bundle(bundle.folder, bundle.manifest, sealed)


def withdraw_record(bundle: Bundle) -> None:
    """Remove the record of a bundle that has failed its gate since."""
    (bundle.folder / RECORD).unlink(missing_ok=True)


def _read_record(folder: Path, manifest: Manifest) -> Record | None:
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        record = Record.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise BundleError(
            f"{path}: not readable as a record of validation", next_step="remove it, and validate again"
        ) from error
    if record.seal != seal_of(record) or record.manifest_seal != manifest.seal:
        raise BundleError(
            f"{path}: altered, or of another bundle: its seal does not agree", next_step="remove it, and validate again"
        )
    if record.report.get("passed") is not True:
        raise BundleError(f"{path}: records a gate that failed", next_step="remove it, and validate again")
    return record


def _check_format(path: Path, content: bytes) -> None:
    """Refuse another format by its number, before its unknown keys would be called errors."""
    try:
        stated = json.loads(content)["format"]
    except (ValueError, KeyError, TypeError):
        return  # no manifest at all: the model says what is wrong with it
    if stated != FORMAT:
        raise BundleError(f"{path}: format {stated}, this korsbert reads {FORMAT}", next_step="export it again")


def _verify(folder: Path, name: str, facts: FileFacts) -> None:
    path = folder / name
    # By the name alone: in the hub's cache the files of a bundle are links to where their content lies.
    if Path(name).name != name:
        raise BundleError(f"{folder / MANIFEST}: names a file outside the bundle: {name}")
    if not path.is_file():
        raise BundleError(f"{path}: missing, though the manifest lists it", next_step="export it again")
    try:
        altered = path.stat().st_size != facts.size or sha256_of(path) != facts.sha256
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error
    if altered:
        raise BundleError(
            f"{path}: altered since it was published: its SHA-256 is not the manifest's", next_step="export it again"
        )


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_to_replace_what_is_no_bundle(target: Path) -> None:
    """Refuse to replace a folder of files that no export has put there.

    Raises:
        BundleError: ``target`` is a folder with something in it, and no manifest.
    """
    if target.is_dir() and not (target / MANIFEST).is_file() and any(target.iterdir()):
        raise BundleError(
            f"{target}: no bundle, and --force replaces bundles only", next_step="move it away, or choose another --out"
        )


@contextmanager
def staging(target: Path, *, force: bool) -> Iterator[Path]:
    """Yield an empty folder beside ``target`` to fill; ``publish`` puts it in place.

    While it is open no other export can write to the same place. Whatever happens inside, the folder is removed at the
    end unless it was published; one that a killed process left behind is removed by the next export.

    Raises:
        BundleError: ``target`` exists and ``force`` is off, another export is writing there, the place cannot be
            written to, or the disk is full.
    """
    parent = target.parent
    lock = FileLock(parent / f".{target.name}.lock", timeout=0)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise BundleError(
            f"{target}: another export is writing there", next_step="wait for it, or use --out"
        ) from error
    except OSError as error:
        raise _cannot_write(target, error) from error
    try:
        if _aside(target).exists():
            _finish_replacement(target)
        if not force and os.path.lexists(target):
            raise BundleError(f"{target}: already there", next_step="--force replaces it, once the new one has passed")
        for left in parent.glob(f".{target.name}.staging-*"):
            _remove(left)
        with writing(target):
            folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.staging-", dir=parent))
        try:
            yield folder
        finally:
            _remove(folder)
    finally:
        lock.release()


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn what goes wrong while a bundle's files are written into a message about the place they go to."""
    try:
        yield
    except OSError as error:
        raise _cannot_write(target, error) from error
    except Exception as error:
        # tokenizers and safetensors, which are Rust, state the number of a failed write in the text of an Exception.
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None or int(number[1]) not in _NO_SPACE:
            raise
        raise _cannot_write(target, OSError(int(number[1]), str(error))) from error


def _remove(path: Path) -> None:
    """Remove a folder, or whatever a replaced bundle's place held instead of one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _cannot_write(target: Path, error: OSError) -> BundleError:
    if error.errno in _NO_SPACE:
        return BundleError(f"{target}: the disk is full", next_step="free some space, or use --out on another disk")
    return BundleError(f"{target}: cannot be written: {error.strerror or error}", next_step="choose another --out")


def publish(manifest: Manifest, folder: Path, target: Path) -> Bundle:
    """Hash, sync and rename a staged folder into place, replacing what is there.

    The swap with an existing bundle is one system call where the kernel has it (Linux ``renameat2``); elsewhere the old
    bundle is moved aside first.
    """
    files = {
        path.name: FileFacts(size=path.stat().st_size, sha256=sha256_of(path))
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST
    }
    manifest = manifest.model_copy(update={"files": files})
    manifest = manifest.model_copy(update={"seal": seal_of(manifest)})
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    umask = os.umask(0)
    os.umask(umask)
    folder.chmod(0o777 & ~umask)  # mkdtemp makes it private
    put_in_place(folder, target)
    return Bundle(target, manifest)


def put_in_place(folder: Path, target: Path) -> None:
    """Sync a folder and rename it to ``target``; what stood there is left under the folder's old name, or removed."""
    for path in (*folder.rglob("*"), folder):
        _sync(path)
    if not os.path.lexists(target):
        folder.rename(target)
    elif not _exchange(folder, target):
        target.rename(_aside(target))
        folder.rename(target)
        _remove(_aside(target))
    _sync(target.parent)


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.previous")


def _finish_replacement(target: Path) -> None:
    """Finish what a process killed between the two renames of ``publish`` left: the old bundle comes back."""
    if os.path.lexists(target):
        _remove(_aside(target))
    else:
        _aside(target).rename(target)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two paths atomically; False where the system cannot."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    done = libc.renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    return bool(done == 0)
