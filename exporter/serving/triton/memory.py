"""The memory of an encoder: measured when it is shipped and kept beside the version, or else computed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from exporter.files import MiB, read_file
from exporter.machine import cores
from exporter.runtime.token_encoder import rows_at_once
from exporter.serving.peak_memory import Load, peak_bytes
from exporter.serving.triton.facts import Options, Served
from exporter.targets import Device

FILE = "korsbert_memory.json"
"""In the folder of an encoder's version. Triton passes over it."""
HEAD_ROOM_PERCENT = 25
"""On top of what was measured. In the soak (benchmarks/results/soak.md), a server took up to 18% more than its mean."""
COPIES = 3
"""Times its size that a version takes while it loads: the file, the weights, their packed form."""
_MOST_BYTES = 2**45


class Peak(BaseModel):
    """What one instance of an encoder takes for the most that the server gives it at one time, as one batch.

    Attributes:
        seal: Of the bundle.
        device: That it ran on.
        rows: Rows of that batch.
        tokens: Tokens of each row.
        peak_bytes: The most memory of a process that opened the bundle and encoded the batch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seal: str
    device: Device
    rows: int = Field(ge=1)
    tokens: int = Field(ge=1)
    peak_bytes: int = Field(ge=1, le=_MOST_BYTES)


@dataclass(frozen=True)
class Loaded:
    """A version of an encoder that the server loads.

    Attributes:
        number: Of the version.
        size_bytes: Size of its files.
        peak: What was measured; None where nothing was.
    """

    number: int
    size_bytes: int
    peak: Peak | None = None

    @property
    def memory_bytes(self) -> int:
        """Memory of one instance."""
        if self.peak is None:
            return COPIES * self.size_bytes
        return self.peak.peak_bytes * (100 + HEAD_ROOM_PERCENT) // 100

    def describe(self) -> str:
        """Say where the figure comes from."""
        if self.peak is None:
            return f"version {self.number} computed, {COPIES} times the size of its files"
        mebibytes, batch = -(-self.peak.peak_bytes // MiB), f"{self.peak.rows} rows of {self.peak.tokens} tokens"
        return f"version {self.number} measured, {mebibytes} MiB for {batch}, plus {HEAD_ROOM_PERCENT}%"


def largest_batch(one: Served) -> tuple[int, int]:
    """Return the rows and the tokens of the largest batch that the engine gets from Triton.

    Of the python runtime: of a batch that has as many tokens as all the batches that it runs at one time, at most.
    """
    manifest = one.bundle.manifest
    # Only TensorRT refuses rows that are longer than the recipe's shapes.
    longest = manifest.encoder.max_seq_length
    tokens = min(one.sequence.max, longest) if manifest.engine.backend.needs_gpu else longest
    return rows_at_once(one.batch.max, tokens) if one.backend == "python" else one.batch.max, tokens


def peak_of(one: Served, options: Options, shipped: Iterable[Path]) -> Peak:
    """Return what an instance of an encoder takes: as recorded when the bundle was shipped before, or measured now.

    Args:
        one: The encoder.
        options: How it is served: its instances share the cores.
        shipped: Folders of the versions that are in the repository.

    Raises:
        EngineError: The engine does not run here, or not in time, or not in the memory that there is.
    """
    rows, tokens = largest_batch(one)
    device = Device.CUDA if one.on_gpu else Device.CPU
    recorded = (read_peak(folder) for folder in shipped)
    wanted = (one.bundle.manifest.seal, device, rows, tokens)
    for peak in recorded:
        if peak is not None and (peak.seal, peak.device, peak.rows, peak.tokens) == wanted:
            return peak
    load = Load(device, max(1, cores() // options.instances), rows, tokens)
    measured = peak_bytes(one.bundle.folder, load)
    return Peak(seal=one.bundle.manifest.seal, device=device, rows=rows, tokens=tokens, peak_bytes=measured)


def write_peak(version: Path, peak: Peak) -> None:
    """Keep a figure in the folder of a version that is not in place yet."""
    (version / FILE).write_text(peak.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_peak(version: Path) -> Peak | None:
    """Return the figure that lies beside a version; None where there is none, or none that can be read."""
    try:
        return Peak.model_validate_json(read_file(version / FILE, MiB))
    except (OSError, ValidationError):
        return None
