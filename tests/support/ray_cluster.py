"""A real Ray cluster of several raylets on this machine."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.conftest import SCRIPTS
from tests.support.process import wait_until

_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "token"}


class RayCluster:
    """A head without processors, and machines that are raylets of their own.

    Attributes:
        address: Where the head is.
        environment: Of a driver.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._nodes: list[subprocess.Popen[bytes]] = []
        port = _free_port()
        self.address = f"127.0.0.1:{port}"
        self.environment = {**os.environ, **_ENVIRONMENT, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._start(
            "--head",
            f"--port={port}",
            "--num-cpus=0",
            "--include-dashboard=false",
            f"--ray-client-server-port={_free_port()}",
            f"--temp-dir={folder}",
        )

    def add_machine(self, cpus: int = 1) -> subprocess.Popen[bytes]:
        """Start a raylet and return the process that holds it."""
        return self._start(f"--address={self.address}", f"--num-cpus={cpus}")

    def kill_machine(self, node: subprocess.Popen[bytes]) -> None:
        """End a raylet and its workers by SIGKILL."""
        _kill_tree(node)
        self._nodes.remove(node)

    def actors(self) -> list[psutil.Process]:
        """Return the processes of actors that make parts."""
        found = []
        for node in self._nodes:
            for process in psutil.Process(node.pid).children(recursive=True):
                try:
                    name = " ".join(process.cmdline())
                except psutil.NoSuchProcess:
                    continue
                if "PartMaker" in name:
                    found.append(process)
        return found

    def stop(self) -> None:
        """End everything."""
        for node in self._nodes:
            _kill_tree(node)

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        log = self._folder / f"{len(self._nodes)}.log"
        with log.open("wb") as output:
            node = subprocess.Popen(
                [str(SCRIPTS / "ray"), "start", "--block", *options],
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._nodes.append(node)
        wait_until(lambda: b"Ray runtime started" in log.read_bytes() or node.poll() is not None)
        assert node.poll() is None, log.read_text()
        return node


@contextmanager
def ray_cluster() -> Iterator[RayCluster]:
    """Yield a cluster of a head; its sockets need a short path."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    try:
        cluster = RayCluster(folder)
        try:
            yield cluster
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _kill_tree(node: subprocess.Popen[bytes]) -> None:
    with suppress(psutil.NoSuchProcess):
        for process in (*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)):
            with suppress(psutil.NoSuchProcess):
                process.kill()
    node.wait()


def _free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port: int = opened.getsockname()[1]
        return port
