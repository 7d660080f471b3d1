"""The benchmark's arithmetic and order, on a clock that only encoders move. Nothing here measures real time."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest

from exporter.benchmark import (
    REFERENCE,
    bench_bundle,
    evenly_spread,
    int8_verdict,
    measure,
    siblings_of,
    torch_threads,
)
from exporter.bundle import Bundle
from exporter.errors import CheckpointError, InputError
from exporter.recipe import Source, find_recipe
from exporter.targets import Backend, Precision

SENTENCES = ["하나", "둘", "셋", "넷"]
BATCH = 32


class FakeClock:
    """Seconds that pass only when somebody lets them; every number here is exact in binary."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeEncoder:
    """Takes the seconds it is told: for all sentences one number a round, for a single one always the same."""

    def __init__(
        self, name: str, clock: FakeClock, calls: list[str], batch_s: Sequence[float], single_s: float
    ) -> None:
        self._name, self._clock, self._calls = name, clock, calls
        self._batch_s: Iterator[float] = iter(batch_s)
        self._single_s = single_s

    def __call__(self, sentences: list[str], batch_size: int) -> None:
        if batch_size == 1:
            assert len(sentences) == 1
            self._calls.append(f"{self._name} alone")
            self._clock.now += self._single_s
        else:
            assert (sentences, batch_size) == (SENTENCES, BATCH)
            self._calls.append(self._name)
            self._clock.now += next(self._batch_s)


def test_subjects_take_turns_and_the_order_alternates() -> None:
    clock = FakeClock()
    calls: list[str] = []
    encoders = {name: FakeEncoder(name, clock, calls, [1.0] * 5, 0.5) for name in ("a", "b", "c")}
    measure(encoders, SENTENCES, batch_size=BATCH, rounds=4, singles=1, clock=clock)
    assert [call for call in calls if "alone" not in call] == [*"cba", *"abc", *"cba", *"abc", *"cba"]
    assert calls[:4] == ["c", "c alone", "b", "b alone"]


def test_medians_and_paired_ratios_leave_out_the_warm_up() -> None:
    clock = FakeClock()
    calls: list[str] = []
    encoders = {
        "slow": FakeEncoder("slow", clock, calls, [64.0, 4.0, 2.0, 6.0], 0.5),
        "fast": FakeEncoder("fast", clock, calls, [128.0, 1.0, 2.0, 2.0], 0.25),
    }
    slow, fast = measure(encoders, SENTENCES, batch_size=BATCH, rounds=3, singles=2, clock=clock)
    assert (slow.name, slow.round_s, slow.sentences_per_s, slow.ratio) == ("slow", (4.0, 2.0, 6.0), 1.0, 1.0)
    assert (fast.name, fast.round_s, fast.sentences_per_s) == ("fast", (1.0, 2.0, 2.0), 2.0)
    assert fast.ratio == 3.0  # of 4, 1 and 3; the ratio of the medians would be 2
    assert (slow.p50_ms, fast.p50_ms, fast.p99_ms) == (500.0, 250.0, 250.0)


def test_percentiles_are_over_all_rounds_and_singles() -> None:
    clock = FakeClock()
    waits = iter([0.0, 0.0, *(0.001 * number for number in range(1, 101))])  # two of the warm-up, then 50 rounds of two

    def encode(_: list[str], batch_size: int) -> None:
        clock.now += next(waits) if batch_size == 1 else 1.0

    (subject,) = measure({"it": encode}, SENTENCES, batch_size=BATCH, rounds=50, singles=2, clock=clock)
    assert subject.p50_ms == pytest.approx(50.5)
    assert subject.p99_ms == pytest.approx(99.01)


@pytest.mark.parametrize(
    ("names", "sentences", "rounds", "singles"), [("", "x", 1, 1), ("a", "", 1, 1), ("a", "x", 0, 1), ("a", "x", 1, 0)]
)
def test_nothing_to_measure_is_refused(names: str, sentences: str, rounds: int, singles: int) -> None:
    encoders = {name: lambda _, __: None for name in names}
    with pytest.raises(ValueError, match="at least"):
        measure(encoders, list(sentences), batch_size=1, rounds=rounds, singles=singles)


def test_evenly_spread() -> None:
    assert evenly_spread("abcdefgh", 4) == ["a", "c", "e", "g"]
    assert evenly_spread("abc", 8) == ["a", "b", "c"]


