"""What the benchmarks share: arguments, twins, and how a result is written down and printed."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from exporter.machine import machine, tool_versions
from exporter.recipe import recipes_folder

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).with_name("results")
DEMO = recipes_folder() / "demo" / "checkpoint"
TOOLS = ("korsbert", "torch", "transformers", "sentence-transformers", "onnx", "onnxruntime", "openvino", "numpy")


@dataclass(frozen=True)
class Target:
    """A promise, what was measured, and whether that keeps it.

    Attributes:
        name: What is promised, with its unit.
        value: What was measured.
        bound: The limit.
        at_least: Whether the limit is the smallest allowed value instead of the largest.
    """

    name: str
    value: float
    bound: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the promise is kept."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def row(self) -> tuple[str, str, str, str]:
        """Return the cells of a table: promise, measured, limit, verdict."""
        relation = ">=" if self.at_least else "<="
        return self.name, f"{self.value:.4g}", f"{relation} {self.bound:.4g}", "met" if self.met else "NOT MET"

    def to_dict(self) -> dict[str, Any]:
        """Return the target as JSON data."""
        return {"name": self.name, "value": self.value, "bound": self.bound, "at_least": self.at_least, "met": self.met}


def arguments(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--size", choices=("full", "small"), default="full", help="of the twins; small is a dry run")
    parser.add_argument(
        "--work", type=Path, metavar="FOLDER", help="keep twins here and reuse them; by default they are temporary"
    )
    parser.add_argument("--results", type=Path, metavar="FOLDER", default=RESULTS, help="where JSON and Markdown go")
    return parser


@contextmanager
def work_folder(chosen: Path | None) -> Iterator[Path]:
    """Yield the folder to work in: the user's, or one that is removed at the end."""
    if chosen is not None:
        chosen.mkdir(parents=True, exist_ok=True)
        yield chosen.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="korsbert-benchmark-") as scratch:
        yield Path(scratch)


def twin(name: str, size: str, work: Path) -> Path:
    """Return the folder of a twin, built in a process of its own if it is not there; for ``demo`` its checkpoint."""
    if name == "demo":
        return DEMO
    folder = work / f"{name}-{size}"
    if not folder.is_dir():
        full = ["--full"] if size == "full" else []
        _run_silently([sys.executable, "-m", "tests.support.twins", name, str(folder), *full])
    return folder


def full_checkpoint(name: str, work: Path, *, small: bool = False) -> Path:
    """Return a checkpoint of ``tests.support.full_checkpoints``, built in a process of its own if it is not there.

    Args:
        name: A key of ``FULL``.
        work: Where it is kept.
        small: Build it in a small size, for a dry run.
    """
    folder = work / f"{'small' if small else 'full'}-{name}"
    if not folder.is_dir():
        command = [sys.executable, "-m", "tests.support.full_checkpoints", name, str(folder)]
        _run_silently(command + (["--small"] if small else []))
    return folder / "checkpoint"


def real_checkpoint(name: str, work: Path) -> Path:
    """Return a checkpoint of ``tests.support.real_weights``, written by a process of its own if it is not there."""
    folder = work / f"real-{name}"
    if not folder.is_dir():
        _run_silently([sys.executable, "-m", "tests.support.real_weights", name, str(folder)])
    return folder


def _run_silently(command: Sequence[str]) -> None:
    """Run a command; what it says is shown if it fails."""
    done = subprocess.run(command, check=False, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}\nexit code {done.returncode}: {' '.join(command[1:])}")


def twin_recipe(name: str, size: str, folder: Path) -> Path:
    """Write the shipped recipe as a twin can satisfy it into ``folder``, and return the file.

    A twin has not the weights whose vectors a card prints, and a small one has not their dimension.
    """
    recipe = yaml.safe_load((recipes_folder() / f"{name}.yaml").read_text(encoding="utf-8"))
    recipe.pop("known_answer", None)
    if size == "small" and name != "demo":
        recipe["expect"].pop("dimension")
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
    return path


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def targets_table(targets: Sequence[Target]) -> str:
    """Return a Markdown table of promises and verdicts."""
    return table(("promised", "measured", "limit", ""), [target.row() for target in targets])


def revision(checkout: Path = ROOT) -> str:
    """Return the short commit hash of a checkout, with ``-dirty`` where tracked files differ from it."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def publish(
    name: str, folder: Path, data: Mapping[str, Any], sections: Sequence[str], targets: Sequence[Target]
) -> None:
    """Write ``name.json`` and ``name.md``, with the machine's facts in both, and print the Markdown.

    Args:
        name: Of the files.
        folder: Where they go.
        data: The measurements.
        sections: Markdown, in order; the first is the heading.
        targets: Promises that were put to the test.
    """
    facts: dict[str, Any] = {"machine": machine(), "tools": tool_versions(TOOLS), "revision": revision()}
    tools = ", ".join(f"{tool} {version}" for tool, version in facts["tools"].items())
    footer = (
        "{processor}, {cores} cores, {system}".format(**facts["machine"]) + f"; {tools}; revision {facts['revision']}."
    )
    judged = [targets_table(targets)] if targets else []
    text = "\n\n".join([*sections, *judged, footer]) + "\n"
    content = {**data, "targets": [target.to_dict() for target in targets], **facts}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)
