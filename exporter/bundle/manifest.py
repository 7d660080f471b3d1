"""The schema of ``manifest.json`` and ``validation.json``: what is known of a bundle, and how the two are read.

Each carries a seal, the SHA-256 of its own content. A seal notices damage and mistakes. It says nothing about who wrote
the file: that is what signatures are for (``signing.py``).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from exporter.bundle.signing import SIGNATURE
from exporter.engines import Engine
from exporter.errors import BundleError, printable, quoted
from exporter.files import SMALL, read_file
from exporter.recipe import Recipe, Source
from exporter.runtime.facts import EncoderFacts
from exporter.targets import Device

FORMAT = 2
"""The bundle format that this version writes and opens. CONTRIBUTING.md says when it changes, and what else then."""
_OPENED_BY = {1: "development versions of korsbert before 0.1.0"}  # for every older format
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
PARITY = "parity.json"
RECORD = "validation.json"
UNLISTED = frozenset(
    {
        *(MANIFEST, RECORD, SIGNATURE),
        *(f".{RECORD}.partial", f".{SIGNATURE}.partial"),  # left by a process that was killed
        # Of git, of huggingface_hub, and of a repository that a bundle was pushed to. Nothing here reads them.
        *(".cache", ".git", ".gitattributes", ".gitignore", "LICENSE"),
    }
)
"""Files that a bundle's folder may hold although its manifest does not list them."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileFacts(_Frozen):
    """Size in bytes and SHA-256 of one file."""

    size: int
    sha256: str

    @classmethod
    def of_file(cls, path: Path) -> Self:
        """Hash a file, read in pieces.

        Raises:
            OSError: It cannot be read.
        """
        with path.open("rb") as file:
            return cls(size=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())

    @classmethod
    def of_content(cls, content: bytes) -> Self:
        """Hash the content of a file."""
        return cls(size=len(content), sha256=hashlib.sha256(content).hexdigest())


class GraphFacts(_Frozen):
    """The ONNX graph the engine was built from."""

    sha256: str
    nodes: dict[str, int]
    weight_bytes: int


class QuantizationFacts(_Frozen):
    """The calibration of an int8 graph.

    Attributes:
        source: Name of the file of calibration text, or that the text ships with korsbert.
        sha256: Hash over the calibration sentences, in order.
        sentences: Number of sentences that the scales were taken from.
        method: How ranges were chosen from the observed values.
        ranges: The file of the bundle that holds the range and the scale of every activation.
    """

    source: str
    sha256: str
    sentences: int
    method: str
    ranges: str


class RangesFacts(_Frozen):
    """What the ranges of int8 vectors in ``ranges.json`` were taken from: float32 vectors of the checkpoint in PyTorch.

    Attributes:
        source: That the sentences ship with korsbert, and the name of the user's own file, if there was one.
        sha256: Hash over the sentences, in order.
        sentences: Number of sentences.
        prompts: The texts that were put before each of them.
    """

    source: str
    sha256: str
    sentences: int
    prompts: tuple[str, ...]


class Validation(_Frozen):
    """Where the bundle passed its gate, and each bound in words. All numbers are in ``parity.json``.

    ``state`` is ``"pending"`` if the engine could not run on the machine that published it. ``device`` then says where
    it will run, and the other fields describe the graph that it was built from, which was judged on the CPU.
    """

    state: Literal["passed", "pending"] = "passed"
    device: Device
    execution: str
    probes_sha256: str
    min_cosine: float
    gates: tuple[str, ...]
    note: str


class Manifest(_Frozen):
    """Everything that is known of a bundle, and the hash of every file; ``seal`` is the hash of the manifest itself."""

    format: int = FORMAT
    recipe: Recipe
    source: Source
    encoder: EncoderFacts
    graph: GraphFacts
    engine: Engine
    quantization: QuantizationFacts | None = None
    ranges: RangesFacts
    decisions: tuple[str, ...]
    validation: Validation
    tools: dict[str, str]
    machine: dict[str, Any]
    created: str
    files: dict[str, FileFacts] = Field(default_factory=dict)
    seal: str = ""

    def sealed(self) -> Self:
        """Return the manifest with the seal of its present content."""
        return self.model_copy(update={"seal": seal_of(self)})

    def to_json(self) -> bytes:
        """Return the content of ``manifest.json``."""
        return f"{self.model_dump_json(indent=2)}\n".encode()


class Record(_Frozen):
    """A gate that a bundle passed after it was published: ``validation.json``, which the manifest does not list.

    Attributes:
        manifest_seal: The seal of the manifest that it belongs to.
        report: The parity report as JSON data.
        machine: The machine where it passed.
        tools: Versions of the tools on that machine.
        created: When, ISO 8601.
        seal: SHA-256 of the record's own canonical JSON, this field left out.
    """

    manifest_seal: str
    report: dict[str, Any]
    machine: dict[str, Any]
    tools: dict[str, str]
    created: str
    seal: str = ""

    def sealed(self, manifest: Manifest) -> Self:
        """Return the record as that of ``manifest``, with the seal of its present content."""
        record = self.model_copy(update={"manifest_seal": manifest.seal})
        return record.model_copy(update={"seal": seal_of(record)})

    def to_json(self) -> bytes:
        """Return the content of ``validation.json``."""
        return f"{self.model_dump_json(indent=1)}\n".encode()


