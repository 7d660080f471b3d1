"""What machine this is and which tools it has, for manifests and benchmark results. No host name, no paths."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def machine() -> dict[str, Any]:
    """Return the processor's name, the cores this process may use, and the operating system."""
    return {"processor": _processor(), "cores": cores(), "system": f"{platform.system()} {platform.machine()}"}


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_bytes() -> int | None:
    """Return how much memory new processes can have without swapping; None where the system does not say (Linux does).

    Source: ``MemAvailable`` of proc_meminfo(5), or the limit of the control group where that is less.
    """
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", _MEMINFO.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else min(int(found[1]) * 1024, memory_bytes())


def memory_bytes() -> int:
    """Return the memory of this machine, or the limit of the control group (v2 or v1) where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            return min(total, int((_CGROUP / name).read_text(encoding="utf-8")))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return total


def tool_versions(tools: Sequence[str]) -> dict[str, str]:
    """Return the version of Python and of those of ``tools`` (distribution names) that are installed."""
    versions = {"python": platform.python_version()}
    for tool in tools:
        try:
            versions[tool] = metadata.version(tool)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
