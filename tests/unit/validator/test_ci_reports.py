"""JUnit XML and Markdown of a report: every bound and check is there, also what could not be judged."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

from exporter.errors import BundleError
from exporter.validator.check import Check
from exporter.validator.junit import junit_of, junit_of_error
from exporter.validator.probes import Probe
from exporter.validator.summary import markdown_of, markdown_of_error
from tests.unit.validator.test_report import HELD, MISSED, NO_NUMBER, SWEEP, WEIGHTS, report_of, spoiled

SKIPPED = Check.skipped("weights", "there are none")
REFUSED = BundleError("demo/model.onnx: altered since it was published", next_step="export it again")
MACHINE = {"processor": "a | b", "korsbert": "0.1.0"}


class TestJunit:
    def test_every_bound_and_every_check_is_a_case(self) -> None:
        report = report_of(spoiled(), HELD, MISSED).with_checks(SWEEP, WEIGHTS)
        text = junit_of([report], seconds=2.26)
        assert text.startswith(b"<?xml")
        suite = ET.fromstring(text)
        assert suite.tag == "testsuite"
        counts = {"tests": "4", "failures": "2", "errors": "0", "skipped": "0"}
        assert suite.attrib == {"name": "demo", **counts, "time": "2.3"}
        cases = suite.findall("testcase")
        assert [case.attrib for case in cases] == [
            {"classname": "demo", "name": name} for name in ("mean cosine", "min cosine", "sweep", "weights")
        ]
        held, missed, sweep, weights = cases
        assert [child.tag for child in held] == ["system-out"]
        assert held[0].text == str(HELD)
        assert [child.tag for child in missed] == ["failure"]
        assert (missed[0].get("message"), missed[0].text) == (str(MISSED), report.failure())
        assert [(child.tag, child.text) for child in sweep] == [("system-out", SWEEP.coverage)]
        assert [child.tag for child in weights] == ["failure", "system-out"]
        assert (weights[0].get("message"), weights[0].text) == ("one differs", "one differs\none is missing")
        assert weights[1].text == WEIGHTS.coverage

    def test_the_cause_is_told_once(self) -> None:
        report = report_of(spoiled(), MISSED, NO_NUMBER, cause="a guess")
        assert junit_of([report]).decode().count("a guess") == 1

    def test_what_was_not_compared_is_skipped(self) -> None:
        suite = ET.fromstring(junit_of([report_of(spoiled(), HELD).with_checks(SKIPPED)]))
        assert (suite.get("failures"), suite.get("skipped")) == ("0", "1")
        _, weights = suite.findall("testcase")
        assert [(child.tag, child.get("message")) for child in weights] == [("skipped", SKIPPED.coverage)]

    def test_several_reports_are_several_suites(self) -> None:
        root = ET.fromstring(junit_of([report_of(), report_of(None, MISSED)], [SWEEP], 1))
        assert (root.tag, root.get("time")) == ("testsuites", "1.0")
        assert [(suite.get("name"), suite.get("failures")) for suite in root] == [
            ("demo", "0"),
            ("demo", "1"),
            ("all", "0"),
        ]

    def test_what_could_not_be_judged_is_an_error(self) -> None:
        suite = ET.fromstring(junit_of_error("demo", REFUSED))
        assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("1", "0", "1")
        (error,) = suite.iter("error")
        assert (error.get("type"), error.get("message")) == ("BundleError", REFUSED.message)
        assert error.text == str(REFUSED)

    def test_control_characters_do_not_break_it(self) -> None:
        probes = tuple(Probe("앞\x00뒤\x07", "edge: control characters") for _ in report_of().probes)
        report = replace(report_of(spoiled(), MISSED, cause="\x1b[31m\ufffe"), probes=probes, subject="a\x01\udc80b")
        root = ET.fromstring(junit_of([report]))
        assert "�[31m�" in "".join(root.itertext())
        assert root.get("name") == "a��b"
        assert ET.fromstring(junit_of_error("a\x01\udc80b", REFUSED)).get("name") == "a��b"


class TestMarkdown:
    def test_it_has_verdicts_checks_and_the_worst_sentences(self) -> None:
        report = report_of(spoiled(), HELD, MISSED, cause="a guess").with_checks(SWEEP, WEIGHTS, SKIPPED)
        text = markdown_of([report], made_on=MACHINE)
        assert "### ❌ demo: FAILED" in text
        assert "  likely cause: a guess" in text
        assert "| passed | mean cosine | 0.75 | &#62;= 0.5 |" in text
        assert "| **FAILED** | min cosine | 0.25 | &#62;= 0.5 |" in text
        assert "| sweep | passed | 256 widths were compared |" in text
        assert "| weights | **FAILED** | one differs; one is missing |" in text
        assert "| weights | skipped | not compared&#58; there are none |" in text
        assert "| -1 | 2 | 7 | 문장 4 |" in text
        assert text.count("| 문장 ") == 5
        assert "<sub>processor a &#124; b, korsbert 0.1.0</sub>" in text

    def test_one_that_passed(self) -> None:
        text = markdown_of([report_of()], made_on={})
        assert "### ✅ demo: passed" in text
        assert "FAILED" not in text

    def test_a_sentence_cannot_write_markdown(self) -> None:
        evil = Probe("| <img src=x> [a](b) `c` **d**\n# e @team https://a.b $x$\x1b", "edge")
        report = replace(report_of(), probes=(evil,) * len(report_of().probes))
        text = markdown_of([report], made_on={})
        assert "&#124; &#60;img src=x&#62; &#91;a&#93;(b) &#96;c&#96; &#42;&#42;d&#42;&#42; &#35; e " in text
        assert "e @\u200bteam https&#58;//a.b &#36;x&#36;&#92;x1b" in text

    def test_a_sentence_cannot_pass_for_a_verdict(self) -> None:
        report = replace(report_of(), probes=(Probe("**FAILED**", "edge"),) * len(report_of().probes))
        assert "**FAILED**" not in markdown_of([report], made_on={})

    def test_checks_of_all_have_a_heading_of_their_own(self) -> None:
        assert "### ❌ all together: FAILED" in markdown_of([report_of()], [SWEEP, WEIGHTS], made_on={})
        assert "### ✅ all together: passed" in markdown_of([report_of()], [SWEEP], made_on={})

    def test_a_baseline_of_other_probes_is_not_compared(self) -> None:
        before = {**report_of().to_dict(), "probes_sha256": "another"}
        assert "was judged on other probes" in markdown_of([report_of(spoiled())], baseline=before, made_on={})

    def test_a_baseline_with_impossible_figures(self) -> None:
        before = {**report_of().to_dict(), "statistics": {"mean_neighbor_overlap": 10**400, "gone": 0.5}}
        text = markdown_of([report_of()], baseline=before, made_on={})
        assert "| mean&#95;neighbor&#95;overlap | unknown | 1 |" in text
        assert "| gone | 0.5 | unknown |" in text

    def test_what_has_changed_since_a_baseline(self) -> None:
        before = report_of().to_dict()
        assert "No figure has changed since the baseline." in markdown_of([report_of()], baseline=before, made_on={})
        text = markdown_of([report_of(spoiled())], baseline=before, made_on={})
        assert "| min&#95;neighbor&#95;overlap | 1 | 0 |" in text

    def test_what_could_not_be_judged(self) -> None:
        text = markdown_of_error("demo", REFUSED)
        assert text.startswith(
            "### ⚠️ demo: could not be judged\n\ndemo/model.onnx&#58; altered since it was published "
        )
