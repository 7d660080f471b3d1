"""The most memory that a bundle's encoder takes, measured in a process that does nothing else.

::

    python -m exporter.serving.peak_memory BUNDLE DEVICE THREADS ROWS TOKENS

opens a bundle, encodes one batch, and prints its peak in bytes. It imports what a server of the bundle imports.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from exporter.errors import EngineError, ExportError
from exporter.machine import available_bytes

LIMIT_S = 180.0
"""A batch that takes longer is not measured: whoever ships the bundle waits for it."""
_OURS = Path("/proc/self")


@dataclass(frozen=True)
class Load:
    """A batch, and what runs it.

    Attributes:
        device: ``"cpu"`` or ``"cuda"``.
        threads: CPU threads of the engine.
        rows: Rows of the batch.
        tokens: Tokens of each row.
    """

    device: str
    threads: int
    rows: int
    tokens: int


def peak_bytes(bundle: Path, load: Load, limit_s: float = LIMIT_S) -> int:
    """Return the most memory that a process takes to open a bundle and to encode one batch, on this machine.

    Batches of other shapes before it leave the peak the same, because ONNX Runtime takes again what they took.

    Raises:
        EngineError: The engine does not run here, or not in time, or not in the memory that there is.
    """
    arguments = (bundle.absolute(), load.device, load.threads, load.rows, load.tokens)
    # -P: a folder `exporter` where the user stands is not ours.
    command = [sys.executable, "-P", "-m", __name__, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise EngineError(f"{load.rows} rows of {load.tokens} tokens took longer than {limit_s:g} s") from None
    except OSError as error:
        raise EngineError(f"{sys.executable} cannot be started: {error.strerror}") from error
    if done.returncode < 0:
        raise EngineError(f"signal {-done.returncode} ended {load.rows} rows of {load.tokens} tokens")
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["it ended without a word"]
        raise EngineError(said[-1])
    return int(done.stdout.split()[-1])


def main(arguments: Sequence[str]) -> None:
    """Encode a batch and print the peak of this process."""
    from exporter.bundle import Bundle  # noqa: PLC0415 - not in the process that measures

    folder, device, (threads, rows, tokens) = arguments[0], arguments[1], map(int, arguments[2:])
    spare_other_processes(device)
    try:
        with Bundle.open(Path(folder), for_encoding=True).encoder(device=device, threads=threads) as encoder:
            # Token id 0, which every vocabulary has.
            encoder.encode_padded(np.zeros((rows, tokens), np.int64), np.ones((rows, tokens), np.int64))
    except ExportError as error:
        sys.exit(error.message.splitlines()[0])
    print(_peak_of_this_process())  # noqa: T201


def spare_other_processes(device: str) -> None:
    """Take no more memory than is free. Where it runs out all the same, the kernel is to end this process first."""
    with suppress(OSError):
        (_OURS / "oom_score_adj").write_text("1000")
    if device != "cpu":  # CUDA reserves more addresses than there is memory
        return
    free = available_bytes()
    with suppress(OSError, ValueError):
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        if free is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (free, most))


def _peak_of_this_process() -> int:
    """Return the most resident memory so far, in bytes. ``getrusage`` would count that of the parent process."""
    try:
        status = (_OURS / "status").read_text(encoding="utf-8")
    except OSError:
        sys.exit("the peak of a process can be read on Linux only")
    (kibibytes,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(kibibytes) * 1024


if __name__ == "__main__":
    main(sys.argv[1:])