class FakeBundle:
    """What ``bench_bundle`` asks of a bundle, without one."""

    folder = Path("bundle")
    manifest = SimpleNamespace(
        recipe=find_recipe("demo"),
        engine=SimpleNamespace(precision=Precision.FP16, backend=Backend.ONNXRUNTIME),
        validation=SimpleNamespace(device="cpu"),
        source=Source(checkpoint="demo/checkpoint", commit=None, weights_sha256="a" * 64, files={}),
    )
    execution = "CPUExecutionProvider"

    def __init__(self) -> None:
        self.threads: int | None = None
        self.batch_sizes: set[int] = set()

    def encoder(self, *, threads: int | None) -> Self:
        self.threads = threads
        return self

    def encode(self, sentences: list[str], batch_size: int) -> None:
        assert sentences
        self.batch_sizes.add(batch_size)

    def count_tokens(self, sentences: Sequence[str]) -> list[int]:
        return [7 for _ in sentences]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "mine.txt"
    path.write_text("\n".join(SENTENCES) + "\n", encoding="utf-8")
    return path


def bench(bundle: FakeBundle, **options: Any) -> Any:
    return bench_bundle(bundle, rounds=1, **options)  # type: ignore[arg-type]


def test_a_bundle_alone_is_its_own_baseline(text: Path) -> None:
    bundle = FakeBundle()
    result = bench(bundle, text=text, threads=3, batch_size=8)
    assert bundle.threads == 3
    assert bundle.batch_sizes == {8, 1}
    (subject,) = result.subjects
    assert (subject.name, subject.ratio) == ("demo fp16 on onnxruntime", 1.0)


def test_conditions_state_what_was_measured_and_no_path(text: Path) -> None:
    result = bench(FakeBundle(), text=text, threads=3, batch_size=8)
    for stated in ("4 sentences of mine.txt", "7 tokens each", "batch 8", "CPU threads 3", "CPUExecutionProvider"):
        assert stated in result.conditions
    assert str(text.parent) not in json.dumps(result.to_dict())


def test_the_result_is_json(text: Path) -> None:
    result = bench(FakeBundle(), text=text)
    read = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert read["conditions"] == result.conditions
    assert read["facts"]["threads"] >= 1
    assert set(read["subjects"][0]) == {"name", "sentences_per_s", "p50_ms", "p99_ms", "ratio", "round_s"}


def test_the_text_that_ships_is_the_default() -> None:
    facts = bench(FakeBundle(), threads=1).facts
    assert facts["sentences"] >= 500
    assert "calibration" in facts["text"]


def test_a_missing_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.txt"):
        bench(FakeBundle(), text=tmp_path / "absent.txt")


