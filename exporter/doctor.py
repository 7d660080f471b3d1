"""What can run on this machine: packages, targets, processor, memory, GPU and disk. torch is not imported.

Each target is judged by the checks of its precision and its engine, which an export asks too.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from huggingface_hub.constants import HF_HUB_CACHE

from exporter.dependencies import EXPORT_PACKAGES, refuse_missing
from exporter.engines import backend_of
from exporter.engines.cuda import find_gpu
from exporter.engines.onnxruntime import providers
from exporter.errors import BuildError, ExportError, MissingDependencyError
from exporter.machine import machine, memory_bytes, tool_versions
from exporter.targets import Backend, Device, Precision, Target

PACKAGES = (
    *("korsbert", "torch", "transformers", "sentence-transformers", "optimum", "onnx", "onnx-ir", "onnxscript"),
    *("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx-cu13", "polygraphy", "tritonclient"),
    *("tokenizers", "numpy", "safetensors", "huggingface-hub", "pyarrow", "ray", "model-signing"),
)
INSTRUCTIONS = {
    "avx2": "the least for fast float32",
    "avx512f": "float32 in vectors of 16",
    "avx512_vnni": "fast int8",
    "avx_vnni": "fast int8",
    "avx512_bf16": "fast bf16 (openvino)",
    "amx_int8": "the fastest int8",
    "amx_bf16": "the fastest bf16 (openvino)",
    "avx512_fp16": "fast fp16 (openvino)",
}
"""Names of instruction sets in ``/proc/cpuinfo`` (x86), and what an engine is faster at where they are there."""
_CGROUP = Path("/sys/fs/cgroup")
_NOT_FOR_USERS = {"dev", "docs"}


@dataclass(frozen=True)
class TargetState:
    """Whether this machine can build and run one target.

    Attributes:
        precision: Number format.
        backend: Library that runs it.
        device: Where it runs.
        builds: Whether this machine can export it.
        runs: Whether this machine can run it, and so judge the gate.
        reason: Why one of the two is not so, or None.
        next_step: What to do about it, or None.
    """

    precision: Precision
    backend: Backend
    device: Device
    builds: bool
    runs: bool
    reason: str | None = None
    next_step: str | None = None


def examine() -> dict[str, Any]:
    """Return what can run here, as JSON data: ``targets``, ``packages``, ``machine`` and others.

    ``ok`` says whether something can be exported and run here.
    """
    targets = [judge(target) for target in all_targets()]
    gpu = find_gpu()
    return {
        "ok": any(state.builds and state.runs for state in targets),
        "packages": tool_versions(PACKAGES),
        "extras": extras(),
        "onnxruntime_providers": _providers(),
        "machine": {
            **machine(),
            "cpu_limit": cpu_limit(),
            "memory_bytes": memory_bytes(),
            "instructions": instructions(),
        },
        "gpu": None if gpu is None else asdict(gpu),
        "folders": folders(),
        "targets": [asdict(state) for state in targets],
    }


def all_targets() -> list[Target]:
    """Return every precision on every backend and device that the backend may have."""
    devices = {backend: [Device.CUDA] if backend.needs_gpu else [Device.CPU] for backend in Backend}
    devices[Backend.ONNXRUNTIME].append(Device.CUDA)
    return [
        Target(precision, backend, device)
        for backend in Backend
        for device in devices[backend]
        for precision in Precision
    ]


def judge(target: Target) -> TargetState:
    """Return whether a target can be built and run here, by the checks of its precision and its engine."""
    not_built, not_run = _refusal(target, building=True), _refusal(target, building=False)
    first = not_built or not_run
    no_kernels = isinstance(not_built, BuildError) or isinstance(not_run, BuildError)
    return TargetState(
        target.precision,
        target.backend,
        target.device,
        builds=not_built is None and not no_kernels,
        runs=not_run is None and not no_kernels,
        reason=None if first is None else first.message,
        next_step=None if first is None else first.next_step,
    )


def _refusal(target: Target, *, building: bool) -> ExportError | None:
    try:
        backend = backend_of(target.backend)
        if not building:
            backend.check(target.precision, target.device)
            return None
        refuse_missing(EXPORT_PACKAGES)
        from exporter.precisions import precision_of  # noqa: PLC0415 - imports onnx_ir, which may be missing

        precision_of(target.precision).check(target)
        backend.check_build(target.precision, target.device)
    except ExportError as error:
        return error
    return None


def extras() -> dict[str, bool]:
    """Return whether all packages of each extra of korsbert are installed."""
    found: dict[str, bool] = {}
    for requirement in metadata.requires("korsbert") or ():
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", requirement)
        name = re.match(r"[\w.-]+", requirement)
        if extra and name and extra[1] not in _NOT_FOR_USERS:
            found[extra[1]] = found.get(extra[1], True) and bool(tool_versions([name[0]]).get(name[0]))
    return found


def cpu_limit() -> float | None:
    """Return how many cores the control group of this process may keep busy (cgroup v2 or v1), or None."""
    try:
        quota, period = (_CGROUP / "cpu.max").read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        try:
            quota, period = (
                (_CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text(encoding="utf-8").strip()
                for name in ("quota", "period")
            )
        except OSError:
            return None
    return None if quota in {"max", "-1"} else int(quota) / int(period)


def instructions() -> list[str]:
    """Return those of ``INSTRUCTIONS`` that the processor has; none where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return []
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    return [name for name in INSTRUCTIONS if name in flags]


def folders() -> dict[str, dict[str, Any]]:
    """Return the folders that an export writes to, with the free bytes of their disks."""
    places = {
        "hub cache": Path(HF_HUB_CACHE),
        "temporary files": Path(tempfile.gettempdir()),
        "bundles": Path("artifacts"),
    }
    return {name: {"path": str(path), "free_bytes": _free(path)} for name, path in places.items()}


def _free(path: Path) -> int | None:
    """Return the free bytes of the disk that a folder is on, or would be on; None where it cannot be looked at."""
    try:
        there = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
        return shutil.disk_usage(there).free
    except OSError:
        return None


def _providers() -> list[str]:
    try:
        return providers()
    except MissingDependencyError:
        return []
