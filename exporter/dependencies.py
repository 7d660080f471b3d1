"""Optional packages: import one, or say in one sentence how to get it."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType

from exporter.errors import MissingDependencyError, first_line

# Package name on import -> the extra of korsbert that brings it.
EXTRAS = {
    "torch": "export",
    "transformers": "export",
    "sentence_transformers": "export",
    "onnx": "export",
    "onnx_ir": "export",
    "onnxscript": "export",
    "optimum": "export",
    "jinja2": "report",
    "matplotlib": "report",
    "onnxruntime": "cpu",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt-rtx",
    "polygraphy": "tensorrt-rtx",
    "tritonclient": "triton",
    "grpc": "triton",
    "google": "triton",
    "fsspec": "embed",
    "pyarrow": "embed",
    "ray": "ray",
    "model_signing": "sign",
    "OpenSSL": "sign",
    "langchain_core": "langchain",
    "llama_index": "llama-index",
    "haystack": "haystack",
    "chromadb": "chroma",
    "sklearn": "scikit-learn",
}

REFERENCE_PACKAGES = ("torch", "sentence_transformers", "optimum")
"""What the PyTorch reference needs."""
EXPORT_PACKAGES = (*REFERENCE_PACKAGES, "onnxscript", "onnxruntime", "jinja2", "matplotlib")
"""What an export needs besides its engine. The last two draw ``report.html``."""


def release_of(version: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with, to compare: ``(1, 25, 0)`` of ``"1.25.0rc1"``; ``()`` of none."""
    found = re.match(r"\d{1,9}(\.\d{1,9})*", version, re.ASCII)
    return tuple(map(int, found[0].split("."))) if found else ()


def refuse_missing(packages: Iterable[str]) -> None:
    """Refuse optional packages that are not installed. None is imported, so one that is broken is not found out.

    Raises:
        MissingDependencyError: One is not installed; the message names the pip command.
    """
    for package in packages:
        if not is_installed(package):
            raise _missing(package)


def is_installed(package: str) -> bool:
    """Whether a package can be found by the name that it is imported under. It is not imported."""
    return importlib.util.find_spec(package) is not None


def require_all(packages: Iterable[str]) -> None:
    """Import optional packages.

    Garbage collection pauses meanwhile: torch and transformers make a million objects that stay, and walking over them
    again and again takes a sixth of the time of their import.

    Raises:
        MissingDependencyError: One is not installed; the message names the pip command.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        for package in packages:
            require(package)
    finally:
        if collects:
            gc.enable()


def require(package: str, extra: str | None = None) -> ModuleType:
    """Import an optional package.

    Args:
        package: What to import.
        extra: The extra of korsbert that brings it, where several do and this is the one that is wanted.

    Raises:
        MissingDependencyError: It is not installed; the message names the pip command.
    """
    with importing(package, extra):
        return importlib.import_module(package)


@contextmanager
def importing(package: str, extra: str | None = None) -> Iterator[None]:
    """Let the statements below import an optional package, where type checkers have to see them.

    Args:
        package: What they import.
        extra: The extra of korsbert that brings it, where several do and this is the one that is wanted.

    Raises:
        MissingDependencyError: It is not installed; the message names the pip command.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or package).partition(".")[0]
        wanted = "" if missing in EXTRAS else f", which {package} needs"
        raise _missing(missing, extra or EXTRAS.get(missing) or EXTRAS[package.partition(".")[0]], wanted) from error
    except (ImportError, OSError) as error:
        name = package.partition(".")[0]
        raise MissingDependencyError(
            f"{name} is installed and cannot be imported: {first_line(error)}", next_step=f"install {name} again"
        ) from error


def _missing(package: str, extra: str | None = None, wanted: str = "") -> MissingDependencyError:
    return MissingDependencyError(
        f"{package} is not installed{wanted}", next_step=f"pip install 'korsbert[{extra or EXTRAS[package]}]'"
    )
