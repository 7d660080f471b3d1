"""What an embedding refuses, says or warns of before the first part, by the bundle, the options and the places."""

from __future__ import annotations

import importlib.util
import tempfile
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exporter.bundle import Bundle
from exporter.corpus import EmbedOptions, EmbedReport, Progress, _facts, _plan, _warn_of_another_processor, embed
from exporter.corpus.files import Format, InputFile, input_files
from exporter.corpus.output import Output
from exporter.corpus.places import place_of
from exporter.corpus.plan import Identity, Part, Plan
from exporter.corpus.rows import Place
from exporter.errors import InputError
from exporter.targets import Device
from tests.unit.corpus.test_output import nobody


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in.jsonl").write_text('{"text": "a"}')
    return tmp_path / "in.jsonl"


def run(bundle: Path, source: Path | str, out: Path | str, **options: Any) -> None:
    embed(bundle, [str(source)], str(out), EmbedOptions.of(threads=1, **options))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


class TestPlaces:
    def test_a_place_of_an_unknown_kind(self, twin_bundle: Path, source: Path) -> None:
        with pytest.raises(InputError, match=r"unknown://x: cannot be written: Protocol not known: unknown"):
            run(twin_bundle, source, "unknown://x")

    @pytest.mark.skipif(importlib.util.find_spec("gcsfs") is not None, reason="gcsfs is installed")
    def test_a_store_whose_package_is_missing(self, twin_bundle: Path, source: Path) -> None:
        with pytest.raises(InputError, match=r"gs://bucket/out: cannot be written: .*gcs"):
            run(twin_bundle, source, "gs://bucket/out")

    @pytest.mark.parametrize("given", ["out/part-000003.parquet", "link.parquet", "linked"])
    def test_an_input_in_the_output_is_not_removed(self, given: str, twin_bundle: Path, tmp_path: Path) -> None:
        """``--no-resume`` would remove it, and a link to the output lets the next run read what this one writes."""
        out = tmp_path / "out"
        out.mkdir()
        pq.write_table(pa.table({"text": ["a"]}), out / "part-000003.parquet")
        part = Part(3, 0, Place(0), 1, 0)
        (out / "_plan.json").write_bytes(Plan(Identity("seal", {}, ()), (1,), (part,)).to_json())
        (tmp_path / "link.parquet").symlink_to(out / "part-000003.parquet")
        (tmp_path / "linked").mkdir()
        (tmp_path / "linked" / "there").symlink_to(out)
        before = contents(out)
        with pytest.raises(InputError, match=r"parquet: lies in the output .*out\n  next: choose another `out`"):
            run(twin_bundle, tmp_path / given, out, resume=False)
        assert contents(out) == before


class TestRanges:
    @pytest.mark.parametrize("dtype", ["int8", "uint8"])
    @pytest.mark.parametrize("named", [{}, {"engine": "ray", "address": "127.0.0.1:1"}])
    def test_none_for_the_dimension(
        self, dtype: str, named: dict[str, object], twin_bundle: Path, source: Path, tmp_path: Path
    ) -> None:
        (whole,) = Bundle.open(twin_bundle).ranges().normalized
        told = rf"no ranges for {dtype} codes of normalized vectors of 7 dimensions\n  next: .*\({whole}\)"
        with pytest.raises(InputError, match=told):
            run(twin_bundle, source, tmp_path / "out", dtype=dtype, normalize=True, truncate_dim=7, **named)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        "options",
        [
            {"dtype": "int8", "truncate_dim": 7},
            {"dtype": "int8", "normalize": True},
            {"dtype": "float16", "normalize": True, "truncate_dim": 7},
        ],
    )
    def test_others_need_none(
        self, options: dict[str, object], twin_bundle: Path, source: Path, tmp_path: Path
    ) -> None:
        run(twin_bundle, source, tmp_path / "out", dry_run=True, **options)


@pytest.mark.parametrize(
    ("modules", "own", "options", "expected"),
    [
        (("Transformer", "Pooling"), None, {}, False),
        (("Transformer", "Pooling"), None, {"normalize": True, "truncate_dim": 8}, True),
        (("Transformer", "Pooling", "Normalize"), None, {}, True),
        (("Transformer", "Pooling", "Normalize"), None, {"truncate_dim": 8}, False),
        (("Transformer", "Pooling", "Normalize"), 16, {}, False),
        (("Transformer", "Pooling", "Normalize", "Dense"), None, {}, False),
    ],
)
def test_whether_vectors_are_normalized(
    modules: tuple[str, ...], own: int | None, options: dict[str, object], expected: bool, twin_bundle: Path
) -> None:
    opened = Bundle.open_manifest(twin_bundle)
    encoder = opened.manifest.encoder.model_copy(update={"modules": modules, "truncate_dim": own})
    bundle = Bundle(opened.folder, opened.manifest.model_copy(update={"encoder": encoder}))
    assert _facts(bundle, EmbedOptions.of(**options), "")["normalized"] is expected


