"""sentence-transformers with its OpenVINO backend, in an environment of its own, as an encoder that takes turns.

The backend needs optimum-intel, which wants other versions than korsbert. The peer is therefore a process that another
Python runs: a line of JSON goes in, vectors come back as bytes.
"""

from __future__ import annotations

import json
import math
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

# What runs in the peer's environment: folder, precision and threads on the command line. Whatever it prints goes to
# stderr, so that libraries cannot write between the arrays.
PEER = """
import json, os, sys
import numpy as np
folder, precision, threads = sys.argv[1:]
answers = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
import torch
from sentence_transformers import SentenceTransformer
from importlib.metadata import version
torch.set_num_threads(int(threads))
config = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": int(threads)}
model = SentenceTransformer(folder, backend="openvino", device="cpu", model_kwargs={"ov_config": config})
model.encode(["warm"])
tools = ("sentence-transformers", "transformers", "optimum-intel", "openvino")
versions = {tool: version(tool) for tool in tools}
answers.write(json.dumps(versions).encode() + b"\\n")
answers.flush()
for line in sys.stdin:
    sentences, batch_size = json.loads(line)
    vectors = model.encode(sentences, batch_size=batch_size, show_progress_bar=False).astype(np.float32)
    answers.write(json.dumps(vectors.shape).encode() + b"\\n" + vectors.tobytes())
    answers.flush()
"""


class PeerError(Exception):
    """The peer cannot load the model; the message is its own."""


class OpenVinoPeer:
    """One process of the peer; use it in a ``with`` statement.

    Attributes:
        versions: Of its libraries, by name.
    """

    def __init__(self, python: Path, folder: Path, precision: Literal["f32", "bf16"], threads: int) -> None:
        """Start the process; it converts the model first, which takes minutes for a large one.

        Args:
            python: Of an environment with ``sentence-transformers[openvino]``.
            folder: The checkpoint.
            precision: OpenVINO's ``INFERENCE_PRECISION_HINT``.
            threads: Of torch and of OpenVINO.

        Raises:
            PeerError: It cannot load the model.
        """
        command = [str(python), "-c", PEER, str(folder), precision, str(threads)]
        with tempfile.TemporaryFile() as errors:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
            assert self._process.stdout is not None
            if not (versions := self._process.stdout.readline()):
                self._process.wait()
                errors.seek(0)
                raise PeerError(errors.read().decode().rstrip().rpartition("\n")[2])
        self.versions: dict[str, str] = json.loads(versions)

    def encode(self, sentences: list[str], batch_size: int) -> npt.NDArray[np.float32]:
        """Return (sentences, dimension) float32."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([sentences, batch_size]).encode() + b"\n")
        self._process.stdin.flush()
        shape = json.loads(self._process.stdout.readline())
        return np.frombuffer(self._process.stdout.read(4 * math.prod(shape)), np.float32).reshape(shape)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
