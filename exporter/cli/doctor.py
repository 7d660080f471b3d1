"""``korsbert doctor``: what can run on this machine."""

from __future__ import annotations

from typing import Any

import typer

from exporter.cli.arguments import JsonFlag
from exporter.cli.flags import with_flags
from exporter.cli.from_options import flag_of
from exporter.cli.output import print_json, print_table
from exporter.options import ExportOptions
from exporter.targets import Precision

_NOTHING_RUNS = 3  # as a package or a device that is missing
_GB = 1e9


def doctor_command(as_json: JsonFlag = False) -> None:
    """Show what can be exported and run on this machine, and what is missing for the rest."""
    from exporter.doctor import examine

    found = examine()
    if as_json:
        print_json(found)
    else:
        print_table(("", "this machine"), _machine(found), whole_columns=1)
        print_table(("target", "builds", "runs", "why not", "what to do"), _targets(found), whole_columns=3)
    if not found["ok"]:
        raise typer.Exit(_NOTHING_RUNS)


def _machine(found: dict[str, Any]) -> list[tuple[str, str]]:
    from exporter.doctor import INSTRUCTIONS

    machine, gpu = found["machine"], found["gpu"]
    limit = "" if machine["cpu_limit"] is None else f", and {machine['cpu_limit']:g} by its control group"
    known = [f"{name} ({INSTRUCTIONS[name]})" for name in machine["instructions"]]
    return [
        ("packages", ", ".join(f"{name} {version}" for name, version in found["packages"].items())),
        ("extras", ", ".join(name for name, there in found["extras"].items() if there) or "none"),
        ("missing extras", ", ".join(name for name, there in found["extras"].items() if not there) or "none"),
        ("onnxruntime", ", ".join(found["onnxruntime_providers"]) or "not installed"),
        ("processor", f"{machine['processor']}; this process may use {machine['cores']} cores{limit}"),
        ("instructions", ", ".join(known) or "none that is known here"),
        ("memory", f"{machine['memory_bytes'] / _GB:.1f} GB"),
        ("GPU", "none" if gpu is None else f"{gpu['name']}, driver {gpu['driver']}, CUDA {gpu['cuda']}"),
        *((name, f"{place['path']}: {_free(place['free_bytes'])}") for name, place in found["folders"].items()),
    ]


def _free(size: int | None) -> str:
    return "cannot be looked at" if size is None else f"{size / _GB:.1f} GB free"


def _targets(found: dict[str, Any]) -> list[tuple[str, ...]]:
    flags = {name: flag_of(name) for name in (*ExportOptions.model_fields, *Precision) if name != "precision"}
    return [
        (
            f"{state['precision']} on {state['backend']} ({state['device']})",
            "yes" if state["builds"] else "no",
            "yes" if state["runs"] else "no",
            with_flags(state["reason"] or "", flags),
            with_flags(state["next_step"] or "", flags),
        )
        for state in found["targets"]
    ]
