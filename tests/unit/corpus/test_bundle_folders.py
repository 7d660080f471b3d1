"""Folders that workers fill with the files of a bundle: what a killed worker has left is removed, and nothing else."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from exporter.bundle import Bundle
from exporter.corpus import EmbedOptions
from exporter.corpus.job import Job
from exporter.corpus.plan import Identity
from exporter.corpus.ray_actor import Shipment, _bundle_here
from exporter.corpus.rows import Columns

SEAL = "0123456789ab"


@pytest.fixture(scope="module")
def dead() -> int:
    """The number of a process that is no more."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return process.pid


def open_bundle(bundle: Path) -> None:
    """Open a bundle as a worker does that finds it in its own folder."""
    manifest = Bundle.open_manifest(bundle).manifest
    gate = manifest.recipe.gates.of(manifest.engine.precision)
    job = Job(Identity(manifest.seal, {}, ()), Columns("text", ()), None, "", gate, EmbedOptions())
    assert _bundle_here(Shipment(job, "out", bundle, 1, 1), {}).manifest.seal == manifest.seal


def test_what_a_killed_worker_has_left_is_removed(
    dead: int, twin_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    own = tmp_path / f"korsbert-bundles-{os.getuid()}"
    own.mkdir(mode=0o700)
    left = own / f"filling-{dead}-abc_de12"
    kept = [own / f"filling-{os.getpid()}-abc_de12", own / (SEAL * 6)[:64], own / "mine", own / f"filling-{dead}-file"]
    for folder in (left, *kept[:-1]):
        folder.mkdir()
        (folder / "model.onnx").write_bytes(b"0")
    kept[-1].write_bytes(b"a file")
    open_bundle(twin_bundle)
    assert set(own.iterdir()) == set(kept)


def test_one_that_a_process_of_another_container_fills_stays(
    dead: int, twin_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number says nothing here; its lock does."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / f"korsbert-bundles-{os.getuid()}" / f"filling-{dead}-abcdefgh"
    folder.mkdir(parents=True)
    folder.parent.chmod(0o700)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        open_bundle(twin_bundle)
        assert folder.exists()
    finally:
        os.close(descriptor)
    open_bundle(twin_bundle)
    assert not folder.exists()
