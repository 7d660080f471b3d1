"""Bundle: the published folder, its manifest and its hashes.

A bundle comes into being in a staging folder beside its place and is renamed there whole, so at every moment the place
holds the old bundle, the new one, or nothing; never half of one.

Opening a bundle reads each file, compares it with its hash in the manifest, and uses the bytes that were compared: no
path is opened a second time, so a file that is replaced meanwhile changes nothing. A file that the manifest does not
list is refused, except those in ``BESIDE``.
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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tokenizers import Tokenizer

from exporter.bundle.signing import SIGNATURE, Signer, Trusted, sign, verify
from exporter.engines import BACKENDS, Engine, EngineFiles, backend_of
from exporter.errors import BundleError, first_line
from exporter.recipe import Recipe, Source
from exporter.runtime.encoder import Encoder
from exporter.targets import Device

FORMAT = 2
"""The bundle format that this version writes and opens. CONTRIBUTING.md says when it changes, and what else then."""
_OPENED_BY = {1: "development versions of korsbert before 0.1.0"}  # for every older format
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
PARITY = "parity.json"
RECORD = "validation.json"
BESIDE = frozenset(
    {
        *(MANIFEST, RECORD, SIGNATURE),
        *(f".{RECORD}.partial", f".{SIGNATURE}.partial"),  # left by a process that was killed
        *(".cache", ".git", ".gitattributes", ".gitignore"),  # of git and huggingface_hub, which nothing here reads
    }
)
"""What may be in a bundle's folder without being listed in its manifest."""
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
    device: Device
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

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        record: Record | None = None,
        contents: Mapping[str, bytes] | None = None,
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.record = record
        self._contents = dict(contents or {})  # of files that were read and verified

    @property
    def signed(self) -> bool:
        """Whether it has a signature, by whomever: ``verify_signature`` verifies it."""
        return SIGNATURE in self._contents

    @property
    def validated(self) -> bool:
        """Whether its engine has passed the gate: before it was published, or by a record since."""
        return self.manifest.validation.state == "passed" or self.record is not None

    @classmethod
    def open(
        cls, folder: Path, *, require_signature: Path | Trusted | None = None, for_encoding: bool = False
    ) -> Bundle:
        """Read a bundle and compare every file with its hash.

        Args:
            folder: Where it is.
            require_signature: Refuse the bundle unless it is signed by this: a public key or certificates (PEM).
            for_encoding: Keep the engine and the tokenizer in memory until ``encoder`` uses them, so that they are read
                once.

        Raises:
            BundleError: No bundle, another format, a file that is missing, altered or not listed (it is named), or a
                signature that is required and is not there or not valid.
            InputError: ``require_signature`` cannot be used.
            MissingDependencyError: A signature is required, and model-signing is not installed.
        """
        bundle = cls.open_manifest(folder)
        path, manifest = folder / MANIFEST, bundle.manifest
        if require_signature is not None:
            bundle.verify_signature(require_signature)
            bundle.record = None  # no signature covers it: whoever requires one validates here
        # What is opened later must be among what is held against its hash now.
        unlisted = {TOKENIZER, PARITY, *manifest.engine.files} - set(manifest.files)
        if unlisted or not manifest.engine.files:
            raise BundleError(
                f"{path}: does not list {', '.join(sorted(unlisted)) or 'an engine'}", next_step="export it again"
            )
        _refuse_unlisted(folder, manifest)
        kept = {*manifest.engine.files, TOKENIZER} if for_encoding else set()
        for name, facts in manifest.files.items():
            if name in kept:
                bundle._contents[name] = _read_verified(folder, name, facts)
            else:
                _verify(folder, name, facts)
        return bundle

    @classmethod
    def open_manifest(cls, folder: Path) -> Bundle:
        """Read a bundle's manifest, record and signature, and none of the files that the manifest lists.

        Raises:
            BundleError: No manifest, another format, or one that was altered.
        """
        path = folder / MANIFEST
        contents = {MANIFEST: _read_manifest(path)}
        manifest = _parse_manifest(path, contents[MANIFEST])
        beside = {name: _read_beside(folder / name) for name in (RECORD, SIGNATURE)}
        contents |= {name: content for name, content in beside.items() if content is not None}
        return cls(folder, manifest, _parse_record(folder / RECORD, contents.get(RECORD), manifest), contents)

    def encoder(self, *, device: str | None = None, threads: int | None = None) -> Encoder:
        """Open the engine and return an encoder.

        Args:
            device: ``"cpu"`` or ``"cuda"``; by default the one the bundle was validated on.
            threads: CPU threads; by default the engine decides.

        Raises:
            BundleError: An int8 bundle is asked to run on another device than the one it is typed for, or a file was
                altered since the bundle was opened.
        """
        facts, engine, home = self.manifest.encoder, self.manifest.engine, self.manifest.validation.device
        if engine.precision.is_int8 and device not in (None, home):
            raise BundleError(
                f"{self.folder}: its int8 graph is for {home} kernels, and {device} kernels need other types",
                next_step=f"export it again with `device={device}`",
            )
        tokenizer = _parse_tokenizer(self.folder / TOKENIZER, self._take(TOKENIZER))
        files = EngineFiles(self.folder, {name: self._take(name) for name in engine.files})
        runner = backend_of(engine.backend).open(engine, files, device or home, threads)
        return Encoder.of(facts, tokenizer, runner)

    def read(self, name: str) -> bytes:
        """Return the verified content of a file.

        The manifest, the record of validation and the signature are returned as they were when the bundle was opened.
        Any other file is read, and its bytes are compared with the manifest's hash.

        Raises:
            BundleError: The file is missing or was altered.
            KeyError: The bundle has no such file.
        """
        if name in self._contents:
            return self._contents[name]
        return _read_verified(self.folder, name, self.manifest.files[name])

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all files that ``read`` returns: those the manifest lists, the manifest, record, signature."""
        beside = (name for name in (MANIFEST, RECORD, SIGNATURE) if name in self._contents)
        return (*self.manifest.files, *beside)

    def sign(self, signer: Signer) -> Bundle:
        """Write a signature of the manifest and of every file it lists; returns the bundle with the signature.

        Raises:
            InputError: The key or a certificate cannot be used.
            BundleError: The folder cannot be written to.
            MissingDependencyError: model-signing is not installed.
        """
        signature = sign(self._hashes(), self.folder.resolve().name, signer, ignored=(RECORD,))
        _write_beside(self.folder / SIGNATURE, signature, next_step="copy the bundle, then sign")
        return Bundle(self.folder, self.manifest, self.record, {**self._contents, SIGNATURE: signature})

    def verify_signature(self, trusted: Path | Trusted) -> None:
        """Verify that the bundle is signed, and by whom.

        Args:
            trusted: A public key or certificates (PEM).

        Raises:
            BundleError: It is not signed, or not by ``trusted``, or it was altered since.
            InputError: ``trusted`` cannot be used.
            MissingDependencyError: model-signing is not installed.
        """
        trusted = Trusted.of(trusted) if isinstance(trusted, Path) else trusted
        if not self.signed:
            raise BundleError(
                f"{self.folder}: not signed, and a signature by {trusted.path} is required",
                next_step="get a signed bundle, or sign this one",
            )
        verify(self._hashes(), self._contents[SIGNATURE], trusted, self.folder)

    def _hashes(self) -> dict[str, str]:
        """Return the SHA-256 of the manifest as it was read, and of every file as the manifest lists it."""
        listed = {name: facts.sha256 for name, facts in self.manifest.files.items()}
        return {MANIFEST: hashlib.sha256(self._contents[MANIFEST]).hexdigest(), **listed}

    def _take(self, name: str) -> bytes:
        """Return the verified content of a file and keep it no longer."""
        return self._contents.pop(name) if name in self._contents else self.read(name)

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
    return _parse_manifest(path, _read_manifest(path))


def _read_manifest(path: Path) -> bytes:
    if not path.is_file():
        raise BundleError(
            f"{path.parent}: not a bundle: there is no {MANIFEST}",
            next_step="give the folder of a bundle, or export one first",
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error


def _parse_manifest(path: Path, content: bytes) -> Manifest:
    try:
        _check_format(path, content)
        manifest = Manifest.model_validate_json(content)
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
    content = f"{sealed.model_dump_json(indent=1)}\n".encode()
    _write_beside(bundle.folder / RECORD, content, next_step="copy the bundle, then validate")
    return Bundle(bundle.folder, bundle.manifest, sealed, {**bundle._contents, RECORD: content})


def withdraw_record(bundle: Bundle) -> None:
    """Remove the record of a bundle that has failed its gate since."""
    (bundle.folder / RECORD).unlink(missing_ok=True)


def _write_beside(path: Path, content: bytes, *, next_step: str) -> None:
    """Write a file that no manifest lists into a bundle's folder, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        raise BundleError(f"{path}: cannot be written: {error.strerror}", next_step=next_step) from error


