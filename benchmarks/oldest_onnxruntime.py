"""The oldest ONNX Runtime that runs a bundle: each release opens the demo's bundles and is judged by the golden gate.

    python -m benchmarks.oldest_onnxruntime --older-python python3.10

Each release is installed from PyPI in a folder of its own, with nothing but numpy beside it. A process with that folder
alone on its path opens ``model.onnx`` and computes vectors; tokenizing and judging happen here. Bundles as they are by
default are judged on every release. For each lower opset, the passes of ``export`` lower the graphs of these bundles,
and the releases are tried from the oldest on until one passes.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from benchmarks.processes import run_to_success
from benchmarks.results import arguments, publish, table, work_folder
from exporter.bundle import TOKENIZER, Bundle
from exporter.bundle.bundle import parse_tokenizer
from exporter.errors import EngineError
from exporter.golden import read_golden
from exporter.golden.judging import judge_function
from exporter.graph.passes import passes_for, run_passes
from exporter.graph.storage import to_bytes
from exporter.runtime.encoder import Encoder
from exporter.targets import FOLDED_OPSET, OLDEST_OPSET, Precision

# Minor versions by their last release. There are no wheels of the first ones for this Python.
_FOR_OLDER_PYTHON = ("1.12.1", "1.13.1", "1.14.1")
RELEASES = (
    *("1.15.1", "1.16.3", "1.17.3", "1.18.1", "1.19.2", "1.20.1", "1.21.1", "1.22.1", "1.23.2"),
    *("1.24.4", "1.25.1", "1.27.0", "1.32.0"),
)
_BEFORE_NUMPY_2 = (*_FOR_OLDER_PYTHON, "1.15.1", "1.16.3", "1.17.3", "1.18.1")
LOWER_OPSETS = tuple(range(FOLDED_OPSET - 1, OLDEST_OPSET - 1, -1))
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
        python: The interpreter that the release was installed for.

    Raises:
        EngineError: The release does not open the graph.
    """

    execution = "CPUExecutionProvider"

    def __init__(self, packages: Path, model: Path, python: str = sys.executable) -> None:
        # -S: nothing of this environment is on its path.
        self._process = subprocess.Popen(
            [python, "-S", "-c", _WORKER, model],
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
    parser.add_argument(
        "--older-python", metavar="PYTHON", help="Python 3.10, for releases before 1.15 (default: none)"
    )
    options = parser.parse_args()
    older = dict.fromkeys(_FOR_OLDER_PYTHON, options.older_python) if options.older_python else {}
    with work_folder(options.work) as work:
        golden = work / "demo.golden"
        if not golden.is_file():
            run_to_success([sys.executable, "-c", _GOLDEN, str(golden)])
        bundles = {precision: _bundle(precision, work) for precision in PRECISIONS}
        releases = [_installed(release, older.get(release), work) for release in (*older, *options.releases)]
        runs = [_judge(release, bundles, golden) for release in releases]
        lowered = [_oldest(opset, bundles, golden, releases, work) for opset in LOWER_OPSETS]
    _report(options, runs, lowered)


def _bundle(precision: Precision, work: Path) -> Bundle:
    """Return the demo's bundle in a precision, exported unless it is there."""
    folder = work / "artifacts" / "demo" / f"{precision}-onnxruntime"
    if not folder.is_dir():
        run_to_success([sys.executable, "-c", _EXPORT, str(precision), str(work / "artifacts")])
    return Bundle.open(folder)


@dataclass(frozen=True)
class Release:
    """A release of ONNX Runtime, the folder that it is installed in, and the interpreter that it is installed for."""

    version: str
    packages: Path
    python: str


def _installed(version: str, python: str | None, work: Path) -> Release:
    """Return a release with its numpy, installed unless it is there."""
    release = Release(version, work / "env" / f"onnxruntime-{version}", python or sys.executable)
    if not release.packages.is_dir():
        numpy = "numpy<2" if version in _BEFORE_NUMPY_2 else "numpy"
        pip = [release.python, "-m", "pip", "install", "-q", "--target", str(release.packages)]
        run_to_success([*pip, f"onnxruntime=={version}", numpy])
    return release


def _judge(release: Release, bundles: dict[Precision, Bundle], golden: Path) -> dict[str, Any]:
    found = {
        str(precision): _judge_one(bundle, _graph_of(bundle), golden, release) for precision, bundle in bundles.items()
    }
    return {"onnxruntime": release.version, "precisions": found}


def _oldest(
    opset: int, bundles: dict[Precision, Bundle], golden: Path, releases: Sequence[Release], work: Path
) -> dict[str, Any]:
    """Return the oldest release that passes the gate in each precision with graphs that are lowered to an opset."""
    found = {}
    for precision, bundle in bundles.items():
        graph = _lowered(bundle, opset, work)
        tried: list[dict[str, Any]] = []
        for release in releases:
            tried.append({"onnxruntime": release.version, **_judge_one(bundle, graph, golden, release)})
            if tried[-1].get("passed"):
                break
        found[str(precision)] = tried
    return {"opset": opset, "precisions": found}


def _lowered(bundle: Bundle, opset: int, work: Path) -> Path:
    """Lower the graph of a bundle as ``export`` lowers it: after the conversion to the precision."""
    model = ir.from_proto(onnx.load_model(_graph_of(bundle)))
    engine = bundle.manifest.engine
    run_passes(model, passes_for(engine.backend, "cpu", engine.precision, opset=opset))
    file = work / f"{engine.precision}-opset-{opset}.onnx"
    file.write_bytes(to_bytes(model))
    return file


def _graph_of(bundle: Bundle) -> Path:
    return bundle.folder / bundle.manifest.engine.files[0]


def _judge_one(bundle: Bundle, graph: Path, golden: Path, release: Release) -> dict[str, Any]:
    """Return whether a release opens a bundle's graph, and whether its vectors pass the gate."""
    engine = bundle.manifest.engine
    try:
        with OtherRelease(release.packages, graph, release.python) as runner:
            tokenizer = parse_tokenizer(bundle.folder / TOKENIZER, bundle.read(TOKENIZER))
            encoder = Encoder.of(bundle.manifest.encoder, tokenizer, runner, ranges=bundle.ranges(), device="cpu")
            report = judge_function(encoder.encode, read_golden(golden), engine.precision)
    except EngineError as error:
        return {"runs": False, "error": error.message.replace(f"{graph.parent}/", "")}  # without this machine's paths
    return {"runs": True, "passed": report.passed, "min_cosine": report.to_dict()["statistics"]["min_cosine"]}


def _report(options: Namespace, runs: Sequence[dict[str, Any]], lowered: Sequence[dict[str, Any]]) -> None:
    rows = [
        (one["onnxruntime"], *(_cell(one["precisions"][str(precision)]) for precision in PRECISIONS)) for one in runs
    ]
    header = ("onnxruntime", *map(str, PRECISIONS))
    conditions = (
        "The demo's bundles for ONNX Runtime on the CPU, opened by each release and judged by the golden gate: the "
        "smallest cosine to the checkpoint's vectors, or that the release does not run the graph."
    )
    # Without the path of the model, the place in the source and addresses in names, which differ from run to run.
    place = re.compile(r"Load model from .*?(?=ONNX Runtime only|Unsupported)|0x[0-9a-f]+_")
    judged = [found for one in runs for found in one["precisions"].values()]
    judged += [found for one in lowered for tried in one["precisions"].values() for found in tried]
    reasons = dict.fromkeys(place.sub("", found["error"]).strip() for found in judged if not found["runs"])
    oldest = [
        (str(one["opset"]), *(_oldest_cell(one["precisions"][str(precision)]) for precision in PRECISIONS))
        for one in lowered
    ]
    sections = [
        *("# Oldest ONNX Runtime", conditions, table(header, rows), "## Lower opsets"),
        "The same graphs after the passes of `--opset`: the oldest release that passes the gate, with its smallest "
        "cosine. Every older one was tried before it and does not run the graph, or fails.",
        table(("opset", *map(str, PRECISIONS)), oldest),
    ]
    sections += ["Reasons:\n\n" + "\n".join(f"- {reason}" for reason in reasons)] if reasons else []
    publish("oldest_onnxruntime", options.results, {"runs": list(runs), "lowered": list(lowered)}, sections, [])


def _oldest_cell(tried: Sequence[dict[str, Any]]) -> str:
    last = tried[-1]
    return f"{last['onnxruntime']}, {last['min_cosine']:.8f}" if last.get("passed") else "none"


def _cell(found: dict[str, Any]) -> str:
    if not found["runs"]:
        return "does not run"
    return f"{'passes' if found['passed'] else 'FAILS'}, {found['min_cosine']:.8f}"


if __name__ == "__main__":
    main()
