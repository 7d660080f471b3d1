"""Where the judged came from: checkpoint, hashes, versions, machine, date."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exporter.report.numbers import bytes_size

Facts = tuple[tuple[str, str], ...]


def origin_of(manifest: Mapping[str, Any]) -> Facts:
    """Return name and value of what a manifest states; without a seal while the bundle is being published.

    Args:
        manifest: As JSON data.
    """
    source, engine, encoder = manifest["source"], manifest["engine"], manifest["encoder"]
    facts: dict[str, str] = {
        "Checkpoint": source["checkpoint"],
        "Commit": source["commit"] or "none: the checkpoint is a folder",
        "Weights, SHA-256": source["weights_sha256"],
        "Recipe": manifest["recipe"]["name"],
        "Encoder": (
            f"{encoder['architecture']}, {'+'.join(encoder['pooling'])} pooling, {encoder['dimension']} dimensions, "
            f"{encoder['max_seq_length']} tokens"
        ),
        "Engine": f"{engine['precision']} on {engine['backend']}",
        "Graph, SHA-256": manifest["graph"]["sha256"],
        "Validation": manifest["validation"]["note"],
        "Exported": manifest["created"],
        "Exported on": machine_of(manifest["machine"]),
        "Exported with": versions_of(manifest["tools"]),
        "Seal of the manifest": manifest["seal"] or "in manifest.json, which lists the hash of this page too",
    }
    return tuple(facts.items())


def files_of(manifest: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    """Return (name, size, SHA-256) of the files of a bundle."""
    return tuple((name, bytes_size(facts["size"]), facts["sha256"]) for name, facts in manifest["files"].items())


def machine_of(machine: Mapping[str, Any]) -> str:
    """Return a machine in words."""
    gpu = machine.get("gpu")
    told = [str(machine.get("processor", "")), f"{machine.get('cores', '?')} cores", str(machine.get("system", ""))]
    told += [str(gpu.get("name", ""))] if isinstance(gpu, Mapping) else []
    return ", ".join(part for part in told if part)


def versions_of(tools: Mapping[str, Any]) -> str:
    """Return names and versions of tools in one line."""
    return ", ".join(f"{name} {version}" for name, version in tools.items())
