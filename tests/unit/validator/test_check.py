"""One check: whether it passed, and how it is written down and added to."""

from __future__ import annotations

from exporter.validator.check import Check

PASSED = Check("sweep", "64 widths were compared")
FAILED = Check("weights", "10 weights were compared", ("one differs", "one is missing"), {"weights": 10})


def test_it_passed_where_nothing_is_wrong() -> None:
    assert PASSED.passed
    assert not FAILED.passed


def test_without_figures_there_are_none() -> None:
    assert PASSED.to_dict() == {
        "name": "sweep",
        "passed": True,
        "compared": True,
        "coverage": "64 widths were compared",
        "failures": [],
        "figures": {},
    }


def test_as_json_data_it_has_everything() -> None:
    assert FAILED.to_dict() == {
        "name": "weights",
        "passed": False,
        "compared": True,
        "coverage": "10 weights were compared",
        "failures": ["one differs", "one is missing"],
        "figures": {"weights": 10},
    }


def test_a_subject_goes_before_the_coverage() -> None:
    assert FAILED.of("as folded") == Check(
        "weights", "as folded: 10 weights were compared", FAILED.failures, FAILED.figures
    )


def test_a_reason_goes_behind_the_first_failure() -> None:
    found = FAILED.because("it was built elsewhere")
    assert found.failures == ("one differs (it was built elsewhere)", "one is missing")
    assert (found.name, found.coverage, found.figures) == (FAILED.name, FAILED.coverage, FAILED.figures)


def test_one_that_had_nothing_to_compare_with_is_told_from_one_that_passed() -> None:
    skipped = Check.skipped("weights", "there are none")
    assert (skipped.passed, skipped.coverage) == (True, "not compared: there are none")
    assert [check.result for check in (PASSED, FAILED, skipped)] == ["passed", "FAILED", "skipped"]
    assert skipped.to_dict()["compared"] is False