@pytest.mark.parametrize(
    ("device", "machine", "here", "told"),
    [
        (Device.CPU, {"processor": "A"}, "A", None),
        (Device.CPU, {"processor": "A", "gpu": {"name": "B"}}, "B", "validated on A, and not on B"),
        (Device.CUDA, {"processor": "A", "gpu": {"name": "B"}}, "B", None),
        (Device.CUDA, {"processor": "A", "gpu": {"name": "B"}}, "A", "validated on B, and not on A"),
        (Device.CUDA, {"processor": "A"}, "A", "validated on hardware that it does not name, and not on A"),
        (Device.CUDA, {"gpu": "B"}, "A", "validated on hardware that it does not name"),
        (Device.CPU, {"processor": "A\x1b[2J"}, "B", "validated on A\\x1b[2J, and not on B"),
    ],
)
def test_a_warning_of_another_kind_of_machine(
    device: Device, machine: dict[str, object], here: str, told: str | None, twin_bundle: Path
) -> None:
    opened = Bundle.open_manifest(twin_bundle)
    validation = opened.manifest.validation.model_copy(update={"device": device})
    manifest = opened.manifest.model_copy(update={"machine": machine, "validation": validation})
    warnings: list[str] = []
    _warn_of_another_processor(Bundle(opened.folder, manifest), Progress(on_warning=warnings.append), here)
    assert len(warnings) == (told is not None)
    assert all(told is not None and told in warning for warning in warnings)


def test_parts_of_earlier_runs_are_looked_at_side_by_side(tmp_path: Path) -> None:
    """On an object store, each look is a request that takes its time."""
    identity = Identity("seal", {}, (InputFile("in.jsonl", Format.JSONL, 1, "1"),))
    plan = Plan(identity, (2,), tuple(Part(number, 0, Place(number), 1, number) for number in range(2)))
    (tmp_path / "_plan.json").write_bytes(plan.to_json())
    meeting = threading.Barrier(2, timeout=60)

    class Looked(Output):
        def committed(self, part: Part, identity: Identity) -> None:  # noqa: ARG002
            meeting.wait()

    stages: list[str] = []
    found = _plan(Looked(place_of(str(tmp_path))), identity, EmbedOptions(), Progress(on_stage=stages.append))
    assert found == (plan, {})
    assert stages == ["looking at the parts of earlier runs"]


class TestInputs:
    @pytest.mark.parametrize("given", ["in", "in/**/*.jsonl", "in/*/b.jsonl"])
    def test_a_folder_that_cannot_be_read(self, given: str) -> None:
        """Its rows would be missing without a word."""
        with tempfile.TemporaryDirectory() as name:  # not in a folder that only we may read
            for file in ("open/a.jsonl", "locked/b.jsonl"):
                path = Path(name) / "in" / file
                path.parent.mkdir(parents=True)
                path.write_text('{"text": "a"}\n')
            Path(name).chmod(0o755)
            assert len(input_files([f"{name}/{given}"])) == (1 if given == "in/*/b.jsonl" else 2)
            (Path(name) / "in" / "locked").chmod(0)
            with nobody(), pytest.raises(InputError, match="cannot be read: Permission denied"):
                input_files([f"{name}/{given}"])
            (Path(name) / "in" / "locked").chmod(0o755)

    @pytest.mark.parametrize("content", ['[{"text": "a"}]', '\n [\n{"text": "a"}\n]'])
    def test_a_json_array(self, content: str, twin_bundle: Path, tmp_path: Path) -> None:
        (tmp_path / "in.json").write_text(content)
        with pytest.raises(InputError, match=r"in\.json: is one JSON array"):
            run(twin_bundle, tmp_path / "in.json", tmp_path / "out", on_error="record")

    @pytest.mark.parametrize(
        ("content", "told"), [(b"", "it has no header"), ("본문\n가\n".encode("cp949"), "its header is not UTF-8")]
    )
    def test_a_header_that_is_none(self, content: bytes, told: str, twin_bundle: Path, tmp_path: Path) -> None:
        (tmp_path / "in.csv").write_bytes(content)
        with pytest.raises(InputError, match=told):
            run(twin_bundle, tmp_path / "in.csv", tmp_path / "out")

    @pytest.mark.parametrize(("source", "out", "name"), [("", "out", "inputs"), ("in.jsonl", "", "out")])
    def test_an_empty_name(self, source: str, out: str, name: str, twin_bundle: Path) -> None:
        with pytest.raises(InputError, match=rf"`{name}` is empty"):
            run(twin_bundle, source, out)

    def test_more_dimensions_than_there_are(self, twin_bundle: Path, source: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"`truncate_dim` is 9999, and the vectors have \d+ dimensions"):
            run(twin_bundle, source, tmp_path / "out", truncate_dim=9999)


class TestWarnings:
    def warned(self, bundle: Path, source: Path, out: Path, **options: Any) -> tuple[list[str], EmbedReport]:
        told: list[str] = []
        chosen = EmbedOptions.of(threads=1, **options)
        return told, embed(bundle, [str(source)], str(out), chosen, Progress(on_warning=told.append))

    @pytest.mark.parametrize(("content", "told"), [("", "the input has no rows"), ("{\n", "no row has a vector")])
    def test_of_an_output_without_vectors(self, content: str, told: str, twin_bundle: Path, tmp_path: Path) -> None:
        (tmp_path / "in.jsonl").write_text(content)
        warnings, _ = self.warned(twin_bundle, tmp_path / "in.jsonl", tmp_path / "out", on_error="record")
        assert told in warnings

    def test_of_parts_that_are_removed(self, twin_bundle: Path, source: Path, tmp_path: Path) -> None:
        warnings, report = self.warned(twin_bundle, source, tmp_path / "out")
        assert not any("removing" in warning for warning in warnings)
        assert report.cpu_seconds_per_million_rows is not None
        warnings, report = self.warned(twin_bundle, source, tmp_path / "out")
        assert not any("removing" in warning for warning in warnings)
        assert report.cpu_seconds_per_million_rows is None, "no row was encoded"
        warnings, _ = self.warned(twin_bundle, source, tmp_path / "out", resume=False)
        assert "removing what an earlier run has written: 1 parts" in warnings
