"""Bulk embedding on a real Ray cluster of several raylets: whatever dies, every row once and the same bytes."""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from exporter.corpus import EmbedOptions, embed
from tests.conftest import SCRIPTS
from tests.support.manifests import edit_manifest
from tests.support.process import Done, refused, run_program, wait_until
from tests.support.ray_cluster import RayCluster, ray_cluster
from tests.support.s3_server import s3_server

ROWS, ROWS_PER_PART = 4000, 500


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """A cluster of two machines."""
    with ray_cluster() as started:
        started.add_machine()
        started.add_machine()
        yield started


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "in.jsonl"
    rows = ({"key": f"{row}", "text": f"{row} 번째 문장은 {'길고 ' * (row % 9)}다르다."} for row in range(ROWS))
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def whole(demo_fp32: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of one process that nothing disturbs."""
    out = tmp_path_factory.mktemp("whole") / "out"
    embed(demo_fp32, [str(source)], str(out), EmbedOptions.of(id="key", rows_per_part=ROWS_PER_PART, threads=1))
    return out


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def command(cluster: RayCluster, bundle: Path, source: Path | str, out: Path | str, *options: object) -> list[str]:
    where = ("--engine", "ray", "--address", cluster.address, "--threads", 1)
    how = ("--id", "key", "--rows-per-part", ROWS_PER_PART)
    return [str(word) for word in (SCRIPTS / "korsbert", "embed", bundle, source, "--out", out, *where, *how, *options)]


def run(cluster: RayCluster, bundle: Path, source: Path, out: Path, *options: object) -> Done:
    return run_program(command(cluster, bundle, source, out, *options), environment=cluster.environment)


def driver(
    cluster: RayCluster, bundle: Path, source: Path | str, out: Path | str, *options: object
) -> subprocess.Popen[bytes]:
    """Start a command, to disturb it."""
    return subprocess.Popen(
        command(cluster, bundle, source, out, *options),
        env=cluster.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run_with_hook(cluster: RayCluster, hook: str, bundle: Path, source: Path, out: Path, **options: object) -> Done:
    """Embed from a program that has connected itself, and whose workers run ``hook`` first."""
    program = f"""
import os, sys, time
import ray
import exporter
from exporter.runtime.encoder import Encoder

def hook():
    {hook}

ray.init({cluster.address!r}, log_to_driver=False, runtime_env={{"worker_process_setup_hook": hook}})
options = dict(id="key", rows_per_part={ROWS_PER_PART}, threads=1, engine="ray", **{options!r})
try:
    exporter.embed(*sys.argv[1:], **options)
except exporter.ExportError as error:
    sys.exit(f"error: {{error}}")
assert ray.is_initialized(), "the caller's connection stays"
"""
    return run_program([sys.executable, "-c", program, bundle, source, out], environment=cluster.environment)


def test_the_output_is_that_of_one_process(
    cluster: RayCluster, demo_fp32: Path, source: Path, whole: Path, tmp_path: Path
) -> None:
    done = run(cluster, demo_fp32, source, tmp_path / "out", "--workers", 2, "--json")
    assert done.status == 0, done.stderr
    assert contents(tmp_path / "out") == contents(whole)
    report = json.loads(done.stdout)
    assert (report["counts"]["rows"], report["parts"], report["resumed"]) == (ROWS, 8, 0)
    assert report["sample"]["rows"] == 32
    assert report["stages"]["encode"] > 0
    assert report["cpu_seconds_per_million_rows"] > 0


def test_a_bad_row_is_told_as_on_one_machine(
    cluster: RayCluster, demo_fp32: Path, source: Path, tmp_path: Path
) -> None:
    rows = source.read_text(encoding="utf-8").split("\n")
    rows[700] = '{"key": "b", "text": ""}'
    (tmp_path / "in.jsonl").write_text("\n".join(rows), encoding="utf-8")
    done = run(cluster, demo_fp32, tmp_path / "in.jsonl", tmp_path / "out", "--workers", 2)
    assert done.status == 2, done
    assert re.search(r"in\.jsonl: row 700 \(counted from 0, at byte \d+\) cannot be encoded: empty", done.stderr)
    assert "--on-error record" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not [*(tmp_path / "out").glob(".*"), *(tmp_path / "out").glob("*000001*")]


@pytest.mark.slow
def test_a_compressed_file_is_read_by_one_worker(
    cluster: RayCluster, demo_fp32: Path, source: Path, whole: Path, tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(source.read_bytes()))
    done = run(cluster, demo_fp32, tmp_path / "in.jsonl.gz", tmp_path / "out", "--workers", 2)
    assert done.status == 0, done.stderr
    parts = {name: content for name, content in contents(whole).items() if name.startswith("part-")}
    assert {name: content for name, content in contents(tmp_path / "out").items() if name in parts} == parts


def test_a_vector_of_another_text_fails_the_comparison(
    cluster: RayCluster, demo_fp32: Path, source: Path, tmp_path: Path
) -> None:
    hook = """
    import numpy
    from exporter.corpus import worker
    given = worker.vector_array
    worker.vector_array = lambda vectors, missing: given(numpy.roll(vectors, 1, axis=0), missing)"""
    done = run_with_hook(cluster, hook, demo_fp32, source, tmp_path / "out", workers=2)
    assert done.status == 1
    assert "the vector differs from that of its text by" in done.stderr
    assert not (tmp_path / "out" / "_SUCCESS").exists()


@pytest.mark.slow
def test_another_kind_of_processor_is_told_once(
    cluster: RayCluster, demo_fp32: Path, source: Path, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(demo_fp32, tmp_path / "bundle"))
    edit_manifest(bundle, lambda content: content["machine"].update(processor="Another One"))
    done = run(cluster, bundle, source, tmp_path / "out", "--workers", 2)
    assert done.status == 0, done.stderr
    assert done.stderr.count("warning: the bundle was validated on Another One, and not on ") == 1


def test_a_worker_keeps_to_its_threads(cluster: RayCluster, demo_fp32: Path, source: Path, tmp_path: Path) -> None:
    """Also its tokenizer and its readers; the engine gets them as ever."""
    hook = f"""
    encode = Encoder.encode_padded
    def tell(self, *given):
        import pyarrow
        bounds = os.environ.get("RAYON_NUM_THREADS"), pyarrow.cpu_count(), pyarrow.io_thread_count()
        with open({str(tmp_path / "told")!r}, "w") as file:
            print(*bounds, file=file)
        return encode(self, *given)
    Encoder.encode_padded = tell"""
    done = run_with_hook(cluster, hook, demo_fp32, source, tmp_path / "out", workers=2)
    assert done.status == 0, done.stderr
    assert (tmp_path / "told").read_text() == "1 1 1\n"


def test_an_error_that_nobody_foresaw_is_told(
    cluster: RayCluster, demo_fp32: Path, source: Path, tmp_path: Path
) -> None:
    hook = "Encoder.encode_padded = lambda *_: 1 / 0"
    done = run_with_hook(cluster, hook, demo_fp32, source, tmp_path / "out", workers=9)
    assert done.status == 1
    assert "error: a worker on the Ray cluster has failed: ZeroDivisionError: division by zero" in done.stderr
    assert "Traceback" not in done.stderr


class TestFaults:
    def test_a_worker_that_is_killed(
        self, cluster: RayCluster, demo_fp32: Path, source: Path, whole: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        with driver(cluster, demo_fp32, source, out, "--json") as running:
            wait_until(lambda: any(out.glob("_part-*")) or running.poll() is not None)
            killed = cluster.actors()
            for actor in killed:
                actor.send_signal(signal.SIGKILL)
            told, errors = running.communicate()
        assert killed
        assert running.returncode == 0, errors
        assert json.loads(told)["counts"]["rows"] == ROWS
        assert contents(out) == contents(whole)

    @pytest.mark.slow
    def test_a_machine_that_goes_and_another_that_comes(
        self, demo_fp32: Path, source: Path, whole: Path, tmp_path: Path
    ) -> None:
        """The machine that goes has the only worker, and what is left is made on the one that comes."""
        out = tmp_path / "out"
        with ray_cluster() as own:
            machine = own.add_machine()
            with driver(own, demo_fp32, source, out) as running:
                wait_until(lambda: any(out.glob("_part-*")) or running.poll() is not None)
                assert own.actors()
                own.kill_machine(machine)
                assert not (out / "_SUCCESS").exists()
                own.add_machine()
                _, errors = running.communicate()
        assert running.returncode == 0, errors
        assert contents(out) == contents(whole)

    @pytest.mark.slow
    def test_a_machine_that_comes_gets_a_worker(self, demo_fp32: Path, tmp_path: Path) -> None:
        """The input is long, so that there is something left to do for it."""
        (tmp_path / "in.txt").write_text("".join(f"{row} 번째 문장\n" for row in range(60_000)), encoding="utf-8")
        out = tmp_path / "out"
        arguments = [SCRIPTS / "korsbert", "embed", demo_fp32, tmp_path / "in.txt", "--out", out, "--engine", "ray"]
        with ray_cluster() as own:
            own.add_machine()
            named = [*map(str, arguments), "--address", own.address, "--threads", "1", "--rows-per-part", "500"]
            with subprocess.Popen(named, env=own.environment, stderr=subprocess.DEVNULL) as running:
                wait_until(lambda: any(out.glob("_part-*")) or running.poll() is not None)
                own.add_machine()
                wait_until(lambda: len(own.actors()) == 2 or running.poll() is not None)
                assert running.poll() is None, "no worker came"
                running.terminate()

    @pytest.mark.parametrize(
        ("number", "status"),
        [
            (signal.SIGTERM, 143),
            pytest.param(signal.SIGKILL, -9, marks=pytest.mark.slow),
            pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        ],
    )
    def test_a_driver_that_is_ended_is_finished_by_the_next(
        self,
        number: signal.Signals,
        status: int,
        cluster: RayCluster,
        demo_fp32: Path,
        source: Path,
        whole: Path,
        tmp_path: Path,
    ) -> None:
        out = tmp_path / "out"
        # One worker: two might make all that is left before a busy machine gets to send the signal.
        with driver(cluster, demo_fp32, source, out, "--workers", 1) as running:
            wait_until(lambda: any(out.glob("_part-*")) or running.poll() is not None)
            running.send_signal(number)
            _, errors = running.communicate()
        assert not (out / "_SUCCESS").exists(), "it ended before the signal came"
        assert running.returncode == status, errors
        assert b"Traceback" not in errors
        if number is not signal.SIGKILL:
            assert not [*out.glob(".*")]
        done = run(cluster, demo_fp32, source, out)
        assert done.status == 0, done
        assert "of them from an earlier run" in done.stderr
        assert contents(out) == contents(whole)

    def test_a_worker_that_hangs(
        self, cluster: RayCluster, demo_fp32: Path, source: Path, whole: Path, tmp_path: Path
    ) -> None:
        """The first worker to encode sleeps for ever, in the call that computes."""
        flag = tmp_path / "hung"
        hook = f"""
    encode = Encoder.encode_padded
    def hang(self, *given):
        try:
            os.close(os.open({str(flag)!r}, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return encode(self, *given)
        time.sleep(10_000)
    Encoder.encode_padded = hang"""
        done = run_with_hook(cluster, hook, demo_fp32, source, tmp_path / "out", stall_timeout=20)
        assert flag.exists()
        assert done.status == 0, done.stderr
        assert contents(tmp_path / "out") == contents(whole)

    def test_a_part_that_kills_every_worker(
        self, cluster: RayCluster, demo_fp32: Path, source: Path, tmp_path: Path
    ) -> None:
        hook = "Encoder.encode_padded = lambda *_: os._exit(9)"
        done = run_with_hook(cluster, hook, demo_fp32, source, tmp_path / "out", workers=1)
        assert done.status == 1
        assert "in.jsonl: 5 workers have died, each on the rows from " in done.stderr
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["_plan.json"]

    def test_a_bundle_that_is_replaced_meanwhile(
        self, cluster: RayCluster, demo_fp32: Path, demo_fp16: Path, source: Path, whole: Path, tmp_path: Path
    ) -> None:
        """Machines that find another bundle in its place, or none, get the one of the job."""
        bundle = tmp_path / "bundle"
        shutil.copytree(demo_fp32, bundle)
        hook = f"""
    import shutil
    shutil.rmtree({str(bundle)!r}, ignore_errors=True)
    shutil.copytree({str(demo_fp16)!r}, {str(bundle)!r}, dirs_exist_ok=True)"""
        done = run_with_hook(cluster, hook, bundle, source, tmp_path / "out", workers=1)
        assert done.status == 0, done.stderr
        assert json.loads((bundle / "manifest.json").read_text())["engine"]["precision"] == "fp16"
        assert contents(tmp_path / "out") == contents(whole)

    @pytest.mark.slow
    def test_a_part_that_is_written_again_behind_the_run(
        self, cluster: RayCluster, demo_fp32: Path, source: Path, whole: Path, tmp_path: Path
    ) -> None:
        """A worker that was thought dead may still write; then the part is not taken for what was committed."""
        out, flag = tmp_path / "out", tmp_path / "flag"
        hook = f"""
    from exporter.corpus.cluster import PartMaker
    call = PartMaker.__call__
    def again(self, batch):
        answer = call(self, batch)
        if os.path.exists({str(out)!r} + "/_part-000003.json") and not os.path.exists({str(flag)!r}):
            open({str(flag)!r}, "w").close()
            path = {str(out)!r} + "/part-000003.parquet"
            content = open(path, "rb").read()
            os.unlink(path)
            open(path, "wb").write(content[:-9] + content[-8:])
        return answer
    PartMaker.__call__ = again"""
        done = run_with_hook(cluster, hook, demo_fp32, source, out, workers=1)
        assert done.status == 1
        assert "part-000003.parquet: was written again after it was committed" in done.stderr
        assert run(cluster, demo_fp32, source, out).status == 0
        assert contents(out) == contents(whole)


@pytest.mark.slow
def test_from_an_object_store_to_an_object_store(demo_fp32: Path, source: Path, whole: Path, tmp_path: Path) -> None:
    """Two machines, one of which loses its worker."""
    with s3_server() as s3:
        s3.put_file(str(source), "corpus/in.jsonl")
        with ray_cluster() as own:
            own.add_machine()
            own.add_machine()
            with driver(own, demo_fp32, "s3://corpus/in.jsonl", "s3://vectors/out") as running:
                manifest = "vectors/out/_part-000000.json"
                wait_until(lambda: s3.exists(manifest) or running.poll() is not None)
                killed = own.actors()[:1]
                for actor in killed:
                    actor.send_signal(signal.SIGKILL)
                _, errors = running.communicate()
        assert killed
        assert running.returncode == 0, errors
        s3.get("vectors/out", str(tmp_path / "out"), recursive=True)
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(contents(whole))
    for path in whole.glob("*.parquet"):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


class TestRefusals:
    def test_no_cluster(self, cluster: RayCluster, demo_fp32: Path, source: Path, tmp_path: Path) -> None:
        nowhere = command(cluster, demo_fp32, source, tmp_path / "out", "--address", "127.0.0.1:1")
        done = run_program(nowhere, environment=cluster.environment)
        assert done.status == 3, done
        assert "127.0.0.1:1: no Ray cluster answers" in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "out").exists()

    def test_the_client_of_ray(self, cluster: RayCluster, demo_fp32: Path, source: Path, tmp_path: Path) -> None:
        done = run(cluster, demo_fp32, source, tmp_path / "out", "--address", "ray://127.0.0.1:10001")
        refused(done, 2, "ray://127.0.0.1:10001: Ray Data does not run through Ray's client", "ray job submit")

    @pytest.mark.parametrize("option", [("--workers", 2), ("--address", "auto"), ("--stall-timeout", 5)])
    def test_options_of_a_cluster(
        self, option: tuple[str, object], demo_fp32: Path, source: Path, tmp_path: Path
    ) -> None:
        done = run_program([SCRIPTS / "korsbert", "embed", demo_fp32, source, "--out", tmp_path / "out", *option])
        refused(done, 2, f"{option[0]} is for a cluster", "--engine ray")
        assert not (tmp_path / "out").exists()


def test_the_command_of_a_rayjob(
    cluster: RayCluster, demo_fp32: Path, source: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "the output"
    options = ("--id", "key", "--rows-per-part", ROWS_PER_PART, "--workers", 2, "--threads", 1)
    printed = run_program(
        [SCRIPTS / "korsbert", "embed", demo_fp32, source, "--out", out, *options, "--rayjob", "registry/image:1"]
    )
    assert printed.status == 0, printed
    assert not out.exists()
    words = shlex.split(yaml.safe_load(printed.stdout)["spec"]["entrypoint"])
    environment = {**cluster.environment, "RAY_ADDRESS": cluster.address}
    done = run_program([SCRIPTS / words[0], *words[1:]], environment=environment)
    assert done.status == 0, done.stderr
    assert contents(out) == contents(whole)


def test_a_cluster_is_started_where_there_is_none(demo_fp32: Path, source: Path, whole: Path, tmp_path: Path) -> None:
    options = ("--engine", "ray", "--threads", 1, "--id", "key", "--rows-per-part", ROWS_PER_PART)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = run_program(
        [SCRIPTS / "korsbert", "embed", demo_fp32, source, "--out", tmp_path / "out", *options],
        environment=environment,
    )
    assert done.status == 0, done.stderr
    assert contents(tmp_path / "out") == contents(whole)
