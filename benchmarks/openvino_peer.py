"""sentence-transformers with its OpenVINO backend, in an environment of its own, as an encoder that takes turns.

The backend needs optimum-intel, which wants other versions than korsbert. The peer is therefore a process that another
Python runs: a line of JSON goes in, a ``.npy`` array comes back. That costs it about a millisecond per call.
"""

from __future__ import annotations

import json
import subprocess
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
import openvino, optimum.intel, sentence_transformers, transformers
torch.set_num_threads(int(threads))
config = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": int(threads)}
model = SentenceTransformer(folder, backend="openvino", device="cpu", model_kwargs={"ov_config": config})
model.encode(["warm"])
versions = {"sentence-transformers": sentence_transformers.__version__, "transformers": transformers.__version__,
            "optimum-intel": optimum.intel.__version__, "openvino": openvino.__version__.partition("-")[0]}
answers.write(json.dumps(versions).encode() + b"\\n")
answers.flush()
for line in sys.stdin:
    sentences, batch_size = json.loads(line)
    np.save(answers, model.encode(sentences, batch_size=batch_size, show_progress_bar=False))
    answers.flush()
"""


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
        """
        command = [str(python), "-c", PEER, str(folder), precision, str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.versions: dict[str, str] = json.loads(self._process.stdout.readline())

    def encode(self, sentences: list[str], batch_size: int) -> npt.NDArray[np.float32]:
        """Return (sentences, dimension) float32."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([sentences, batch_size]).encode() + b"\n")
        self._process.stdin.flush()
        vectors: npt.NDArray[np.float32] = np.lib.format.read_array(self._process.stdout)
        return vectors

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
