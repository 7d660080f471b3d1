"""Vectors in files: joined, searched across, and judged. No engine is needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

import exporter
from exporter.comparison import Comparison
from exporter.errors import GateError, InputError, RecipeError

RNG = np.random.default_rng(0)
VECTORS = RNG.standard_normal((300, 16)).astype(np.float32)
ROTATION = np.linalg.qr(RNG.standard_normal((16, 16)))[0].astype(np.float32)


@pytest.fixture
def npy(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes an array, and returns its file."""

    def write(name: str, vectors: np.ndarray) -> Path:
        np.save(tmp_path / f"{name}.npy", vectors)
        return tmp_path / f"{name}.npy"

    return write


def table(path: Path, vectors: Any, facts: dict[str, Any] | None = None, **columns: Any) -> Path:
    """Write a table with vectors as lists of one length, and return its file."""
    if isinstance(vectors, np.ndarray):
        numbers = pa.array(vectors.reshape(-1))
        vectors = pa.FixedSizeListArray.from_arrays(numbers, vectors.shape[1])
    content = pa.table({**columns, "vector": vectors})
    if facts is not None:
        content = content.replace_schema_metadata({b"korsbert": json.dumps(facts).encode()})
    if path.suffix == ".parquet":
        pq.write_table(content, path, row_group_size=70)
    else:
        pa.feather.write_feather(content, path)
    return path


def verdicts(found: Comparison) -> dict[str, bool]:
    return {verdict.name: verdict.passed for verdict in found.verdicts}


CROSS = ("top-10 overlap, stored with A, searched with B", "top-10 overlap, stored with B, searched with A")
WITHIN = "top-10 overlap, A in A, B in B"


