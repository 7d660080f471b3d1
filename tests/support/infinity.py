"""A real Infinity server on the loopback: OpenAI's API, by torch, in an environment of its own.

``make .venv-infinity/ready`` installs it from PyPI: it wants older versions of numpy, transformers and
sentence-transformers than korsbert.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.ports import free_ports

__all__ = ["infinity"]

ROOT = Path(__file__).parents[2]
COMMAND = ROOT / ".venv-infinity" / "bin" / "infinity_emb"
READY_S = 300


@contextmanager
def infinity(checkpoint: Path, work: Path, *arguments: str) -> Iterator[str]:
    """Yield the URL of a server of a checkpoint, ``"http://127.0.0.1:12345"``.

    Skips, with the reason, where it is not installed.

    Args:
        checkpoint: Folder of a sentence-transformers checkpoint, in a layout that sentence-transformers 3 reads.
        work: Folder for its log and its caches.
        *arguments: Further arguments of ``infinity_emb v2``.
    """
    if not COMMAND.exists():
        pytest.skip("there is no infinity_emb: `make .venv-infinity/ready` installs it")
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    of_model = ["--model-id", str(checkpoint), "--served-model-name", checkpoint.name, "--engine", "torch"]
    plain = ["--device", "cpu", "--no-bettertransformer", "--no-model-warmup"]
    command = [str(COMMAND), "v2", *of_model, *plain, "--host", "127.0.0.1", "--port", str(port), *arguments]
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    environment |= {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(work),
        "DO_NOT_TRACK": "1",
        "INFINITY_ANONYMOUS_USAGE_STATS": "0",
    }
    log = work / "infinity.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=environment, cwd=work, start_new_session=True
        )
    try:
        _wait_ready(process, url, log)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)


def _wait_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        assert process.poll() is None, f"infinity ended:\n{log.read_text(errors='replace')[-3000:]}"
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5) as response:
                if response.status == 200:
                    return
        except (OSError, urllib.error.URLError):
            time.sleep(0.2)
    raise AssertionError(f"infinity was not ready after {READY_S} s:\n{log.read_text(errors='replace')[-3000:]}")
