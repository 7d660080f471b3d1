"""The steps of the GitHub action and of the GitLab job, run as scripts in a repository of a stranger.

They are run by ``bash`` and ``sh``, as their runners do it. The runners themselves are not run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import yaml
from onnx import numpy_helper

import exporter
from tests.conftest import ROOT, SCRIPTS
from tests.support.changed_bundles import truncate_early
from tests.support.fault_proxy import Fault, TeiAnswers, fault_proxy
from tests.support.faulty_vectors import without_normalization
from tests.support.manifests import reseal
from tests.support.process import Done, run_program
from tests.support.tei_stand_in import tei_stand_in

ACTION = ROOT / ".github" / "actions" / "parity-gate" / "action.yml"
JOB = ROOT / "docs" / "examples" / "validate-in-ci" / "gitlab-ci.yml"


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("golden") / "demo.golden"
    exporter.write_golden("demo", path)
    return path


@pytest.fixture
def repository(demo_fp32: Path, golden: Path, tmp_path: Path) -> Path:
    """A folder with a bundle and the golden file of its checkpoint."""
    shutil.copytree(demo_fp32, tmp_path / "my-bundle")
    shutil.copy(golden, tmp_path / "my-model.golden")
    return tmp_path


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}", **variables}


def run_action(repository: Path, **given: str) -> Done:
    """Run the last step, with the inputs as the runner puts them in its environment."""
    action = yaml.safe_load(ACTION.read_text(encoding="utf-8"))
    inputs = {name: one.get("default", "") for name, one in action["inputs"].items()} | given
    assert set(inputs) == set(action["inputs"])
    step = action["runs"]["steps"][-1]
    variables = {
        name: re.sub(r"\$\{\{ inputs\.(\w+) \}\}", lambda found: inputs[found[1]], value)
        for name, value in step["env"].items()
    }
    variables["GITHUB_STEP_SUMMARY"] = str(repository / "summary.md")
    script = ("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"])
    return run_program(script, cwd=repository, environment=environment(**variables))


def change_a_weight(bundle: Path) -> None:
    model = onnx.load(bundle / "model.onnx")
    table = max(model.graph.initializer, key=lambda tensor: tensor.dims[0] if len(tensor.dims) == 2 else 0)
    table.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(table)[::-1].copy(), table.name))
    onnx.save(model, bundle / "model.onnx")
    reseal(bundle)


def damage(bundle: Path) -> None:
    (bundle / "model.onnx").write_bytes(b"x")


@pytest.mark.parametrize(
    ("change", "status", "told"),
    [
        (change_a_weight, 1, "likely cause: nearly every row is off by"),
        (truncate_early, 1, "tokens or more fails: truncation or positions"),
        (damage, 2, "model.onnx&#58; altered since it was published"),
    ],
    ids=["another weight", "another tokenizer", "a damaged file"],
)
def test_it_goes_red_and_green_again(
    change: Callable[[Path], None], status: int, told: str, repository: Path, demo_fp32: Path
) -> None:
    inputs = {"bundle": "my-bundle", "golden": "my-model.golden"}
    change(repository / "my-bundle")
    done = run_action(repository, **inputs)
    assert done.status == status, done
    summary = (repository / "summary.md").read_text(encoding="utf-8")
    assert told in summary
    assert "### ✅" not in summary
    assert (repository / "parity.xml").is_file()
    shutil.copytree(demo_fp32, repository / "my-bundle", dirs_exist_ok=True)
    done = run_action(repository, **inputs, baseline="my-bundle/parity.json")
    assert done.status == 0, done
    assert "### ✅ demo fp32 on onnxruntime: passed" in (repository / "summary.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def normalized_golden(twin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden file of the twin with a Normalize behind it."""
    folder = tmp_path_factory.mktemp("normalized")
    checkpoint = Path(shutil.copytree(twin, folder / "checkpoint"))
    modules = json.loads((checkpoint / "modules.json").read_text(encoding="utf-8"))
    modules.append({"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"})
    (checkpoint / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (checkpoint / "2_Normalize").mkdir()
    exporter.write_golden(checkpoint, folder / "twin.golden")
    return folder / "twin.golden"


def test_it_goes_red_when_a_server_drops_normalization_and_green_again(
    normalized_golden: Path, twin_bundle: Path, tmp_path: Path
) -> None:
    """The server is the stand-in of TEI, which normalizes unless it is told not to."""
    shutil.copy(normalized_golden, tmp_path / "my-model.golden")
    with (
        tei_stand_in(twin_bundle) as server,
        fault_proxy(server.url.removeprefix("http://"), TeiAnswers(), ["/embed"]) as proxy,
    ):
        inputs = {"url": proxy.url, "api": "tei", "golden": "my-model.golden"}
        for fault, status, told in (
            (Fault(), 0, "### ✅ checkpoint, fp32: passed"),
            (Fault(vectors=without_normalization), 1, "it does not normalize"),
            (Fault(), 0, "### ✅ checkpoint, fp32: passed"),
        ):
            proxy.fault = fault
            (tmp_path / "summary.md").unlink(missing_ok=True)
            done = run_action(tmp_path, **inputs)
            assert done.status == status, done
            assert told in (tmp_path / "summary.md").read_text(encoding="utf-8")
            assert (tmp_path / "parity.xml").is_file()


def test_the_job_for_gitlab(repository: Path) -> None:
    (job,) = yaml.safe_load(JOB.read_text(encoding="utf-8")).values()
    install, compare = job["script"]
    assert install == 'python -m pip install --quiet "korsbert[cpu]"'
    variables: dict[str, Any] = job["variables"]
    done = run_program(("sh", "-ec", compare), cwd=repository, environment=environment(**variables))
    assert done.status == 0, done
    assert {job["artifacts"]["reports"]["junit"], *job["artifacts"]["paths"]} == {"parity.xml", "parity.md"}
    assert (repository / "parity.xml").is_file()
    assert "passed" in (repository / "parity.md").read_text(encoding="utf-8")
