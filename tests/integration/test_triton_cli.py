"""``korsbert ship``, ``check`` and ``verify``: what they print and write, and how they answer bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.hostile_servers import http_answer, raw_server, repeated
from tests.support.manifests import edit_manifest
from tests.support.process import refused, succeeded, wait_until
from tests.support.warm import CLI, WarmPython

WITHOUT_TRITON = "import sys; sys.modules.update({'grpc': None, 'tritonclient': None}); " + CLI


def test_ship_writes_a_repository_and_says_so(python: WarmPython, demo_fp32: Path, tmp_path: Path) -> None:
    done = python.run(CLI, "ship", demo_fp32, "--repository", "models", "--image-version", "26.03", cwd=tmp_path)
    succeeded(done)
    assert "demo_text" in done.stdout
    assert "onnxruntime" in done.stdout
    assert {path.name for path in (tmp_path / "models").iterdir()} == {
        "demo",
        "demo_text",
        "demo_tokenizer",
        "README.md",
        "Dockerfile",
        "compose.yaml",
        "kubernetes.yaml",
        "prometheus-adapter.yaml",
        ".dockerignore",
    }
    assert (
        "ARG TRITON_IMAGE=nvcr.io/nvidia/tritonserver:26.03-py3\n" in (tmp_path / "models" / "Dockerfile").read_text()
    )
    assert "version 1 measured, " in (tmp_path / "models" / "kubernetes.yaml").read_text()
    done = python.run(CLI, "ship", demo_fp32, "--repository", "models", "--no-measure", "--json", cwd=tmp_path)
    assert "version 2 computed, " in (tmp_path / "models" / "kubernetes.yaml").read_text()
    assert json.loads(done.stdout)["shipped"][0]["version"] == 2


def test_another_precision_under_the_same_name_is_told(
    python: WarmPython, demo_fp32: Path, demo_fp16: Path, tmp_path: Path
) -> None:
    done = python.run(CLI, "ship", demo_fp32, "--repository", "models", "--no-measure", cwd=tmp_path)
    succeeded(done)
    done = python.run(CLI, "ship", demo_fp16, "--repository", "models", "--no-measure", cwd=tmp_path)
    assert done.status == 0
    assert "note: version 2 of demo is fp16 on onnxruntime; the version before is fp32 on onnxruntime" in " ".join(
        done.stderr.split()
    )


def test_files_that_somebody_edited_are_left_alone(python: WarmPython, demo_fp32: Path, tmp_path: Path) -> None:
    arguments = ("ship", demo_fp32, "--repository", "models", "--runtime", "python", "--no-measure")
    assert python.run(CLI, *arguments, cwd=tmp_path).status == 0
    (tmp_path / "models" / "compose.yaml").write_text("services: {}\n")
    assert python.run(CLI, *arguments, cwd=tmp_path).status == 0
    assert (tmp_path / "models" / "compose.yaml").read_text() == "services: {}\n"


BAD = {
    "a folder to check that is not there": (("check", "nowhere"), 2, "nowhere: no folder"),
    "no bundle there": (("ship", ".", "--repository", "m"), 2, "there is no manifest.json"),
    "GPUs that are no numbers": (
        ("ship", "BUNDLE", "--repository", "m", "--gpus", "all"),
        2,
        "--gpus all: not a list of numbers",
    ),
    "one name for two": (
        ("ship", "BUNDLE", "BUNDLE", "--repository", "m", "--name", "x"),
        2,
        "--name is given for several bundles",
    ),
    "a name that is a path": (
        ("ship", "BUNDLE", "--repository", "m", "--name", "../../x"),
        2,
        "--name '../../x' cannot be a model's",
    ),
    "an absolute name": (
        ("ship", "BUNDLE", "--repository", "m", "--name", "/tmp/x"),
        2,
        "--name '/tmp/x' cannot be a model's",
    ),
    "two of one name": (("ship", "BUNDLE", "BUNDLE", "--repository", "m"), 2, "two bundles have the name demo"),
    "an accelerator without a GPU": (
        ("ship", "BUNDLE", "--repository", "m", "--accelerator", "tensorrt"),
        2,
        "on a GPU",
    ),
    "a path in the URL": (("verify", "http://127.0.0.1:9/v2", "BUNDLE"), 2, "is no server address"),
    "a password in the URL": (
        ("verify", "https://me:s3cret@h:9", "BUNDLE"),
        2,
        "the http address has a user name",
    ),
    "certificates for no TLS": (
        ("verify", "127.0.0.1:9", "BUNDLE", "--ca-file", "x"),
        2,
        "--ca-file is given, and no address uses TLS",
    ),
    "a time that is none": (
        ("verify", "127.0.0.1:9", "BUNDLE", "--timeout", "nan"),
        2,
        "--timeout is nan, and must be above 0",
    ),
    "nothing to verify with": (
        ("verify", "http://127.0.0.1:9"),
        2,
        "nothing to compare the server with is given",
    ),
    "no bundle to verify with": (
        ("verify", "http://127.0.0.1:9", "--checkpoint", "demo"),
        2,
        "a Triton server is compared with a bundle, and none is given",
    ),
    "nobody listens": (("verify", "http://127.0.0.1:9", "BUNDLE"), 3, "127.0.0.1:9"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_clear_sentence(python: WarmPython, demo_fp32: Path, tmp_path: Path, case: str) -> None:
    arguments, status, message = BAD[case]
    command = [str(demo_fp32) if argument == "BUNDLE" else argument for argument in arguments]
    done = python.run(CLI, *command, cwd=tmp_path)
    refused(done, status, message)
    assert "s3cret" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def put_link(bundle: Path, name: str) -> None:
    (bundle / name).unlink(missing_ok=True)
    (bundle / name).symlink_to("/etc/passwd")


STRANGERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a link beside the files": (lambda bundle: put_link(bundle, "extra"), "extra: not listed in manifest.json"),
    "a link in the place of a file": (lambda bundle: put_link(bundle, "model.onnx"), "model.onnx: altered"),
    "a link in the place of the record": (
        lambda bundle: put_link(bundle, "validation.json"),
        "validation.json: not readable as a record of validation",
    ),
    "a link in the place of the signature": (
        lambda bundle: put_link(bundle, "model.sig"),
        "model.sig: not a signature in the format of model-signing",
    ),
    "a file that the manifest does not list": (
        lambda bundle: (bundle / "extra").write_text("mine"),
        "extra: not listed in manifest.json",
    ),
    "a file that the manifest finds elsewhere": (
        lambda bundle: edit_manifest(
            bundle, lambda content: content["files"].update({"/etc/passwd": content["files"]["README.md"]})
        ),
        "names a file outside the bundle: /etc/passwd",
    ),
}


@pytest.mark.parametrize("runtime", ["engine", "python"])
@pytest.mark.parametrize("case", STRANGERS)
def test_ship_takes_nothing_that_is_not_the_bundle_s(
    python: WarmPython, demo_fp32: Path, tmp_path: Path, case: str, runtime: str
) -> None:
    damage, message = STRANGERS[case]
    bundle = Path(shutil.copytree(demo_fp32, tmp_path / "bundle"))
    damage(bundle)
    done = python.run(CLI, "ship", bundle, "--repository", "models", "--runtime", runtime, cwd=tmp_path)
    refused(done, 2, message)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_server_that_is_none_of_triton_s(python: WarmPython, demo_fp32: Path, tmp_path: Path) -> None:
    with raw_server(lambda _: [http_answer(b"<html>Welcome</html>")]) as server:
        done = python.run(CLI, "verify", f"http://{server.url}", demo_fp32, cwd=tmp_path)
    refused(done, 3, "demo_text at 127.0.0.1:", "the answer is not what Triton answers")
    with raw_server(lambda _: repeated(b"", lambda: server.over.wait(0.05))) as server:
        done = python.run(CLI, "verify", f"http://{server.url}", demo_fp32, "--timeout", "0.5", cwd=tmp_path)
    refused(done, 3, "the answer was not complete within 0.5 s", "raise --timeout")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_wait_for_a_server(
    python: WarmPython, demo_fp32: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with raw_server(lambda _: repeated(b"", lambda: server.over.wait(0.05))) as server:
        running = python.start(CLI, "verify", f"http://{server.url}", demo_fp32, cwd=tmp_path)
        wait_until(lambda: bool(server.heads))
        os.kill(running.pid, number)
        done = running.wait()
    assert (done.status, done.stdout) == (128 + number, "")
    assert done.stderr == ("interrupted\n" if number == signal.SIGINT else "")


USAGE = {
    "no repository": (("ship", "BUNDLE"), "Missing option '--repository'"),
    "no bundle to ship": (("ship", "--repository", "m"), "Missing argument 'BUNDLE'"),
    "two bundles to verify": (("verify", "http://localhost:9", "BUNDLE", "BUNDLE"), "unexpected extra argument"),
    "a bundle to check": (("check", "m", "BUNDLE"), "unexpected extra argument"),
    # An option that a command would not heed is no option of it.
    "clients to ship": (("ship", "BUNDLE", "--repository", "m", "--clients", "2"), "No such option: --clients"),
    "a runtime to check": (("check", "m", "--runtime", "python"), "No such option: --runtime"),
    "GPUs to verify": (("verify", "http://localhost:9", "BUNDLE", "--gpus", "0"), "No such option: --gpus"),
}


@pytest.mark.parametrize("case", USAGE)
def test_each_command_takes_only_what_it_heeds(python: WarmPython, tmp_path: Path, case: str) -> None:
    arguments, message = USAGE[case]
    done = python.run(CLI, *arguments, cwd=tmp_path)
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: ")
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_repository_s_place(python: WarmPython, demo_fp32: Path, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("mine")
    refused(python.run(CLI, "ship", demo_fp32, "--repository", "models", cwd=tmp_path), 2, "models: cannot be written")
    assert (tmp_path / "models").read_text() == "mine"


def test_without_tritonclient_it_says_how_to_get_it(python: WarmPython, demo_fp32: Path, tmp_path: Path) -> None:
    done = python.run(WITHOUT_TRITON, "ship", demo_fp32, "--repository", "models", cwd=tmp_path)
    refused(done, 3, "is not installed", "pip install 'korsbert[triton]'")
    assert list(tmp_path.iterdir()) == []
