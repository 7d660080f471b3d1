"""Bundle: a published folder, opened.

Opening a bundle reads each file, compares it with its hash in the manifest, and uses the bytes that were compared. No
path is opened a second time, so a file that is replaced meanwhile changes nothing. A file that the manifest does not
list is refused, except those in ``manifest.UNLISTED``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tokenizers import Tokenizer

from exporter.bundle.atomic import write_file
from exporter.bundle.manifest import (
    MANIFEST,
    PARITY,
    RECORD,
    TOKENIZER,
    UNLISTED,
    FileFacts,
    Manifest,
    Record,
    parse_manifest,
    parse_record,
    read_manifest_bytes,
)
from exporter.bundle.signing import SIGNATURE, Signer, Trusted, refuse_other_file, sign, verify
from exporter.engines import EngineFiles, backend_of
from exporter.errors import BundleError, first_line, is_panic
from exporter.files import CONFIGURATION, read_file
from exporter.runtime.encoder import Encoder
from exporter.runtime.vector_types import RANGES, Ranges

MOST_WRITTEN = 100
"""Characters that a normalizer of a tokenizer may write in place of what it finds."""


class Bundle:
    """A published folder whose files have the hashes that its manifest lists.

    Attributes:
        folder: The folder.
        manifest: What is known of it.
        record: The gate that it passed after it was published, if it did.
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
        """Whether it has a signature. ``verify_signature`` verifies it."""
        return SIGNATURE in self._contents

    @property
    def validated(self) -> bool:
        """Whether its engine has passed the gate: before it was published, or later, as its record says."""
        return self.manifest.validation.state == "passed" or self.record is not None

    @classmethod
    def open(
        cls, folder: Path, *, require_signature: Path | Trusted | None = None, for_encoding: bool = False
    ) -> Bundle:
        """Read a bundle and compare every file with its hash.

        Args:
            folder: The folder.
            require_signature: Refuse the bundle unless it is signed by this: a public key or certificates (PEM).
            for_encoding: Keep the engine and the tokenizer in memory until ``encoder`` uses them: they are then read
                only once.

        Raises:
            BundleError: There is no bundle, it has another format, a file is missing, altered or not listed (the file
                is named), or a required signature is missing or not valid.
            InputError: ``require_signature`` cannot be used.
            MissingDependencyError: A signature is required, and model-signing is not installed.
        """
        bundle = cls.open_manifest(folder)
        manifest = bundle.manifest
        if require_signature is not None:
            bundle.verify_signature(require_signature)
            bundle.record = None  # no signature covers it: it proves nothing to a user who requires one
        _refuse_incomplete(folder, manifest)
        _refuse_unlisted(folder, manifest)
        kept = {*manifest.engine.files, TOKENIZER, RANGES} if for_encoding else set()
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
            BundleError: There is no manifest, it has another format, or it was altered; or a record or a signature is
                none.
        """
        path = folder / MANIFEST
        contents = {MANIFEST: read_manifest_bytes(path)}
        manifest = parse_manifest(path, contents[MANIFEST])
        contents |= {name: _read(folder / name) for name in (RECORD, SIGNATURE) if (folder / name).is_file()}
        record = parse_record(folder / RECORD, contents[RECORD], manifest) if RECORD in contents else None
        if SIGNATURE in contents:
            refuse_other_file(folder / SIGNATURE, contents[SIGNATURE])
        return cls(folder, manifest, record, contents)

    def encoder(
        self,
        *,
        device: str | None = None,
        threads: int | None = None,
        truncate_dim: int | None = None,
        spinning: bool = True,
    ) -> Encoder:
        """Open the engine and return an encoder.

        Args:
            device: ``"cpu"`` or ``"cuda"``; by default the one the bundle was validated on.
            threads: CPU threads; by default the engine decides.
            truncate_dim: To how many dimensions vectors are truncated; by default as the checkpoint says.
            spinning: Whether threads of the engine may keep a core busy while they wait for work. With False, a server
                leaves the cores to its other work meanwhile. Only ONNX Runtime does it at all.

        Raises:
            ValueError: ``truncate_dim`` is below 1.
            BundleError: An int8 bundle is to run on another device than it was made for, or a file was altered since
                the bundle was opened.
        """
        facts, engine, home = self.manifest.encoder, self.manifest.engine, self.manifest.validation.device
        if engine.precision.is_int8 and device not in (None, home):
            raise BundleError(
                f"{self.folder}: its int8 graph is for {home} kernels, and {device} kernels need other types",
                next_step=f"export it again with `device={device}`",
            )
        tokenizer = parse_tokenizer(self.folder / TOKENIZER, self._take(TOKENIZER))
        ranges = self.ranges()
        files = EngineFiles(self.folder, {name: self._take(name) for name in engine.files})
        runner = backend_of(engine.backend).open(engine, files, device or home, threads, spinning=spinning)
        return Encoder.of(
            facts, tokenizer, runner, truncate_dim=truncate_dim, ranges=ranges, device=device or str(home)
        )

    def ranges(self) -> Ranges:
        """Return the ranges of int8 and uint8 vectors.

        Raises:
            BundleError: The file holds none.
        """
        return Ranges.from_json(self.read(RANGES), self.manifest.encoder.dimension)

    def read(self, name: str) -> bytes:
        """Return the verified content of a file.

        The manifest, the record of validation and the signature are returned as they were when the bundle was opened.
        Any other file is read, and its bytes are compared with the hash in the manifest.

        Raises:
            BundleError: The file is missing or was altered.
            KeyError: The bundle has no such file.
        """
        if name in self._contents:
            return self._contents[name]
        return _read_verified(self.folder, name, self.manifest.files[name])

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all files that ``read`` returns: the listed files, the manifest, the record, the signature."""
        beside = (name for name in (MANIFEST, RECORD, SIGNATURE) if name in self._contents)
        return (*self.manifest.files, *beside)

    def sign(self, signer: Signer) -> Bundle:
        """Write a signature of the manifest and of every file it lists, and return the bundle with the signature.

        Raises:
            InputError: The key or a certificate cannot be used.
            BundleError: The folder cannot be written to.
            MissingDependencyError: model-signing is not installed.
        """
        signature = sign(self._hashes(), self.folder.resolve().name, signer, ignored=(RECORD,))
        _write(self.folder / SIGNATURE, signature, next_step="copy the bundle, then sign")
        return Bundle(self.folder, self.manifest, self.record, {**self._contents, SIGNATURE: signature})

    def write_record(self, record: Record) -> Bundle:
        """Write the record of a passed gate beside the manifest, and return the bundle with the record.

        Raises:
            BundleError: The folder cannot be written to.
        """
        record = record.sealed(self.manifest)
        content = record.to_json()
        _write(self.folder / RECORD, content, next_step="copy the bundle, then validate")
        return Bundle(self.folder, self.manifest, record, {**self._contents, RECORD: content})

    def withdraw_record(self) -> Bundle:
        """Remove the record of a bundle that has failed its gate since, and return the bundle without it."""
        (self.folder / RECORD).unlink(missing_ok=True)
        kept = {name: content for name, content in self._contents.items() if name != RECORD}
        return Bundle(self.folder, self.manifest, None, kept)

    def verify_signature(self, trusted: Path | Trusted) -> None:
        """Verify the signature of the bundle.

        Args:
            trusted: A public key or certificates (PEM).

        Raises:
            BundleError: It is not signed, is signed by somebody else, or was altered since.
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
        """Return the SHA-256 of the manifest as it was read, and of every file that it lists."""
        listed = {name: facts.sha256 for name, facts in self.manifest.files.items()}
        return {MANIFEST: FileFacts.of_content(self._contents[MANIFEST]).sha256, **listed}

    def _take(self, name: str) -> bytes:
        """Return the verified content of a file, and release it."""
        return self._contents.pop(name) if name in self._contents else self.read(name)

    @property
    def size_bytes(self) -> int:
        """Size of all files."""
        return sum(facts.size for facts in self.manifest.files.values())


def _write(path: Path, content: bytes, *, next_step: str) -> None:
    try:
        write_file(path, content)
    except OSError as error:
        raise BundleError(f"{path}: cannot be written: {error.strerror}", next_step=next_step) from error


def _read(path: Path, most: int = CONFIGURATION) -> bytes:
    try:
        return read_file(path, most)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error


def parse_tokenizer(path: Path, content: bytes) -> Tokenizer:
    """Parse a ``tokenizer.json``.

    Args:
        path: Where it was read from, for messages.
        content: What was read.

    Raises:
        BundleError: It is no tokenizer, or one that writes long texts in place of short ones.
    """
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except BaseException as error:  # tokenizers, which is Rust, raises nothing more special, or panics
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        raise BundleError(f"{path}: not a tokenizer: {first_line(error)}", next_step="export it again") from error
    _refuse_growing_text(path, tokenizer)
    return tokenizer


def _refuse_growing_text(path: Path, tokenizer: Tokenizer) -> None:
    """Refuse a normalizer that writes much in place of little: a short sentence could take all memory."""
    if tokenizer.normalizer is None:
        return
    waiting = [json.loads(tokenizer.normalizer.__getstate__())]
    while waiting:
        part = waiting.pop()
        waiting += part.get("normalizers", [])
        written = part.get("content", part.get("prepend", ""))
        if len(written) > MOST_WRITTEN:
            raise BundleError(
                f"{path}: its normalizer writes {len(written):,} characters for a few, and {MOST_WRITTEN} are allowed",
                next_step="export a checkpoint with another tokenizer",
            )


def _refuse_incomplete(folder: Path, manifest: Manifest) -> None:
    """Refuse a manifest that does not list every file that will be opened: only listed files are verified."""
    unlisted = {TOKENIZER, PARITY, RANGES, *manifest.engine.files} - set(manifest.files)
    if unlisted or not manifest.engine.files:
        raise BundleError(
            f"{folder / MANIFEST}: does not list {', '.join(sorted(unlisted)) or 'an engine'}",
            next_step="export it again",
        )


def _refuse_unlisted(folder: Path, manifest: Manifest) -> None:
    """Refuse a folder with a file that the manifest does not list: an engine could read it, and it was not verified."""
    try:
        stray = sorted({path.name for path in folder.iterdir()} - manifest.files.keys() - UNLISTED)
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
        if path.stat().st_size != facts.size:  # which is not read, however large it is
            raise _altered(path)
        found = FileFacts.of_file(path)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error
    _refuse_altered(path, found, facts)


def _read_verified(folder: Path, name: str, facts: FileFacts) -> bytes:
    """Read a file, and compare the bytes with its hash."""
    path = _listed(folder, name)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error
    if size > facts.size:  # which is not read, however large it is
        raise _altered(path)
    content = _read(path, facts.size)
    _refuse_altered(path, FileFacts.of_content(content), facts)
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


def _refuse_altered(path: Path, found: FileFacts, listed: FileFacts) -> None:
    if found != listed:
        raise _altered(path)


def _altered(path: Path) -> BundleError:
    # Files of the hub's cache are links to where their content lies.
    next_step = f"delete {path.resolve()} and load it again" if path.is_symlink() else "export it again"
    return BundleError(
        f"{path}: altered since it was published: its SHA-256 is not the manifest's", next_step=next_step
    )
