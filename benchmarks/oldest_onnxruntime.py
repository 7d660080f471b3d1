"""The oldest ONNX Runtime that runs a bundle: each release opens the demo's bundles and is judged by the golden gate.

    python -m benchmarks.oldest_onnxruntime

Each release is installed from PyPI in a folder of its own, with nothing but numpy beside it. A process with that folder
alone on its path opens ``model.onnx`` and computes vectors; tokenizing and judging happen here.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from benchmarks.processes import run_to_success
from benchmarks.results import arguments, publish, table, work_folder
from exporter.bundle import TOKENIZER, Bundle
from exporter.bundle.bundle import parse_tokenizer
from exporter.errors import EngineError
from exporter.golden import read_golden
from exporter.golden.judging import judge_function
from exporter.runtime.encoder import Encoder
from exporter.targets import Precision

# Minor versions that have wheels for Python 3.11, by their last release.
RELEASES = (
    *("1.16.3", "1.17.3", "1.18.1", "1.19.2", "1.20.1", "1.21.1", "1.22.1", "1.23.2", "1.24.4", "1.25.1", "1.27.0"),
    "1.32.0",
)
_BEFORE_NUMPY_2 = ("1.16.3", "1.17.3", "1.18.1")
PRECISIONS = (Precision.FP32, Precision.FP16, Precision.INT8, Precision.INT8_DYNAMIC)

_EXPORT = "import sys, exporter; exporter.export('demo', precision=sys.argv[1], out=sys.argv[2])"
_GOLDEN = "import sys, exporter; exporter.write_golden('demo', sys.argv[1])"
_WORKER = """
import base64, json, sys
import numpy, onnxruntime
onnxruntime.set_default_logger_severity(4)
def answer(**content):
    print(json.dumps(content), flush=True)
try:
    session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
except Exception as error:
    answer(error=str(error))
    sys.exit()
answer(version=onnxruntime.__version__)
names = [one.name for one in session.get_inputs()]
for line in sys.stdin:
    feeds = {name: numpy.array(value, numpy.int64) for name, value in zip(names, json.loads(line))}
    try:
        (vectors,) = session.run(None, feeds)
    except Exception as error:
        answer(error=str(error))
    else:
        answer(shape=vectors.shape, vectors=base64.b64encode(numpy.asarray(vectors, "float32").tobytes()).decode())
"""


class OtherRelease:
    """A graph on a release of ONNX Runtime that is not this environment's.

    Args:
        packages: The folder that the release is installed in.
        model: The graph.

    Raises:
        EngineError: The release does not open the graph.
    """

    execution = "CPUExecutionProvider"

    def __init__(self, packages: Path, model: Path) -> None:
        # -S: nothing of this environment is on its path.
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", _WORKER, model],
            env={"PYTHONPATH": str(packages)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self.version = self._answer()["version"]
        except EngineError:
            self.close()
            raise

    def run(self, input_ids: npt.NDArray[np.int64], attention_mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Encode (batch, sequence) int64 ids and mask to (batch, dimension) float32."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([input_ids.tolist(), attention_mask.tolist()]) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        return np.frombuffer(base64.b64decode(answer["vectors"]), np.float32).reshape(answer["shape"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline() or '{"error": "the process has ended"}')
        if "error" in answer:
            raise EngineError(str(answer["error"]))
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def main() -> None:
    """Judge every release, and write ``oldest_onnxruntime``."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--releases", nargs="+", default=RELEASES, metavar="VERSION")
    options = parser.parse_args()
    with work_folder(options.work) as work:
        golden = work / "demo.golden"
        if not golden.is_file():
            run_to_success([sys.executable, "-c", _GOLDEN, str(golden)])
        bundles = {precision: _bundle(precision, work) for precision in PRECISIONS}
        runs = [_judge(release, bundles, golden, _installed(release, work)) for release in options.releases]
    _report(options, runs)


def _bundle(precision: Precision, work: Path) -> Bundle:
    """Return the demo's bundle in a precision, exported unless it is there."""
    folder = work / "artifacts" / "demo" / f"{precision}-onnxruntime"
    if not folder.is_dir():
        run_to_success([sys.executable, "-c", _EXPORT, str(precision), str(work / "artifacts")])
    return Bundle.open(folder)


def _installed(release: str, work: Path) -> Path:
    """Return the folder of a release with its numpy, installed unless it is there."""
    folder = work / "env" / f"onnxruntime-{release}"
    if not folder.is_dir():
        numpy = "numpy<2" if release in _BEFORE_NUMPY_2 else "numpy"
        pip = [sys.executable, "-m", "pip", "install", "-q", "--target", str(folder)]
        run_to_success([*pip, f"onnxruntime=={release}", numpy])
    return folder


def _judge(release: str, bundles: dict[Precision, Bundle], golden: Path, packages: Path) -> dict[str, Any]:
    found = {str(precision): _judge_one(bundle, golden, packages) for precision, bundle in bundles.items()}
    return {"onnxruntime": release, "precisions": found}


def _judge_one(bundle: Bundle, golden: Path, packages: Path) -> dict[str, Any]:
    """Return whether a release opens a bundle's graph, and whether its vectors pass the gate."""
    engine = bundle.manifest.engine
    try:
        with OtherRelease(packages, bundle.folder / engine.files[0]) as runner:
            tokenizer = parse_tokenizer(bundle.folder / TOKENIZER, bundle.read(TOKENIZER))
            encoder = Encoder.of(bundle.manifest.encoder, tokenizer, runner, ranges=bundle.ranges(), device="cpu")
            report = judge_function(encoder.encode, read_golden(golden), engine.precision)
    except EngineError as error:
        return {"runs": False, "error": error.message}
    return {"runs": True, "passed": report.passed, "min_cosine": report.to_dict()["statistics"]["min_cosine"]}


def _report(options: Namespace, runs: Sequence[dict[str, Any]]) -> None:
    rows = [
        (one["onnxruntime"], *(_cell(one["precisions"][str(precision)]) for precision in PRECISIONS)) for one in runs
    ]
    header = ("onnxruntime", *map(str, PRECISIONS))
    conditions = (
        "The demo's bundles for ONNX Runtime on the CPU, opened by each release and judged by the golden gate: the "
        "smallest cosine to the checkpoint's vectors, or that the release does not run the graph."
    )
    # Without the path of the model and the place in the source, which differ from run to run.
    place = re.compile(r"Load model from .*?(?=ONNX Runtime only|Unsupported)")
    errors = [found["error"] for one in runs for found in one["precisions"].values() if not found["runs"]]
    reasons = dict.fromkeys(place.sub("", error) for error in errors)
    sections = ["# Oldest ONNX Runtime", conditions, table(header, rows)]
    sections += ["Reasons:\n\n" + "\n".join(f"- {reason}" for reason in reasons)] if reasons else []
    publish("oldest_onnxruntime", options.results, {"runs": list(runs)}, sections, [])


def _cell(found: dict[str, Any]) -> str:
    if not found["runs"]:
        return "does not run"
    return f"{'passes' if found['passed'] else 'FAILS'}, {found['min_cosine']:.8f}"


if __name__ == "__main__":
    main()
