"""Who is measured in `benchmarks.peers`: peers and engines of korsbert, their environments and exports."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.peer import ANSWERS, Peer, PeerError, last_error
from benchmarks.peer_programs import Job
from benchmarks.results import ROOT

REQUIREMENTS = Path(__file__).with_name("requirements")
OWN = ""
"""The environment of this process."""
FP32, HALF, INT8 = CLASSES = ("fp32", "16 bit", "int8")
REFERENCE = "sentence-transformers fp32"
_KORSBERT = "korsbert "
_PROGRAM = f"""
sys.path.insert(0, {str(ROOT)!r})
from benchmarks.peer_programs import main
main(requests, answer)
"""
_ONNX_LIBRARIES = ("sentence-transformers", "optimum-onnx", "onnxruntime")
_OPENVINO_LIBRARIES = ("sentence-transformers", "optimum-intel", "openvino")


@dataclass(frozen=True)
class Step:
    """Files that are written before a contender is loaded; contenders may share a step.

    Attributes:
        environment: Name of a file of ``requirements``, or ``OWN``.
        program: Module of ``benchmarks.peer_programs``.
        folder: Where it writes, within the folder of the model.
        variant: What it writes.
    """

    environment: str
    program: str
    folder: str
    variant: str


@dataclass(frozen=True)
class Contender:
    """One row of the table.

    Attributes:
        name: Of the row.
        kind: Its class of precision, one of ``CLASSES``.
        environment: Name of a file of ``requirements``, or ``OWN``.
        program: Module of ``benchmarks.peer_programs``.
        folder: What it loads, within the folder of the model.
        variant: Which engine of the program.
        steps: What must have been written before, in order.
        libraries: Distributions whose versions are stated.
    """

    name: str
    kind: str
    environment: str
    program: str
    folder: str
    variant: str
    steps: tuple[Step, ...] = ()
    libraries: tuple[str, ...] = ()


def is_korsbert(name: str) -> bool:
    """Return whether a row is one of korsbert's engines, by its name."""
    return name.startswith(_KORSBERT)


def engine_of(name: str) -> str:
    """Return backend and precision of a row of korsbert, by its name."""
    return name.removeprefix(_KORSBERT)


def _sentence_transformers_onnx(variant: str) -> tuple[Step, ...]:
    exported = Step(*_ONNX, "model")
    return (exported,) if variant == "model" else (exported, Step(*_ONNX, variant))


_ONNX = ("sentence-transformers-onnx", "sentence_transformers_onnx", "onnx")
_OPENVINO = ("sentence-transformers-openvino", "sentence_transformers_openvino", "openvino")
_LIGHT = "fastembed-light-embed"


def _onnx(name: str, kind: str, variant: str) -> Contender:
    return Contender(name, kind, *_ONNX, variant, _sentence_transformers_onnx(variant), _ONNX_LIBRARIES)


def _light(library: str, kind: str, variant: str) -> Contender:
    name, program = f"{library} {'fp32' if variant == 'model' else variant}", f"{library.replace('-', '_')}_onnx"
    steps = _sentence_transformers_onnx(variant)
    return Contender(name, kind, _LIGHT, program, "onnx", variant, steps, (library, "onnxruntime"))


def _openvino(name: str, kind: str, variant: str) -> Contender:
    converted = Step(*_OPENVINO, "f32")
    steps = (converted, Step(*_OPENVINO, variant)) if kind == INT8 else (converted,)
    return Contender(name, kind, *_OPENVINO, variant, steps, _OPENVINO_LIBRARIES)


def _transformers(name: str, kind: str, variant: str) -> Contender:
    place = ("transformers-exporter", "transformers_exporter", "transformers")
    engine = ("onnxruntime",) if variant.startswith("onnx") else ("openvino", "nncf")
    return Contender(name, kind, *place, variant, (Step(*place, variant),), ("transformers", *engine))


def _korsbert(kind: str, precision: str, backend: str) -> Contender:
    place, variant = (OWN, "korsbert_engines", "korsbert"), f"{precision} {backend}"
    name = f"{_KORSBERT}{backend} {precision}"
    return Contender(name, kind, *place, variant, (Step(*place, variant),), ("korsbert", backend))


def _torch(name: str, kind: str, variant: str) -> Contender:
    libraries = ("sentence-transformers", "torch")
    return Contender(name, kind, OWN, "sentence_transformers_torch", ".", variant, (), libraries)


