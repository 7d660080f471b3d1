"""What `pyproject.toml` promises agrees with the files beside it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def extras_of_the_suite() -> list[str]:
    """Return the extras that the Makefile installs to run the tests."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (extras,) = re.findall(r"^EXTRAS := (.*)$", makefile, flags=re.MULTILINE)
    return str(extras).split(",")


def requirements(*more: str) -> list[Requirement]:
    """Return what the suite requires, and the extras ``more``."""
    extras = PROJECT["optional-dependencies"]
    lines = [line for extra in (*extras_of_the_suite(), *more) for line in extras[extra]]
    return [Requirement(line) for line in (*PROJECT["dependencies"], *lines)]


def lower_bounds() -> dict[str, Version]:
    """Return the highest lower bound of every required package that has one."""
    found: dict[str, Version] = {}
    for requirement in requirements():
        for bound in requirement.specifier:
            if bound.operator in {">=", "=="}:
                name, version = canonicalize_name(requirement.name), Version(bound.version)
                found[name] = max(version, found.get(name, version))
    return found


def pinned(file: str) -> dict[str, Version]:
    """Read a file of constraints: every line is a comment or `name==version`."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def test_the_oldest_constraints_are_the_lower_bounds() -> None:
    assert pinned("constraints-oldest.txt") == lower_bounds()


def test_the_adapters_have_the_lower_bounds_of_their_extras() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    ((engine, *adapters),) = (
        names.split(",") for names in re.findall(r"^ADAPTERS := (.*)$", makefile, flags=re.MULTILINE)
    )
    assert engine == "cpu"
    required = [Requirement(line) for extra in adapters for line in PROJECT["optional-dependencies"][extra]]
    bounds = {canonicalize_name(each.name): Version(bound.version) for each in required for bound in each.specifier}
    assert pinned("constraints-adapters-oldest.txt") == bounds
    page = (ROOT / "docs" / "adapters.md").read_text(encoding="utf-8")
    newest = pinned("constraints-adapters.txt")
    for requirement in required:
        name = canonicalize_name(requirement.name)
        assert newest[name] in requirement.specifier
        assert f"| {name} {bounds[name]} |" in page


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-oldest.txt"])
def test_every_constraint_is_allowed(file: str) -> None:
    versions = pinned(file)
    for requirement in requirements("docs"):
        name = canonicalize_name(requirement.name)
        if name in versions:
            assert requirement.specifier.contains(versions[name]), f"{file}: {name} {versions[name]}: {requirement}"


def test_every_required_package_is_pinned() -> None:
    required = {canonicalize_name(requirement.name) for requirement in requirements("docs")}
    missing = required - pinned("constraints.txt").keys()
    assert missing == set()


@pytest.mark.parametrize(("lock", "constraints"), [("dev", "constraints.txt"), ("triton", "constraints-triton.txt")])
def test_a_locked_environment_has_the_versions_of_the_constraints_and_hashes(lock: str, constraints: str) -> None:
    text = (ROOT / ".ci" / "locks" / f"{lock}.txt").read_text(encoding="utf-8")
    versions = {}
    for name, version, hashes in re.findall(
        r"^([\w.-]+)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", text, re.MULTILINE
    ):
        assert hashes
        versions[canonicalize_name(name)] = Version(version).base_version
    assert len(versions) == len(re.findall(r"^\w", text, re.MULTILINE))
    wanted = {name: version.base_version for name, version in pinned(constraints).items()}
    building = {
        "editables",
        "hatchling",
        "packaging",
        "pathspec",
        "pluggy",
        "setuptools",
        "tomlkit",
        "trove-classifiers",
    }
    assert {name: version for name, version in versions.items() if name not in building - wanted.keys()} == wanted


def test_every_address_is_in_the_one_repository() -> None:
    source = PROJECT["urls"]["Source"]
    assert all(url.startswith(source) for url in PROJECT["urls"].values())


def test_the_workflow_runs_the_targets_of_the_local_script() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    matrix = workflow["jobs"]["make"]["strategy"]["matrix"]
    targets = re.findall(r"^make ([a-z]\S*)", script, flags=re.MULTILINE)
    assert set(matrix["target"]) == {*targets, "coverage", "policies"}
    supported = {line.rpartition(" ")[2] for line in PROJECT["classifiers"] if "Python :: 3." in line}
    assert set(matrix["python"]) == supported
