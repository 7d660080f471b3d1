"""Parts count where their manifest says that they were made from the same rows, bundle and options."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from exporter.corpus.files import Format, InputFile
from exporter.corpus.output import Output
from exporter.corpus.places import place_of
from exporter.corpus.plan import Identity, Part, Plan
from exporter.corpus.results import Counts
from exporter.corpus.rows import Place
from exporter.errors import BundleError, InputError
from tests.support.fuzzing import told_in_a_sentence

FILES = tuple(InputFile(f"/in-{number}.jsonl", Format.JSONL, 100, "1") for number in range(3))
IDENTITY = Identity("0" * 64, {"dtype": "float32", "prompt": ""}, FILES)
PARTS = (
    Part(0, 0, Place(0), 60, 0),
    Part(1, 0, Place(60, 7), 40, 60),
    Part(2, 2, Place(0), 5, 100),
)
PLAN = Plan(IDENTITY, (100, 0, 5), PARTS)


@pytest.fixture
def output(tmp_path: Path) -> Output:
    (tmp_path / "out").mkdir()
    return Output(place_of(str(tmp_path / "out")))


def write(output: Output, part: Part, identity: Identity = IDENTITY, rows: int | None = None) -> None:
    with output.writing_part(part, pa.schema([("position", pa.int64())])) as writer:
        writer.write(pa.table({"position": list(range(part.rows))}))
    output.commit(part, identity, writer, Counts(rows=part.rows if rows is None else rows))


def names(output: Output) -> set[str]:
    return output.place.names()


@contextmanager
def nobody() -> Iterator[None]:
    """Become a user who may read nothing of ours: root may read every file."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


class TestCommitted:
    def test_a_part_that_is_there(self, output: Output) -> None:
        assert output.committed(PARTS[0], IDENTITY) is None
        write(output, PARTS[0])
        found = output.committed(PARTS[0], IDENTITY)
        assert found is not None
        assert found.counts.rows == 60

    @pytest.mark.parametrize(
        "other",
        [
            replace(IDENTITY, options={"dtype": "float32", "prompt": "query: "}),
            replace(IDENTITY, files=(replace(FILES[0], version="2"), *FILES[1:])),
            replace(IDENTITY, bundle="1" * 64),
        ],
    )
    def test_a_part_of_another_plan_does_not_count(self, other: Identity, output: Output) -> None:
        write(output, PARTS[0], other)
        assert output.committed(PARTS[0], other) is not None
        assert output.committed(PARTS[0], IDENTITY) is None

    @pytest.mark.parametrize("other", [replace(PARTS[0], rows=61), replace(PARTS[0], file=1), PARTS[1]])
    def test_a_part_of_other_rows_does_not_count(self, other: Part, output: Output) -> None:
        write(output, PARTS[0])
        (Path(output.place.url) / PARTS[0].manifest).replace(Path(output.place.url) / other.manifest)
        (Path(output.place.url) / PARTS[0].name).replace(Path(output.place.url) / other.name)
        assert output.committed(other, IDENTITY) is None

    def test_a_part_with_too_few_rows_does_not_count(self, output: Output) -> None:
        write(output, PARTS[0], rows=59)
        assert output.committed(PARTS[0], IDENTITY) is None


class TestOtherParts:
    @pytest.mark.parametrize("name", ["part-000003.parquet", "_part-000003.json", "part-1000000.parquet"])
    def test_parts_that_the_plan_does_not_have(self, name: str, output: Output) -> None:
        for part in PARTS:
            write(output, part)
        output.refuse_other_parts(PLAN)
        output.place.write(name, b"late")
        with pytest.raises(
            BundleError, match=rf"{name}: is of an earlier run, and this output has 3 parts\n.* 000003 on"
        ):
            output.refuse_other_parts(PLAN)

    def test_clearing_removes_them_too(self, output: Output) -> None:
        output.place.write("_plan.json", PLAN.to_json())
        write(output, PARTS[0])
        for name in ("part-000009.parquet", "_part-000009.json", "_SUCCESS", "notes.txt"):
            output.place.write(name, b"late")
        output.clear()
        assert names(output) == {"notes.txt"}