class TestAnswers:
    def test_a_side_against_itself_is_perfect(self, npy: Callable[..., Path]) -> None:
        file = npy("a", VECTORS)
        found = exporter.compare(file, file)
        assert found.passed
        for one in (found.search.a_searched_with_b, found.search.b_searched_with_a, found.search.within):
            assert one is not None
            assert (one.mean, one.min) == (1, 1)
        statistics = found.statistics
        assert statistics is not None
        assert statistics["min_cosine"] == pytest.approx(1, abs=1e-12)
        assert statistics["max_relative_error"] == 0
        assert found.sentence == (
            "vectors stored with A can be searched with B: yes, top-10 overlap 1 (at least 0.960); stored with B and "
            "searched with A: 1"
        )

    def test_a_rotation_keeps_all_neighbors_within_and_finds_none_across(self, npy: Callable[..., Path]) -> None:
        """The trap of every comparison that looks at each side alone."""
        found = exporter.compare(npy("a", VECTORS), npy("b", VECTORS @ ROTATION))
        assert found.search.within.mean == 1
        assert verdicts(found)[WITHIN]
        assert found.parity is not None
        assert found.parity.similarity_drift < 1e-6
        across = (found.search.a_searched_with_b, found.search.b_searched_with_a)
        for name, one in zip(CROSS, across, strict=True):
            assert one is not None
            assert one.mean < 0.1, "ten of 299 by chance are 0.03"
            assert not verdicts(found)[name]
        assert not found.passed
        assert found.sentence.startswith(
            "vectors stored with A can be searched with B: no, top-10 overlap, stored with A"
        )

    def test_noise_is_told_by_its_size(self, npy: Callable[..., Path]) -> None:
        noise = RNG.standard_normal(VECTORS.shape).astype(np.float32)
        a = npy("a", VECTORS)
        small = exporter.compare(a, npy("b", VECTORS + 1e-3 * noise))
        large = exporter.compare(a, npy("c", VECTORS + 0.3 * noise))
        assert small.passed, small.failure()
        assert not large.passed
        assert large.search.within.mean < small.search.within.mean

    def test_one_row_that_is_another_is_found(self, npy: Callable[..., Path]) -> None:
        changed = VECTORS.copy()
        changed[7] = changed[8]
        found = exporter.compare(npy("a", VECTORS), npy("b", changed))
        assert found.worst[0] == 7
        assert "worst: “row 7”" in found.failure()
        assert not verdicts(found)["min cosine"]
        assert verdicts(found)[CROSS[0]], "one of 300 changes no mean"

    def test_rows_in_another_order(self, npy: Callable[..., Path]) -> None:
        found = exporter.compare(npy("a", VECTORS), npy("b", VECTORS[::-1]))
        assert not found.passed
        assert found.search.within.mean < 0.1

    def test_other_dimensions_cannot_be_searched(self, npy: Callable[..., Path]) -> None:
        found = exporter.compare(npy("a", VECTORS), npy("b", VECTORS[:, :15]))
        assert not found.passed
        assert (found.parity, found.search.a_searched_with_b, found.statistics) == (None, None, None)
        assert found.search.within.mean > 0.5
        assert found.sentence.endswith("no, A has vectors of 16 dimensions, and B of 15")
        assert json.loads(found.to_json())["rows"] == []

    def test_bounds_of_ones_own(self, npy: Callable[..., Path], tmp_path: Path) -> None:
        noise = RNG.standard_normal(VECTORS.shape).astype(np.float32)
        pair = npy("a", VECTORS), npy("b", VECTORS + 0.1 * noise)
        assert not exporter.compare(*pair).passed
        assert exporter.compare(*pair, precision_a="int8", precision_b="int8").passed
        assert not exporter.compare(*pair, precision_a="int8", precision_b="int8", min_overlap=0.99).passed
        gates = tmp_path / "gates.yaml"
        gates.write_text("gates: {int8: {mean_neighbor_overlap: 0.995}}")
        found = exporter.compare(*pair, precision_a="int8", precision_b="int8", gates=gates)
        assert [verdict.bound for verdict in found.verdicts if verdict.name in CROSS] == pytest.approx([0.99, 0.99])
        assert not found.passed
        with pytest.raises(RecipeError, match=r"none\.yaml"):
            exporter.compare(*pair, gates=tmp_path / "none.yaml")

    @pytest.mark.parametrize("bound", ["null", "0.5", "0.1"])
    def test_gates_that_leave_no_bound_of_the_overlap(
        self, npy: Callable[..., Path], tmp_path: Path, bound: str
    ) -> None:
        """Half of the neighbors of each side may be none that both have."""
        pair = npy("a", VECTORS), npy("b", VECTORS @ ROTATION)
        gates = tmp_path / "gates.yaml"
        gates.write_text(f"gates: {{fp16: {{mean_neighbor_overlap: {bound}}}}}")
        with pytest.raises(InputError, match=r"leave no bound of the top-10 overlap") as refused:
            exporter.compare(*pair, gates=gates)
        assert refused.value.next_step == "give `min_overlap`"
        assert not exporter.compare(*pair, gates=gates, min_overlap=0.9).passed


class TestLengths:
    UNIT = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)

    def test_cosines_do_not_see_them_and_a_note_says_so(self, npy: Callable[..., Path]) -> None:
        found = exporter.compare(npy("a", VECTORS), npy("b", self.UNIT))
        assert found.passed, found.failure()
        (note,) = [note for note in found.notes if "length" in note or "normalize" in note]
        assert note.startswith("B normalizes its vectors and A does not (")
        assert note.endswith(": scores of dot products differ, and cosines do not")

    def test_dot_products_do(self, npy: Callable[..., Path]) -> None:
        found = exporter.compare(npy("a", VECTORS), npy("b", self.UNIT), similarity="dot")
        assert not found.passed
        assert not verdicts(found)["norm error"]
        assert not verdicts(found)[WITHIN], "the longest vector is the nearest of many"

    def test_a_factor(self, npy: Callable[..., Path]) -> None:
        found = exporter.compare(npy("a", VECTORS), npy("b", VECTORS * 2))
        assert found.passed
        assert any(note.startswith("vectors of A and B have other lengths") for note in found.notes)
        assert not any("lengths" in note for note in exporter.compare(npy("a", VECTORS), npy("c", VECTORS)).notes)


IDS = [f"d{row}" for row in range(300)]