CONTENDERS = (
    _torch(REFERENCE, FP32, "fp32"),
    _onnx("sentence-transformers ONNX O3", FP32, "O3"),
    _openvino("sentence-transformers OpenVINO f32", FP32, "f32"),
    Contender(
        "optimum-onnx fp32",
        FP32,
        "sentence-transformers-onnx",
        "optimum_onnx",
        "onnx",
        "model",
        _sentence_transformers_onnx("model"),
        ("optimum-onnx", "transformers", "onnxruntime"),
    ),
    _light("fastembed", FP32, "model"),
    _light("light-embed", FP32, "model"),
    _transformers("transformers exporter ONNX fp32", FP32, "onnx fp32"),
    _transformers("transformers exporter OpenVINO f32", FP32, "openvino f32"),
    _korsbert(FP32, "fp32", "onnxruntime"),
    _korsbert(FP32, "fp32", "openvino"),
    _torch("sentence-transformers bf16", HALF, "bf16"),
    _openvino("sentence-transformers OpenVINO bf16", HALF, "bf16"),
    _transformers("transformers exporter OpenVINO bf16", HALF, "openvino bf16"),
    _korsbert(HALF, "bf16", "openvino"),
    _onnx("sentence-transformers ONNX qint8", INT8, "qint8"),
    _openvino("sentence-transformers OpenVINO qint8", INT8, "qint8"),
    _light("fastembed", INT8, "qint8"),
    _light("light-embed", INT8, "qint8"),
    _transformers("transformers exporter ONNX dynamic int8", INT8, "onnx dynamic"),
    _transformers("transformers exporter ONNX static int8", INT8, "onnx static"),
    _transformers("transformers exporter OpenVINO int8 (NNCF)", INT8, "openvino int8"),
    _korsbert(INT8, "int8", "onnxruntime"),
    _korsbert(INT8, "int8", "openvino"),
)
"""The first is what the others are relative to."""


def environment(name: str, work: Path) -> Path:
    """Return the Python of an environment, made from its requirements by venv and pip unless it is there.

    The files list every package, so pip resolves nothing.

    Raises:
        PeerError: pip cannot install it.
    """
    if name == OWN:
        return Path(sys.executable)
    requirements = REQUIREMENTS / f"{name}.txt"
    folder = work / "environments" / f"{name}-{_digest(requirements.read_bytes())}"
    python, ready = folder / "bin" / "python", folder / "ready"
    if not ready.is_file():
        print(f"making the environment {name}", flush=True)
        commands = (
            [sys.executable, "-m", "venv", "--clear", str(folder)],
            [str(python), "-m", "pip", "install", "-q", "--no-deps", "-r", str(requirements)],
        )
        for command in commands:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
            if done.returncode:
                raise PeerError(f"cannot be installed: {last_error(done.stdout)}")
        ready.touch()
    return python


def files_folder(place: Contender | Step, calibration: bytes, revision: str) -> str:
    """Return the name of the folder for what a step writes, and a contender loads: another name for other content.

    What a peer exports depends on the requirements of its environment and on the calibration text, what korsbert
    builds on its revision and on that text.

    Args:
        place: A step, or a contender, whose steps share one environment.
        calibration: The calibration text.
        revision: Of this checkout.
    """
    writer = place if isinstance(place, Step) else next(iter(place.steps), None)
    if writer is None:  # it reads the checkpoint itself
        return place.folder
    if writer.environment == OWN:
        return f"{place.folder}-{revision}-{_digest(calibration)}"
    requirements = (REQUIREMENTS / f"{writer.environment}.txt").read_bytes()
    return f"{place.folder}-{_digest(requirements + calibration)}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]


def start(place: Contender | Step, action: str, job: Job, work: Path) -> Peer:
    """Start the process of a contender or of a step, in its environment.

    Raises:
        PeerError: Its environment cannot be made.
    """
    python = environment(place.environment, work)
    return Peer(python, ANSWERS + _PROGRAM, place.program, action, json.dumps(asdict(job)))


def prepare(
    contender: Contender, job_of: Callable[[Contender | Step], Job], work: Path, failed: dict[Step, str]
) -> None:
    """Write what a contender needs, unless it is there.

    Args:
        contender: Whose steps are done.
        job_of: Makes the job of a step.
        work: Where environments are.
        failed: Why steps failed in this run: none of them is tried twice.

    Raises:
        PeerError: A step failed; the message says why.
    """
    for step in contender.steps:
        job = job_of(step)
        done = Path(job.folder) / f"{step.variant.replace(' ', '-')}.done"
        if not done.is_file():
            print(f"{contender.name}: {step.program} writes {step.variant}", flush=True)
            if step in failed:
                raise PeerError(failed[step])
            Path(job.folder).mkdir(parents=True, exist_ok=True)
            try:
                with start(step, "prepare", job, work) as process:
                    process.answer()
            except PeerError as error:
                failed[step] = str(error)
                raise
            done.touch()