class TestWhatCannotBeRead:
    def test_a_manifest_without_permission(self, output: Output) -> None:
        write(output, PARTS[0])
        (Path(output.place.url) / PARTS[0].manifest).chmod(0)
        with (
            nobody(),
            pytest.raises(BundleError, match=r"_part-000000\.json: cannot be read: Permission denied\n  next"),
        ):
            output.committed(PARTS[0], IDENTITY)

    @pytest.mark.parametrize("name", ["_plan.json", "_part-000000.json", "part-000000.parquet"])
    def test_a_pipe(self, name: str, output: Output) -> None:
        """Nobody writes to it, so that reading it would never end."""
        output.place.write("_plan.json", PLAN.to_json())
        write(output, PARTS[0])
        (Path(output.place.url) / name).unlink()
        os.mkfifo(Path(output.place.url) / name)
        with (
            told_in_a_sentence(),
            pytest.raises(BundleError, match=rf"{name}: cannot be read: it is not a regular file"),
        ):
            _read_all(output)


def _read_all(output: Output) -> None:
    output.plan()
    output.committed(PARTS[0], IDENTITY)


def sealed(change: Callable[[Any], object]) -> bytes:
    """Return the content of ``_plan.json`` with a change and the SHA-256 of what it then is."""
    plan = json.loads(json.loads(PLAN.to_json())["plan"])
    change(plan)
    content = json.dumps(plan)
    return json.dumps({"sha256": hashlib.sha256(content.encode()).hexdigest(), "plan": content}).encode()


class TestPlan:
    def test_it_is_read_as_it_was_written(self) -> None:
        assert Plan.from_json(PLAN.to_json(), "here") == PLAN
        assert Plan.from_json(sealed(lambda _: None), "here") == PLAN

    @pytest.mark.parametrize(
        "change",
        [
            lambda plan: plan["parts"].pop(),
            lambda plan: plan["parts"].pop(0),
            lambda plan: plan["parts"].append(plan["parts"][-1]),
            lambda plan: plan["parts"].reverse(),
            lambda plan: plan["parts"][1].update(number=2),
            lambda plan: plan["parts"][1].update(file=2),
            lambda plan: plan["parts"][2].update(file=7),
            lambda plan: plan["parts"][0].update(rows=59),
            lambda plan: plan["parts"][1].update(rows=41),
            lambda plan: plan["parts"][1].update(rows=0),
            lambda plan: plan["parts"][1].update(position=0),
            lambda plan: plan["parts"][1]["place"].update(row=59),
            lambda plan: plan["parts"][1]["place"].update(offset=-1),
            lambda plan: plan["rows"].__setitem__(0, 101),
            lambda plan: plan["rows"].__setitem__(1, 1),
            lambda plan: plan["rows"].__setitem__(1, -1),
            lambda plan: plan["rows"].append(0),
            lambda plan: plan["identity"]["files"].pop(),
            lambda plan: plan.update(format=2),
        ],
    )
    def test_a_plan_that_leaves_out_rows_is_refused(self, change: Callable[[Any], object]) -> None:
        with pytest.raises(InputError, match=r"here: damaged, or of another version of korsbert\n.*the whole folder"):
            Plan.from_json(sealed(change), "here")

    def test_a_part_without_rows_is_refused(self) -> None:
        empty = Part(1, 0, Place(60, 7), 0, 60)
        parts = (PARTS[0], empty, replace(PARTS[1], number=2), replace(PARTS[2], number=3))
        with pytest.raises(InputError, match=r"here: damaged"):
            Plan.from_json(replace(PLAN, parts=parts).to_json(), "here")

    @pytest.mark.parametrize("content", [b"[" * 100_000, json.dumps({"sha256": "", "plan": "["}).encode()])
    def test_json_that_is_nested_deeply(self, content: bytes) -> None:
        with pytest.raises(InputError, match=r"here: damaged"):
            Plan.from_json(content, "here")
