from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.engines.tensorrt.profiles import SHORT, Profile, pieces, profile_for, profiles_of
from exporter.errors import EngineError
from exporter.recipe import Range, Shapes


def test_one_alone_many_short_and_everything() -> None:
    assert profiles_of(Shapes(), 256) == (
        Profile((1, 1, 1), (1, 32, 64)),
        Profile((1, 32, 128), (1, 32, 64)),
        Profile((1, 32, 128), (1, 128, 256)),
    )


def test_where_all_sequences_are_short_the_last_is_left_out() -> None:
    assert profiles_of(Shapes(), 48) == (Profile((1, 1, 1), (1, 24, 48)), Profile((1, 32, 128), (1, 24, 48)))


def test_a_recipe_that_wants_long_sequences_only_has_one() -> None:
    shapes = Shapes(batch=Range(min=8, opt=8, max=8), sequence=Range(min=128, opt=256, max=512))
    assert profiles_of(shapes, 512) == (Profile((8, 8, 8), (128, 256, 512)),)


def test_the_models_own_maximum_ends_what_a_recipe_asks_for() -> None:
    shapes = Shapes(sequence=Range(min=1, opt=400, max=512))
    assert profiles_of(shapes, 128)[-1] == Profile((1, 32, 128), (1, 128, 128))


ranges = st.tuples(st.integers(1, 600), st.integers(0, 300), st.integers(0, 300)).map(
    lambda t: Range(min=t[0], opt=t[0] + t[1], max=t[0] + t[1] + t[2])
)


@given(ranges, st.none() | ranges, st.integers(1, 600), st.data())
def test_every_shape_within_a_recipe_has_a_profile(
    batch: Range, sequence: Range | None, most: int, data: st.DataObject
) -> None:
    profiles = profiles_of(Shapes(batch=batch, sequence=sequence), most)
    for profile in profiles:
        for least, tuned, largest in (profile.batch, profile.sequence):
            assert 1 <= least <= tuned <= largest
        assert profile.sequence[2] <= most
    first, last = (sequence.min, sequence.max) if sequence else (1, most)
    rows = data.draw(st.integers(batch.min, batch.max))
    tokens = data.draw(st.integers(min(first, most), min(last, most)))
    assert profiles[profile_for(profiles, rows, tokens)].holds(rows, tokens)


@pytest.mark.parametrize(
    ("rows", "tokens", "number"), [(1, 14, 0), (1, 65, 2), (2, 14, 1), (128, SHORT, 1), (128, SHORT + 1, 2)]
)
def test_the_narrowest_serves(rows: int, tokens: int, number: int) -> None:
    assert profile_for(profiles_of(Shapes(), 256), rows, tokens) == number


def test_a_sequence_beyond_all_is_refused_with_what_is_served() -> None:
    with pytest.raises(EngineError, match=r"3 rows of 257 tokens .* \(1 to 1 rows of 1 to 64; .*1 to 256\)"):
        profile_for(profiles_of(Shapes(), 256), 3, 257)


def test_more_rows_than_an_engine_takes_are_run_in_pieces() -> None:
    profiles = profiles_of(Shapes(batch=Range(min=1, opt=2, max=4)), 64)
    assert pieces(profiles, 4) == [slice(0, 4)]
    assert pieces(profiles, 9) == [slice(0, 4), slice(4, 8), slice(8, 9)]