class TestJoining:
    def test_permuted_rows_are_joined_by_their_ids(self, tmp_path: Path) -> None:
        order = RNG.permutation(300)
        a = table(tmp_path / "a.parquet", VECTORS, id=IDS)
        b = table(tmp_path / "b.parquet", VECTORS[order], id=[IDS[row] for row in order])
        found = exporter.compare(a, b)
        assert (found.passed, found.text.matched_by, found.text.rows) == (True, "id", 300)
        named = [
            table(tmp_path / f"{name}.arrow", side, name=ids)
            for name, side, ids in (
                ("c", VECTORS, list(range(300))),
                ("d", VECTORS[order], order.tolist()),
            )
        ]
        assert exporter.compare(*named, id_column="name").passed
        assert not exporter.compare(*named).passed, "without ids, rows are joined in order"

    def test_rows_of_one_side_only_are_left_out(self, tmp_path: Path) -> None:
        a = table(tmp_path / "a.parquet", VECTORS[:200], id=IDS[:200])
        b = table(tmp_path / "b.parquet", VECTORS[100:], id=IDS[100:])
        found = exporter.compare(a, b)
        assert (found.passed, found.text.rows, found.text.rows_a, found.text.rows_b) == (True, 100, 200, 200)
        assert any(note.startswith("100 rows of the sample are in one side only") for note in found.notes)
        assert found.label(0) == "id d100"

    def test_positions(self, tmp_path: Path) -> None:
        order = RNG.permutation(300)
        a = table(tmp_path / "a.parquet", VECTORS, position=range(300))
        b = table(tmp_path / "b.arrow", VECTORS[order], position=order)
        found = exporter.compare(a, b)
        assert (found.passed, found.text.matched_by) == (True, "position")

    def test_a_folder_of_parts_and_rows_without_a_vector(self, tmp_path: Path) -> None:
        folder = tmp_path / "out"
        folder.mkdir()
        for part in range(3):
            low, high = 100 * part, 100 * part + 100
            lists = [None if row == 105 else VECTORS[row].tolist() for row in range(low, high)]
            vectors = pa.array(lists, pa.list_(pa.float32(), 16))
            table(folder / f"part-{part:06d}.parquet", vectors, position=range(low, high))
        np.save(tmp_path / "b.npy", VECTORS)
        found = exporter.compare(folder, tmp_path / "b.npy")
        assert (found.passed, found.text.rows, found.text.rows_a) == (True, 299, 300)
        back = exporter.compare(tmp_path / "b.npy", folder)
        assert (back.passed, back.text.rows) == (True, 299)
        (folder / "_plan.json").write_text("{}")
        with pytest.raises(InputError, match="is not complete"):
            exporter.compare(folder, tmp_path / "b.npy")
        (folder / "_SUCCESS").write_text("{}")
        assert exporter.compare(folder, tmp_path / "b.npy").passed

    def test_a_sample_of_many_rows(self, npy: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("exporter.comparison.npy._ROWS_AT_ONCE", 17)
        found = exporter.compare(npy("a", VECTORS), npy("b", VECTORS), rows=100)
        assert (found.text.rows, found.text.rows_a, found.search.corpus) == (100, 300, 100)
        assert list(found.text.labels[:3]) == ["row 0", "row 3", "row 6"]
        assert any(note.startswith("100 rows were compared of 300 (A) and 300 (B)") for note in found.notes)

    @pytest.mark.parametrize("row", [3, 250])
    def test_an_id_that_is_there_twice(self, tmp_path: Path, row: int) -> None:
        twice = [*IDS]
        twice[200] = twice[row]
        a = table(tmp_path / "a.parquet", VECTORS, id=IDS)
        b = table(tmp_path / "b.parquet", VECTORS, id=twice)
        for pair in ((a, b), (b, a)):
            with pytest.raises(InputError, match=rf"b\.parquet: has 'd{row}' twice"):
                exporter.compare(*pair)

    def test_nothing_in_common(self, tmp_path: Path, npy: Callable[..., Path]) -> None:
        a = table(tmp_path / "a.parquet", VECTORS, id=IDS)
        b = table(tmp_path / "b.parquet", VECTORS, id=[f"x{row}" for row in range(300)])
        with pytest.raises(InputError, match="have no id in common"):
            exporter.compare(a, b)
        with pytest.raises(InputError, match=r"a\.npy has 300 rows and .*b\.npy 299, and nothing says"):
            exporter.compare(npy("a", VECTORS), npy("b", VECTORS[:299]))


class TestStoredTypes:
    def test_codes_are_compared_as_codes(self, npy: Callable[..., Path]) -> None:
        codes = np.clip(np.round(40 * VECTORS), -128, 127).astype(np.int8)
        near = np.clip(codes + RNG.integers(-1, 2, codes.shape), -128, 127).astype(np.int8)
        found = exporter.compare(npy("a", codes), npy("b", near))
        assert (found.passed, found.a.dtype, found.b.dimension) == (True, "int8", 16)
        assert set(verdicts(found)) == {*CROSS, WITHIN, "code changes"}
        unsigned = (near.astype(np.int16) + 128).astype(np.uint8)
        as_unsigned = exporter.compare(npy("a", codes), npy("c", unsigned))
        assert as_unsigned.search == found.search
        far = np.roll(codes, 1, axis=1)
        refused = exporter.compare(npy("a", codes), npy("d", far))
        assert not verdicts(refused)["code changes"]
        assert not verdicts(refused)[CROSS[0]]

    @pytest.mark.parametrize("dtype", ["binary", "ubinary"])
    def test_bits_are_compared_as_bits(self, dtype: Any, tmp_path: Path) -> None:
        made = {"dtype": dtype, "dimension": 12}
        sides = []
        for number, vectors in enumerate((VECTORS[:, :12], VECTORS[:, :12] + np.float32(0.001))):
            bits = exporter.quantize_embeddings(vectors, dtype)
            sides.append(table(tmp_path / f"{number}.parquet", bits, made))
        found = exporter.compare(*sides)
        assert (found.passed, found.a.dtype, found.a.dimension) == (True, dtype, 12)
        flips = next(verdict.value for verdict in found.verdicts if verdict.name == "sign flips")
        signs = (VECTORS[:, :12] > 0) != (VECTORS[:, :12] + np.float32(0.001) > 0)
        assert flips == pytest.approx(signs.mean())

    def test_both_types_of_bits_hold_the_same(self, tmp_path: Path) -> None:
        sides = [
            table(tmp_path / f"{dtype}.parquet", exporter.quantize_embeddings(VECTORS, dtype), {"dtype": dtype})
            for dtype in ("binary", "ubinary")
        ]
        found = exporter.compare(*sides)
        assert found.passed
        assert next(verdict.value for verdict in found.verdicts if verdict.name == "sign flips") == 0

    def test_numbers_are_not_compared_with_codes(self, npy: Callable[..., Path]) -> None:
        found = exporter.compare(npy("a", VECTORS), npy("b", (40 * VECTORS).astype(np.int8)))
        assert not found.passed
        assert found.sentence.endswith("no, A holds float32, and B int8")

    def test_float16_is_judged_as_fp16(self, tmp_path: Path) -> None:
        made = {"precision": "fp32", "recipe": "demo", "bundle": "b" * 64}
        a = table(tmp_path / "a.parquet", VECTORS, {**made, "dtype": "float32"})
        b = table(tmp_path / "b.parquet", VECTORS.astype(np.float16), {**made, "dtype": "float16"})
        found = exporter.compare(a, b)
        assert found.passed, found.failure()
        assert (found.a.judged_as, found.b.judged_as, found.b.precision) == ("fp32", "fp16", "fp32")
        assert found.a.told == "vectors of demo fp32"
        assert found.a.bundle == "b" * 64

    def test_float64_and_the_byte_order_of_other_machines(self, npy: Callable[..., Path]) -> None:
        big = VECTORS.astype(">f8")
        assert exporter.compare(npy("a", VECTORS), npy("b", big), precision_a="fp32", precision_b="fp32").passed

    @pytest.mark.parametrize(
        ("made", "told"),
        [
            ({"dtype": "int8"}, "says that it holds 'int8', and holds float32"),
            ({"dtype": "x"}, "says that it holds 'x', and holds float32"),
            ({"dtype": "float32", "dimension": 17}, "says that its vectors have 17 dimensions, and has 16 numbers"),
        ],
    )
    def test_a_file_that_says_something_else_than_it_holds(
        self, made: dict[str, Any], told: str, tmp_path: Path
    ) -> None:
        file = table(tmp_path / "a.parquet", VECTORS, made)
        with pytest.raises(InputError, match=told):
            exporter.compare(file, file)


class TestRefusals:
    def test_a_side_of_nothing_but_nan_is_a_missed_gate(self, npy: Callable[..., Path]) -> None:
        with pytest.raises(GateError, match="no vector can be compared: B has NaN, Inf or impossible lengths in"):
            exporter.compare(npy("a", VECTORS), npy("b", np.full_like(VECTORS, np.nan)))

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
    @pytest.mark.parametrize("bad", [0, 1])
    def test_numbers_that_are_none_are_left_out_and_fail(
        self, value: float, bad: int, npy: Callable[..., Path]
    ) -> None:
        changed = VECTORS.copy()
        changed[[5, 9], 3] = value
        pair = [npy("a", VECTORS), npy("b", VECTORS)]
        pair[bad] = npy("bad", changed)
        found = exporter.compare(*pair)
        assert not found.passed
        assert found.sentence.endswith(f"no, {'AB'[bad]} has NaN, Inf or impossible lengths in 2 rows")
        assert found.text.rows == 298
        assert "row 5" not in found.text.labels
        json.dumps(found.to_dict(), allow_nan=False)

    def test_vectors_of_zeros_are_near_to_nothing(self, npy: Callable[..., Path]) -> None:
        changed = VECTORS.copy()
        changed[5] = 0
        found = exporter.compare(npy("a", VECTORS), npy("b", changed))
        assert not found.passed
        assert "B has vectors of zeros in 1 rows, which are near to nothing" in found.notes
        both = exporter.compare(npy("b", changed), npy("c", changed))
        assert (both.passed, both.text.rows) == (True, 299)

    def test_few_rows_say_nothing(self, npy: Callable[..., Path]) -> None:
        pair = npy("a", VECTORS[:49]), npy("b", VECTORS[:49])
        with pytest.raises(InputError, match="there are 49 texts to compare, and the 10 nearest among so few say"):
            exporter.compare(*pair)
        assert exporter.compare(*pair, k=9).passed

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({"k": 0}, "`k` is 0"),
            ({"rows": 0}, "`rows` is 0"),
            ({"min_overlap": 1.5}, r"`min_overlap` is 1\.5"),
            ({"min_overlap": 0.0}, r"`min_overlap` is 0\.0, and must be above 0"),
            ({"min_overlap": float("nan")}, "`min_overlap` is nan"),
            ({"similarity": "manhattan"}, "`similarity` is 'manhattan'"),
            ({"precision_a": "fp8"}, "`precision_a` is 'fp8'"),
            ({"sts": ["x.tsv"]}, "`sts` is given, and vectors in a file encode nothing"),
            ({"id_column": "id"}, r"a\.npy: has no ids"),
            ({"require_signature": "key.pem"}, "`require_signature` is given, and only bundles have a signature"),
        ],
    )
    def test_options_that_mean_nothing(self, options: dict[str, Any], told: str, npy: Callable[..., Path]) -> None:
        file = npy("a", VECTORS)
        with pytest.raises(InputError, match=told):
            exporter.compare(file, file, **options)

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            ("none.npy", r"none\.npy: cannot be read: No such file"),
            ("none", "there is no such file or folder"),
            ("none.parquet", "there is no such file or folder"),
            ("empty", "no data in it"),
            ("a.txt", "holds no vectors that can be read"),
        ],
    )
    def test_what_is_no_side(self, given: str, told: str, npy: Callable[..., Path], tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "a.txt").write_text("x")
        with pytest.raises(InputError, match=told):
            exporter.compare(npy("a", VECTORS), tmp_path / given)