def _read_beside(path: Path) -> bytes | None:
    """Read a file that no manifest lists; None where there is none."""
    try:
        return path.read_bytes() if path.is_file() else None
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error


def _parse_record(path: Path, content: bytes | None, manifest: Manifest) -> Record | None:
    if content is None:
        return None
    try:
        record = Record.model_validate_json(content)
    except ValidationError as error:
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


def _parse_tokenizer(path: Path, content: bytes) -> Tokenizer:
    try:
        return Tokenizer.from_buffer(content)
    except Exception as error:  # tokenizers, which is Rust, raises nothing more special
        raise BundleError(f"{path}: not a tokenizer: {first_line(error)}", next_step="export it again") from error


def _check_format(path: Path, content: bytes) -> None:
    """Refuse another format by its number, before its unknown keys would be called errors."""
    try:
        stated = json.loads(content)
        number = stated["format"]
    except (ValueError, KeyError, TypeError):
        return  # no manifest at all: the model says what is wrong with it
    if number == FORMAT:
        return
    if isinstance(number, int) and number > FORMAT:
        raise BundleError(
            f"{path}: bundle format {number} is newer than format {FORMAT}, which this version of korsbert opens",
            next_step=f"upgrade korsbert, or {_export_again(stated)}",
        )
    opened_by = _OPENED_BY.get(number) if isinstance(number, int) else None
    raise BundleError(
        f"{path}: bundle format {number!r} is opened by {opened_by or 'no version of korsbert'}; this version opens "
        f"format {FORMAT}",
        next_step=_export_again(stated),
    )