def seal_of(sealed: Manifest | Record) -> str:
    """Return the SHA-256 of the canonical JSON of a manifest or a record, its seal left out."""
    return hashlib.sha256(sealed.model_dump_json(exclude={"seal"}).encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read a bundle's manifest and compare it with its seal. The files that it lists are not read.

    Raises:
        BundleError: There is no manifest, it has another format, or it was altered.
    """
    path = folder / MANIFEST
    return parse_manifest(path, read_manifest_bytes(path))


def read_manifest_bytes(path: Path) -> bytes:
    """Read ``manifest.json``.

    Raises:
        BundleError: It is missing or cannot be read.
    """
    if not path.is_file():
        raise BundleError(
            f"{path.parent}: not a bundle: there is no {MANIFEST}",
            next_step="give the folder of a bundle, or export one first",
        )
    try:
        return read_file(path, SMALL)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error


def parse_manifest(path: Path, content: bytes) -> Manifest:
    """Parse a manifest and compare it with its seal.

    Args:
        path: Where it was read from, for messages.
        content: What was read.

    Raises:
        BundleError: It has another format, an unknown key or an impossible value, or it was altered.
    """
    try:
        data = _json(content)  # pydantic's own parser takes 13 times the memory
        _refuse_other_format(path, data)
        manifest = Manifest.model_validate(data)
    except ValidationError as error:
        raise BundleError(
            f"{path}: not readable: {_first_mistake(error, MANIFEST)}",
            next_step="upgrade korsbert if a newer version wrote it, or export it again",
        ) from error
    if manifest.seal != seal_of(manifest):
        raise BundleError(
            f"{path}: altered since it was published: its seal does not agree", next_step="export it again"
        )
    return manifest


class _ReportedCheck(BaseModel):
    name: str
    coverage: str
    passed: bool


class _Report(BaseModel):
    """What other commands read of a parity report."""

    statistics: dict[str, Any]  # the minimum gate says what is wrong with one of them
    checks: tuple[_ReportedCheck, ...] = ()


def parse_report(path: Path, content: bytes) -> dict[str, Any]:
    """Parse a parity report.

    Args:
        path: Where it was read from, for messages.
        content: What was read.

    Raises:
        BundleError: It is no JSON, or no parity report.
    """
    try:
        report = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not JSON", next_step="export it again") from error
    _refuse_other_report(path, report, "export it again")
    found: dict[str, Any] = report
    return found


def _refuse_other_report(path: Path, report: Any, next_step: str) -> None:
    """Refuse JSON data of which something is missing that other commands read, or is of another type."""
    try:
        _Report.model_validate(report)
    except ValidationError as error:
        raise BundleError(f"{path}: not a parity report: {_first_mistake(error, 'it')}", next_step=next_step) from error


def _first_mistake(error: ValidationError, whole: str) -> str:
    """Return where the first mistake is, or ``whole`` where nothing is right, and what is wrong there."""
    first = error.errors()[0]
    where = ".".join(printable(str(part), 80) for part in first["loc"]) or whole
    return f"{where}: {first['msg']}"


def parse_record(path: Path, content: bytes, manifest: Manifest) -> Record:
    """Parse a record of validation.

    Args:
        path: Where it was read from, for messages.
        content: What was read.
        manifest: The manifest that it must belong to.

    Raises:
        BundleError: It cannot be read, was altered, belongs to another bundle, records a failed gate, or its report is
            none.
    """
    next_step = "remove it, and validate again"
    try:
        record = Record.model_validate(_json(content))
    except ValidationError as error:
        raise BundleError(f"{path}: not readable as a record of validation", next_step=next_step) from error
    if record.seal != seal_of(record) or record.manifest_seal != manifest.seal:
        raise BundleError(f"{path}: altered, or of another bundle: its seal does not agree", next_step=next_step)
    if record.report.get("passed") is not True:
        raise BundleError(f"{path}: records a gate that failed", next_step=next_step)
    _refuse_other_report(path, record.report, next_step)
    return record


def _json(content: bytes) -> Any:
    """Return JSON data, or None of what is no JSON, or holds half of a surrogate pair, which is no text."""
    try:
        data = json.loads(content)
        json.dumps(data, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return data


def _refuse_other_format(path: Path, stated: Any) -> None:
    """Refuse another format by its number, before its unknown keys would be called errors."""
    try:
        number = stated["format"]
    except (KeyError, TypeError):
        return  # no manifest at all: the model says what is wrong with it
    if isinstance(number, int) and number > FORMAT:
        raise BundleError(
            f"{path}: bundle format {number} is newer than format {FORMAT}, which this version of korsbert opens",
            next_step=f"upgrade korsbert, or {_export_again(stated)}",
        )
    if number != FORMAT:
        opened_by = _OPENED_BY.get(number) if isinstance(number, int) else None
        raise BundleError(
            f"{path}: bundle format {quoted(number)} is opened by {opened_by or 'no version of korsbert'}; this "
            f"version opens format {FORMAT}",
            next_step=_export_again(stated),
        )


def _export_again(manifest: dict[str, Any]) -> str:
    """Say which checkpoint to export again, by a manifest of any format: nothing in it has been verified."""
    source = manifest.get("source")
    checkpoint, commit = (source.get("checkpoint"), source.get("commit")) if isinstance(source, dict) else (None, None)
    named = f" {quoted(checkpoint)}" if isinstance(checkpoint, str) else ""
    return f"export the checkpoint{named} again" + (f", revision {quoted(commit)}" if isinstance(commit, str) else "")