def test_a_bundle_alone_needs_no_torch(text: Path) -> None:
    program = f"""
import sys
for package in ("torch", "transformers", "sentence_transformers", "optimum"):
    sys.modules[package] = None  # importing it fails
from pathlib import Path
from tests.unit.test_benchmark import FakeBundle, bench
print(len(bench(FakeBundle(), text=Path({str(text)!r})).subjects))
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "1"


class FakeReference:
    """A checkpoint whose model notes how many threads torch has while it encodes."""

    source = "somewhere"
    facts = SimpleNamespace(summary="a model")

    def __init__(self, weights_sha256: str) -> None:
        self.weights_sha256 = weights_sha256
        self.files: dict[str, str] = {}
        self.model = self
        self.threads: set[int] = set()

    def encode(self, sentences: list[str], *, batch_size: int, show_progress_bar: bool) -> None:
        import torch

        assert sentences
        assert batch_size
        assert not show_progress_bar
        self.threads.add(torch.get_num_threads())


def test_the_reference_comes_first_and_has_the_same_threads(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    before = torch.get_num_threads()
    reference, asked = FakeReference("a" * 64), {}
    monkeypatch.setattr(
        "exporter.checkpoint.loading.load_checkpoint", lambda _, **options: asked.update(options) or reference
    )
    bundle = FakeBundle()
    result = bench(bundle, text=text, against_torch=True, threads=before + 1, checkpoint=text.parent)
    assert [subject.name for subject in result.subjects] == [REFERENCE, "demo fp16 on onnxruntime"]
    assert reference.threads == {before + 1} == {bundle.threads}
    assert torch.get_num_threads() == before
    assert asked == {"folder": text.parent, "revision": None, "pooling": None, "max_seq_length": None, "device": "cpu"}


def test_other_weights_are_refused(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporter.checkpoint.loading.load_checkpoint", lambda *_, **__: FakeReference("b" * 64))
    with pytest.raises(CheckpointError, match=r"aaaaaaaaaaaa….*bbbbbbbbbbbb…"):
        bench(FakeBundle(), text=text, against_torch=True)


def test_torch_threads_come_back_after_an_error() -> None:
    import torch

    before = torch.get_num_threads()
    with pytest.raises(InputError, match="inside"), torch_threads(before + 1):
        fail_inside(torch.get_num_threads(), before + 1)
    assert torch.get_num_threads() == before


def fail_inside(found: int, expected: int) -> None:
    assert found == expected
    raise InputError("inside")


class TestWorth:
    """What is said of an int8 bundle beside bundles of other precisions."""

    def bundle(self, precision: str, folder: Path = Path("out/demo/int8-openvino"), commit: str = "a") -> Any:
        engine = SimpleNamespace(precision=Precision(precision), backend=Backend.OPENVINO)
        recipe = SimpleNamespace(name="demo")
        return SimpleNamespace(folder=folder, manifest=SimpleNamespace(recipe=recipe, engine=engine, source=commit))

    def subject(self, precision: str, *seconds: float) -> Any:
        return SimpleNamespace(name=f"demo {precision} on openvino", round_s=seconds)

    def test_slower_than_another_precision_is_not_worth_it(self) -> None:
        said = int8_verdict(
            self.bundle("int8"),
            [self.bundle("fp16"), self.bundle("fp32")],
            [self.subject("int8", 1.0, 2.0), self.subject("fp16", 0.9, 1.8), self.subject("fp32", 3.0, 6.0)],
        )
        assert said == "int8 0.9x fp16 here: ship fp16"

    def test_faster_than_all_of_them_is(self) -> None:
        subjects = [self.subject("int8", 1.0), self.subject("fp32", 3.0)]
        assert int8_verdict(self.bundle("int8"), [self.bundle("fp32")], subjects) == (
            "int8 3x fp32 here: int8 is worth it"
        )

    @pytest.mark.parametrize("others", [[], ["int8_dynamic"]])
    def test_without_a_comparison_it_says_how_to_get_one(self, others: list[str]) -> None:
        subjects = [self.subject(name, 1.0) for name in ("int8", *others)]
        said = int8_verdict(self.bundle("int8"), [self.bundle(name) for name in others], subjects)
        assert said == "int8 was not compared with another precision: measure it against a bundle in fp32 or fp16"

    def test_nothing_is_said_of_other_precisions(self) -> None:
        subjects = [self.subject(name, 1.0) for name in ("fp16", "fp32")]
        assert int8_verdict(self.bundle("fp16"), [self.bundle("fp32")], subjects) is None

    def test_bundles_beside_it_are_found_if_they_are_of_the_same_weights(
        self, twin_bundle: Path, tmp_path: Path
    ) -> None:
        place = tmp_path / "fp32-onnxruntime"
        shutil.copytree(twin_bundle, place)
        real = Bundle.open(place)
        engine = real.manifest.engine.model_copy(update={"precision": Precision.INT8})
        manifest = real.manifest.model_copy(update={"engine": engine})
        (found,) = siblings_of(Bundle(tmp_path / "int8-onnxruntime", manifest))
        assert found.folder == place
        other = manifest.model_copy(
            update={"source": Source(checkpoint="x", commit=None, weights_sha256="0", files={})}
        )
        assert siblings_of(Bundle(tmp_path / "int8-onnxruntime", other)) == ()
        assert siblings_of(real) == ()


def test_who_is_timed_in_which_round_is_told() -> None:
    told: list[str] = []
    encoders = {name: lambda *_: None for name in ("a", "b")}
    measure(encoders, ["x"], batch_size=1, rounds=2, singles=1, clock=iter(range(100)).__next__, progress=told.append)
    assert told == [
        *("b, warm-up", "a, warm-up"),
        *("a, round 1 of 2", "b, round 1 of 2"),
        *("b, round 2 of 2", "a, round 2 of 2"),
    ]