def _export_again(manifest: dict[str, Any]) -> str:
    """Say which checkpoint to export again, by a manifest of any format: nothing in it has been verified."""
    source = manifest.get("source")
    checkpoint, commit = (source.get("checkpoint"), source.get("commit")) if isinstance(source, dict) else (None, None)
    named = f" {checkpoint!r}" if isinstance(checkpoint, str) else ""
    return f"export the checkpoint{named} again" + (f", revision {commit!r}" if isinstance(commit, str) else "")


def _refuse_unlisted(folder: Path, manifest: Manifest) -> None:
    """Refuse a folder with a file that is not in the manifest: an engine could read it, and nothing has verified it."""
    try:
        stray = sorted({path.name for path in folder.iterdir()} - manifest.files.keys() - BESIDE)
    except OSError as error:
        raise BundleError(f"{folder}: cannot be read: {error.strerror}") from error
    if stray:
        raise BundleError(
            f"{folder / stray[0]}: not listed in {MANIFEST}, and a bundle holds nothing else",
            next_step="move it out of the folder",
        )


def _verify(folder: Path, name: str, facts: FileFacts) -> None:
    """Compare a file with its hash, read in pieces."""
    path = _listed(folder, name)
    try:
        found = path.stat().st_size, sha256_of(path)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error
    _refuse_altered(path, found, facts)


def _read_verified(folder: Path, name: str, facts: FileFacts) -> bytes:
    """Read a file and compare what was read with its hash."""
    path = _listed(folder, name)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error
    _refuse_altered(path, (len(content), hashlib.sha256(content).hexdigest()), facts)
    return content


def _listed(folder: Path, name: str) -> Path:
    """Return the path of a file that the manifest lists."""
    path = folder / name
    # By the name alone: in the hub's cache the files of a bundle are links to where their content lies.
    if Path(name).name != name:
        raise BundleError(f"{folder / MANIFEST}: names a file outside the bundle: {name}")
    if name in (MANIFEST, RECORD, SIGNATURE):
        raise BundleError(f"{folder / MANIFEST}: lists {name}, which is written after the manifest")
    if not path.is_file():
        raise BundleError(f"{path}: missing, though the manifest lists it", next_step="export it again")
    return path


def _refuse_altered(path: Path, found: tuple[int, str], facts: FileFacts) -> None:
    if found != (facts.size, facts.sha256):
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
            f"{target}: not a bundle, and `force` only replaces bundles", next_step="move it, or choose another `out`"
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
            f"{target}: another export is writing there", next_step="wait for it to finish, or choose another `out`"
        ) from error
    except OSError as error:
        raise _cannot_write(target, error) from error
    try:
        if _aside(target).exists():
            _finish_replacement(target)
        if not force and os.path.lexists(target):
            raise BundleError(
                f"{target}: already exists", next_step="`force` replaces it once the new bundle has passed"
            )
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
        return BundleError(
            f"{target}: the disk is full", next_step="free some space, or choose an `out` on another disk"
        )
    return BundleError(f"{target}: cannot be written: {error.strerror or error}", next_step="choose another `out`")


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
    content = f"{manifest.model_dump_json(indent=2)}\n".encode()
    (folder / MANIFEST).write_bytes(content)
    umask = os.umask(0)
    os.umask(umask)
    folder.chmod(0o777 & ~umask)  # mkdtemp makes it private
    put_in_place(folder, target)
    return Bundle(target, manifest, contents={MANIFEST: content})


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
