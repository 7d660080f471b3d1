"""``korsbert verify`` of an embedding server: what it prints and writes, its exit codes, and its answers to bad input.

The server is the stand-in of TEI, with and without a fault; ``test_verify_servers.py`` has the real ones.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

import exporter
from tests.conftest import Shared
from tests.support.fault_proxy import Fault, Proxy, TeiAnswers, fault_proxy
from tests.support.faulty_vectors import rounded_to_8_bits, swap_two
from tests.support.hostile_servers import http_answer, raw_server
from tests.support.process import Done, refused, succeeded
from tests.support.tei_stand_in import tei_stand_in
from tests.support.warm import CLI, WarmPython

WITHOUT_TORCH = "import sys; sys.modules.update({'torch': None, 'transformers': None, 'tritonclient': None}); " + CLI
FEW = ("--clients", "4", "--requests", "24")


@pytest.fixture(scope="module")
def golden(shared: Shared) -> Path:
    return shared("demo-golden", lambda folder: exporter.write_golden("demo", folder / "demo.golden")) / "demo.golden"


@pytest.fixture(scope="module")
def proxy(demo_fp32: Path) -> Iterator[Proxy]:
    with (
        tei_stand_in(demo_fp32) as server,
        fault_proxy(server.url.removeprefix("http://"), TeiAnswers(), ["/embed"]) as proxy,
    ):
        yield proxy


@pytest.fixture
def sound(proxy: Proxy) -> Proxy:
    proxy.fault = Fault()
    return proxy


def results(done: Done) -> dict[str, str]:
    """Return the result of every line of the table that was printed, by its name."""
    rows = [re.split(r"  +", line.strip()) for line in done.stdout.splitlines()]
    return {row[1]: row[0] for row in rows if row[0] in {"passed", "FAILED", "skipped"}}


def test_a_golden_file_needs_no_torch_and_no_bundle(
    python: WarmPython, sound: Proxy, golden: Path, tmp_path: Path
) -> None:
    arguments = ("verify", sound.url, "--api", "tei", "--golden", golden, *FEW)
    done = python.run(WITHOUT_TORCH, *arguments, "--junit", "v.xml", "--summary", "v.md", cwd=tmp_path)
    succeeded(done)
    told = f"demo, fp32, TEI 0.0.0-stand-in (stand-in, float32) at {sound.url}, compared with the golden file"
    assert done.stdout.splitlines()[0] == told
    found = results(done)
    assert found.pop("encoding") == found.pop("refused texts") == "skipped"
    assert set(found.values()) == {"passed"}
    assert {"min cosine", "concurrency, unequal lengths", "truncation", "normalization", "connection"} <= set(found)
    suite = ET.parse(tmp_path / "v.xml").getroot()
    assert (suite.get("name"), suite.get("failures"), suite.get("errors")) == ("demo, fp32", "0", "0")
    assert {"order", "truncation"} <= {case.get("name") for case in suite}
    summary = (tmp_path / "v.md").read_text(encoding="utf-8")
    assert summary.startswith("### ✅ demo, fp32: passed")
    assert {path.name for path in tmp_path.iterdir()} == {"v.xml", "v.md"}


def test_a_fault_is_told_everywhere(python: WarmPython, proxy: Proxy, golden: Path, tmp_path: Path) -> None:
    proxy.fault = Fault(vectors=swap_two)
    arguments = ("verify", proxy.url, "--api", "tei", "--golden", golden, *FEW)
    done = python.run(CLI, *arguments, "--junit", "v.xml", "--summary", "v.md", cwd=tmp_path)
    assert done.status == 1
    assert "likely cause: " in done.stderr
    assert "answers are swapped in pairs" in done.stderr
    assert results(done)["requests"] == results(done)["min cosine"] == "FAILED"
    assert results(done)["normalization"] == "passed"
    assert "answers are swapped in pairs" in (tmp_path / "v.md").read_text(encoding="utf-8")
    assert ET.parse(tmp_path / "v.xml").getroot().get("failures") not in {None, "0"}


def test_the_answers_of_a_bundle_take_the_place_of_its_checkpoint_s(
    python: WarmPython, sound: Proxy, demo_fp32: Path, tmp_path: Path
) -> None:
    arguments = ("verify", sound.url, demo_fp32, "--api", "tei", "--reference", "bundle", *FEW, "--json")
    done = python.run(WITHOUT_TORCH, *arguments, cwd=tmp_path)
    succeeded(done)
    found = json.loads(done.stdout)
    assert (found["passed"], found["compared_with"]) == (True, "the bundle")
    (tmp_path / "before.json").write_text(done.stdout, encoding="utf-8")
    again = (*arguments[:-1], "--summary", "v.md", "--baseline", "before.json")
    assert python.run(WITHOUT_TORCH, *again, cwd=tmp_path).status == 0
    assert "figure has changed since the baseline" in (tmp_path / "v.md").read_text(encoding="utf-8")


def test_a_checkpoint_without_a_bundle(python: WarmPython, sound: Proxy, tmp_path: Path) -> None:
    done = python.run(CLI, "verify", sound.url, "--api", "tei", "--checkpoint", "demo", *FEW, "--json", cwd=tmp_path)
    succeeded(done)
    assert json.loads(done.stdout)["compared_with"] == "the checkpoint"


def test_what_the_server_computes_in_chooses_the_gate(
    python: WarmPython, proxy: Proxy, golden: Path, tmp_path: Path
) -> None:
    proxy.fault = Fault(vectors=rounded_to_8_bits)
    arguments = ("verify", proxy.url, "--api", "tei", "--golden", golden, *FEW, "--json")
    found = json.loads(python.run(CLI, *arguments, "--precision", "int8", cwd=tmp_path).stdout)["parity"][0]
    assert found["subject"] == "demo, int8"
    assert all(verdict["passed"] for verdict in found["verdicts"])  # int8 is judged by wider bounds
    assert [check["name"] for check in found["checks"] if not check["passed"]] == ["dtype"]


BAD: dict[str, tuple[tuple[str, ...], int, str]] = {
    "nothing to compare with": ((), 2, "nothing to compare the server with is given"),
    "two sources": (("--golden", "x", "--checkpoint", "demo"), 2, "--golden and --checkpoint are both given"),
    "the answers of no bundle": (("--golden", "x", "--reference", "bundle"), 2, "is given without a bundle"),
    "a name of Triton's": (("--golden", "x", "--name", "n"), 2, "--name is of Triton only, and --api is tei"),
    "a signature of a checkpoint": (("--checkpoint", "demo", "--require-signature", "x"), 2, "has no signature"),
    "no golden file": (("--golden", "x"), 2, "x: cannot be read"),
    "a key that is not set": (("--golden", "GOLDEN", "--key-env", "NO_SUCH"), 2, "--key-env is not set"),
    "a header without a name": (("--golden", "GOLDEN", "--header", "s3cret"), 2, "--header has no name"),
    "no time": (("--golden", "GOLDEN", "--timeout", "0"), 2, "--timeout is 0.0, and must be above 0"),
    "certificates for no TLS": (("--golden", "GOLDEN", "--ca-file", "x"), 2, "no address uses TLS"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_clear_sentence(python: WarmPython, golden: Path, tmp_path: Path, case: str) -> None:
    given, status, told = BAD[case]
    arguments = [str(golden) if one == "GOLDEN" else one for one in given]
    done = python.run(CLI, "verify", "http://127.0.0.1:9", "--api", "tei", *arguments, cwd=tmp_path)
    refused(done, status, told)
    assert "s3cret" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "option", [("--model", "m"), ("--header", "a: b"), ("--precision", "fp16"), ("--key-env", "A")]
)
def test_triton_has_no_use_for_some_options(
    python: WarmPython, demo_fp32: Path, tmp_path: Path, option: tuple[str, str]
) -> None:
    done = python.run(CLI, "verify", "http://127.0.0.1:9", demo_fp32, *option, cwd=tmp_path)
    refused(done, 2, f"{option[0]} is not of Triton, and --api is triton")


def unreachable(python: WarmPython, url: str, golden: Path, folder: Path) -> Done:
    arguments = ("verify", url, "--api", "tei", "--golden", golden, "--junit", "v.xml")
    done = python.run(CLI, *arguments, cwd=folder)
    assert "<error " in (folder / "v.xml").read_text(encoding="utf-8")
    return done


def test_a_server_that_cannot_be_reached(python: WarmPython, golden: Path, tmp_path: Path) -> None:
    refused(unreachable(python, "http://127.0.0.1:9", golden, tmp_path), 3, "nothing answers there")


def test_a_server_that_is_none(python: WarmPython, golden: Path, tmp_path: Path) -> None:
    with raw_server(lambda _: [http_answer(b"<html>Welcome</html>")]) as server:
        refused(unreachable(python, server.url, golden, tmp_path), 3, "the answer is not what TEI answers")


def test_a_server_of_another_model(
    python: WarmPython, sound: Proxy, shared: Shared, twin: Path, tmp_path: Path
) -> None:
    folder = shared("twin-golden", lambda folder: exporter.write_golden(twin, folder / "twin.golden"))
    done = unreachable(python, sound.url, folder / "twin.golden", tmp_path)
    refused(done, 1, "its vectors have 256 dimensions", "64: it serves another model")
