"""Export by hub id, through the real client and a loopback server that speaks the hub's API."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import exporter
from tests.conftest import SCRIPTS
from tests.support.hub import HubServer
from tests.support.manifests import edit_manifest
from tests.support.process import Done, refused, run_program, succeeded
from tests.support.warm import CLI

MODEL = "kor-sbert/small-bert"

# What the command does with a hub id, less the export: the whole command costs ten times as long.
DOWNLOAD = """
import typer
from exporter.checkpoint import hub
from exporter.cli.flags import Command
from exporter.cli.main import _run

app = typer.Typer(pretty_exceptions_enable=False)

@app.callback()
def group() -> None: ...

@app.command("download", cls=Command)
def download(model: str, revision: str = None, checkpoint: str = None) -> None:
    folder, commit = hub.download(model, revision)
    print(folder, commit)

_run(app)
"""


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def new_twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.support.twins import build_twin

    return build_twin("ko-sbert-multitask", tmp_path_factory.mktemp("new") / "twin", seed=1)


def download(hub: HubServer, cache: Path, *arguments: str, **settings: str) -> Done:
    command = [sys.executable, "-c", DOWNLOAD, "download", *arguments]
    return run_program(command, environment=hub.environment(cache) | settings)


def downloaded(hub: HubServer, cache: Path, *arguments: str, **settings: str) -> tuple[Path, str]:
    done = download(hub, cache, *arguments, **settings)
    assert (done.status, done.stderr) == (0, ""), done
    folder, _, commit = done.stdout.strip().rpartition(" ")
    return Path(folder), commit


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


class TestExport:
    def test_the_commit_is_recorded_and_the_revision_is_pinned(
        self, hub: HubServer, cache: Path, twin: Path, new_twin: Path, twin_bundle: Path, tmp_path: Path
    ) -> None:
        old = hub.add(MODEL, twin, revisions=("main", "v1"))
        new = hub.add(MODEL, new_twin)
        assert old != new
        environment = hub.environment(cache) | {"OMP_NUM_THREADS": "1"}
        # Side by side: what is asked for after the push, and what was there before it.
        running = {
            commit: subprocess.Popen(
                [SCRIPTS / "korsbert-export", "--model", MODEL, "--out", tmp_path / commit, "--json", *revision],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for commit, revision in ((new, ()), (old, ("--revision", "v1")))
        }
        weights = {}
        for commit, process in running.items():
            out, err = process.communicate(timeout=600)
            succeeded(Done(process.returncode, out.decode(), err.decode()))
            source = json.loads(out)["manifest"]["source"]
            assert source["checkpoint"] == MODEL
            assert source["commit"] == commit
            bundle = exporter.Bundle.open(tmp_path / commit / "small-bert" / "fp32-onnxruntime")
            assert bundle.manifest.source.commit == commit
            assert f"at commit `{commit}`" in (bundle.folder / "README.md").read_text(encoding="utf-8")
            weights[commit] = bundle.manifest.source.weights_sha256
        local = exporter.Bundle.open(twin_bundle).manifest.source
        assert local.commit is None
        assert weights[old] == local.weights_sha256 != weights[new]

    def test_validate_takes_the_commit_that_the_bundle_was_made_from(
        self, hub: HubServer, cache: Path, twin: Path, new_twin: Path, twin_bundle: Path, tmp_path: Path
    ) -> None:
        old = hub.add(MODEL, twin)
        hub.add(MODEL, new_twin)
        bundle = Path(shutil.copytree(twin_bundle, tmp_path / "bundle"))
        edit_manifest(bundle, lambda manifest: manifest["source"].update(checkpoint=MODEL, commit=old))
        command = [SCRIPTS / "korsbert", "validate", bundle, "--json"]
        done = run_program(command, environment=hub.environment(cache))
        succeeded(done)
        assert json.loads(done.stdout)["passed"]

    def test_a_cut_download_publishes_nothing_and_the_next_try_succeeds(
        self, hub: HubServer, cache: Path, twin: Path, tmp_path: Path
    ) -> None:
        hub.add(MODEL, twin)
        hub.cut_after("pytorch_model.bin", 100_000, reset=True)
        command = [sys.executable, "-c", CLI, "export", "--model", MODEL, "--out", tmp_path / "out"]
        done = run_program(command, environment=hub.environment(cache))
        refused(done, 3, MODEL, f"the hub at {hub.endpoint} cannot be reached or disconnected", "try again")
        assert not (tmp_path / "out").exists()
        done = run_program(command, environment=hub.environment(cache))
        succeeded(done)
        exporter.Bundle.open(tmp_path / "out" / "small-bert" / "fp32-onnxruntime")


class TestDownload:
    def test_a_branch_a_tag_and_a_commit(self, hub: HubServer, cache: Path, twin: Path, new_twin: Path) -> None:
        old = hub.add(MODEL, twin, revisions=("main", "v1"))
        new = hub.add(MODEL, new_twin)
        for revision, commit in ((None, new), ("main", new), ("v1", old), (old, old)):
            arguments = [] if revision is None else ["--revision", revision]
            folder, found = downloaded(hub, cache, MODEL, *arguments)
            assert found == folder.name == commit
        assert (folder / "pytorch_model.bin").read_bytes() == (twin / "pytorch_model.bin").read_bytes()

    def test_only_what_a_checkpoint_needs(self, hub: HubServer, cache: Path, twin: Path, tmp_path: Path) -> None:
        offered = Path(shutil.copytree(twin, tmp_path / "offered"))
        extra = ("model.safetensors", "onnx/model.onnx", "openvino/openvino_model.bin", "tf_model.h5", ".gitattributes")
        for name in (*extra, "flax_model.msgpack", "2_Dense/pytorch_model.bin", "2_Dense/config.json"):
            (offered / name).parent.mkdir(exist_ok=True)
            (offered / name).write_bytes(b"content")
        hub.add(MODEL, offered)
        folder, _ = downloaded(hub, cache, MODEL)
        # Weights once per folder, as safetensors where there are any.
        unwanted = {*extra, "flax_model.msgpack", "pytorch_model.bin", "README.md"} - {"model.safetensors"}
        assert names(folder) == names(offered) - unwanted
        # And the cache, which so lacks files of the repository, is complete for what was asked.
        assert downloaded(hub, cache, MODEL, HF_HUB_OFFLINE="1") == (folder, folder.name)

    def test_no_such_repository(self, hub: HubServer, cache: Path) -> None:
        done = download(hub, cache, "kor-sbert/nothing")
        refused(done, 2, "kor-sbert/nothing: the hub has no such model, or it is private", "check the spelling")

    @pytest.mark.parametrize("revision", ["v9", "0123456789" * 4])
    def test_no_such_revision(self, hub: HubServer, cache: Path, twin: Path, revision: str) -> None:
        hub.add(MODEL, twin)
        refused(
            download(hub, cache, MODEL, "--revision", revision), 2, f"{MODEL}: the hub has no revision '{revision}'"
        )

    def test_an_id_that_is_none(self, hub: HubServer, cache: Path) -> None:
        refused(download(hub, cache, "a b/c?"), 2, "'a b/c?' is neither a folder here nor a hub id", "owner/name")

    @pytest.mark.parametrize("status", [500, 503])
    def test_a_hub_that_fails(self, hub: HubServer, cache: Path, twin: Path, status: int) -> None:
        hub.add(MODEL, twin)
        hub.fail_with(status)
        refused(
            download(hub, cache, MODEL), 3, f"the hub at {hub.endpoint} cannot be reached or disconnected", str(status)
        )

    def test_a_hub_that_is_down(self, hub: HubServer, cache: Path, twin: Path) -> None:
        hub.add(MODEL, twin)
        hub.stop()
        refused(download(hub, cache, MODEL), 3, f"the hub at {hub.endpoint} cannot be reached", "--checkpoint FOLDER")

    def test_a_password_of_the_endpoint_is_not_printed(self, hub: HubServer, cache: Path) -> None:
        hub.stop()
        endpoint = hub.endpoint.replace("://", "://me:s3cret@")
        done = download(hub, cache, MODEL, HF_ENDPOINT=endpoint)
        refused(done, 3, f"the hub at {hub.endpoint} cannot be reached")
        assert "s3cret" not in done.stdout + done.stderr

    def test_a_hub_that_goes_down_in_between(self, hub: HubServer, cache: Path, twin: Path) -> None:
        hub.add(MODEL, twin)
        hub.cut_after("pytorch_model.bin", 1000, times=None, reset=True)
        refused(download(hub, cache, MODEL), 3, "or disconnected", "a broken download is resumed")
        # What came so far is no checkpoint, also for a client that cannot ask.
        refused(download(hub, cache, MODEL, HF_HUB_OFFLINE="1"), 3, "not in the local cache")

    def test_a_short_break_is_bridged(self, hub: HubServer, cache: Path, twin: Path) -> None:
        hub.add(MODEL, twin)
        hub.cut_after("pytorch_model.bin", 1000)
        done = download(hub, cache, MODEL)
        assert done.status == 0
        assert "Trying to resume download" in done.stderr  # the client's own word
        folder = Path(done.stdout.strip().rpartition(" ")[0])
        assert (folder / "pytorch_model.bin").read_bytes() == (twin / "pytorch_model.bin").read_bytes()

    @pytest.mark.parametrize("revision", [None, "v1", "commit"])
    def test_offline_with_a_cache(self, hub: HubServer, cache: Path, twin: Path, revision: str | None) -> None:
        commit = hub.add(MODEL, twin, revisions=("main", "v1"))
        arguments = {"commit": ("--revision", commit), "v1": ("--revision", "v1")}.get(str(revision), ())
        online = downloaded(hub, cache, MODEL, *arguments)
        hub.stop()
        assert downloaded(hub, cache, MODEL, *arguments, HF_HUB_OFFLINE="1") == online
        assert online[1] == commit

    def test_offline_without_a_cache(self, hub: HubServer, cache: Path, twin: Path) -> None:
        hub.add(MODEL, twin)
        done = download(hub, cache, MODEL, HF_HUB_OFFLINE="1")
        refused(done, 3, f"{MODEL}: not in the local cache, and HF_HUB_OFFLINE is set", "unset HF_HUB_OFFLINE")
        assert hub.requests == []

    def test_offline_with_another_revision_in_the_cache(
        self, hub: HubServer, cache: Path, twin: Path, new_twin: Path
    ) -> None:
        old = hub.add(MODEL, twin)
        downloaded(hub, cache, MODEL)
        new = hub.add(MODEL, new_twin)
        done = download(hub, cache, MODEL, "--revision", new, HF_HUB_OFFLINE="1")
        refused(done, 3, "not in the local cache")
        assert downloaded(hub, cache, MODEL, HF_HUB_OFFLINE="1")[1] == old


def test_a_weight_that_is_not_what_the_hub_states_is_refused(hub: HubServer, cache: Path, twin: Path) -> None:
    hub.add(MODEL, twin)
    folder, _ = downloaded(hub, cache, MODEL)
    weights = (folder / "pytorch_model.bin").resolve()
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    refused(download(hub, cache, MODEL), 2, "pytorch_model.bin is damaged", str(weights))


@pytest.mark.parametrize("works", [True, False])
def test_credentials_of_the_endpoint_are_not_printed(hub: HubServer, cache: Path, works: bool) -> None:
    """A mirror may want a user and a password, and the client's log names every URL."""
    place = hub.endpoint.partition("://")[2] if works else "127.0.0.1:9"
    settings = {"HF_ENDPOINT": f"http://me:s3cret@{place}", "HF_HUB_VERBOSITY": "debug"}
    done = download(hub, cache, MODEL, **settings)
    assert done.status == (2 if works else 3)  # the hub has no such model
    assert place in done.stderr or works
    assert "s3cret" not in done.stdout + done.stderr
