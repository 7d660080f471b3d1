"""What a page says, and that texts of strangers stay texts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from exporter.report import PageData, error_page, report_page
from exporter.validator.parity import compare
from exporter.validator.probes import Probe
from tests.support import reports
from tests.support.reports import SKIPPED, SWEEP, TOKENIZER, data, parity_report

ATTACK = "</td><script>alert(1)</script><img src=x onerror=alert(2)> {{ 7 * 7 }} \u202e&amp;"


class Elements(HTMLParser):
    """The elements of a page, and its texts by the innermost element."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "path", "use", "rect"}:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self._open[-1] if self._open else "", " ".join(data.split())))

    def of(self, tag: str) -> list[str]:
        return [text for inside, text in self.texts if inside == tag]

    @property
    def text(self) -> str:
        return " ".join(text for inside, text in self.texts if inside != "style")


def page(*given: Any, **changes: Any) -> Elements:
    return Elements(report_page(data(*given, **changes)))


def test_a_passed_gate_is_told_in_one_sentence() -> None:
    found = page(parity_report(SWEEP, SKIPPED))
    assert found.of("h1") == [
        "demo fp16 on onnxruntime, compared with its PyTorch checkpoint on 80 probes, "
        "passed: 9 bounds and 1 check hold; 1 check was skipped."
    ]
    assert found.of("title")[0] == "passed: demo fp16 on onnxruntime · korsbert"
    assert "Likely cause" not in found.text


def test_a_failed_gate_names_the_bound_and_the_likely_cause() -> None:
    found = page(parity_report(SWEEP, worst=0.1))
    (told,) = found.of("h1")
    assert re.search(r"80 probes, FAILED by min cosine \(0\.9\d+ < 0\.999900\) and \d other bounds\.$", told)
    assert "Likely cause: the vectors of long texts differ" in found.text


def test_what_a_check_has_found_is_the_cause_and_no_guess() -> None:
    found = page(parity_report(TOKENIZER, worst=0.1))
    assert found.of("h1")[0].endswith("and by the tokenizer check.")
    assert "Cause: tokenizer: truncation is 4, the files say 128" in found.text
    assert "Likely cause" not in found.text


def test_a_check_alone_can_fail() -> None:
    (told,) = page(parity_report(TOKENIZER, SWEEP)).of("h1")
    assert told.endswith("80 probes, FAILED by the tokenizer check.")


def test_a_golden_file_is_named_as_what_was_compared_with() -> None:
    found = page(parity_report(golden="cd" * 32))
    assert "compared with the answers in a golden file on" in found.of("h1")[0]
    assert "cd" * 32 in found.text


def test_an_engine_that_no_machine_has_run_has_not_passed() -> None:
    told = "UNVALIDATED: no machine has run this engine yet."
    found = page(parity_report(SWEEP), not_validated=told)
    assert found.of("title")[0] == "not validated: demo fp16 on onnxruntime · korsbert"
    assert found.text.index(told) < found.text.index("What was measured, what the gate asks for")
    assert page(parity_report(TOKENIZER), not_validated=told).of("title")[0].startswith("FAILED: ")


def test_whose_answers_were_compared_with_can_be_told() -> None:
    found = page(parity_report(), compared_with="the answers of the bundle here")
    assert "onnxruntime, compared with the answers of the bundle here on 80 probes" in found.of("h1")[0]


def test_several_comparisons_have_a_section_each_and_fail_together() -> None:
    http, grpc = parity_report(execution="HTTP"), parity_report(execution="gRPC")
    assert page(http, grpc).of("h1") == ["demo fp16 on onnxruntime: all 2 comparisons passed (HTTP, gRPC)."]
    bad = page(http, parity_report(execution="gRPC", worst=0.1))
    assert bad.of("h1")[0].endswith("1 of 2 comparisons failed.")
    load = replace(SWEEP, name="load", failures=("3 answers of 512 are another request's",))
    lost = page(http, grpc, checks=[load.to_dict()])
    assert lost.of("h1") == ["demo fp16 on onnxruntime FAILED by load: 3 answers of 512 are another request's"]
    assert "load ✕ FAILED 3 answers of 512 are another request's. Covered: 256 widths were compared" in lost.text
    assert "load – skipped" in page(http, grpc, checks=[replace(SKIPPED, name="load").to_dict()]).text
    ids = [attributes["id"] for _, attributes in lost.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_a_bound_says_how_much_of_what_it_allows_is_used_up() -> None:
    report = parity_report().to_dict()
    report["verdicts"] = [
        {"name": "a", "value": 0.75, "bound": 0.5, "relation": ">=", "relative_to": None, "passed": True},
        {"name": "b", "value": 0.04, "bound": 0.01, "relation": "<=", "relative_to": "twice that", "passed": False},
        {"name": "c", "value": None, "bound": 0.01, "relation": "<=", "relative_to": None, "passed": False},
        {"name": "d", "value": 0.0, "bound": 0.0, "relation": "<=", "relative_to": None, "passed": True},
        {"name": "e", "value": 0.9, "bound": 1.0, "relation": ">=", "relative_to": None, "passed": False},
    ]
    text = Elements(report_page(data(reports=[report]))).text
    assert "a ✓ passed 0.75 ≥ 0.5 50%" in text
    assert "b twice that ✕ FAILED 0.04 ≤ 0.01 4.0×" in text
    assert "c ✕ FAILED not a number ≤ 0.01 beyond" in text
    assert "d ✓ passed 0 ≤ 0 none" in text
    assert "e ✕ FAILED 0.90 ≥ 1 beyond" in text


def test_the_worst_sentences_have_their_tokens() -> None:
    report = parity_report(worst=0.1)
    found = page(report)
    worst = report.worst_rows(10)
    assert [text for text in found.of("bdi") if " of " in text] == [f"문장 {row} of 말뭉치" for row in worst]
    assert found.text.count("[CLS] 문장") == 10
    assert "and their tokens" in found.text
    assert "and their tokens" not in page(report, split=None).text


def test_a_text_without_letters_is_named() -> None:
    report = parity_report()
    empty = tuple(Probe(" \t", probe.kind) for probe in report.probes)
    assert "white space only, or empty" in page(replace(report, probes=empty)).text


def test_probes_without_a_number_are_counted() -> None:
    candidate = reports.REFERENCE.copy()
    candidate[[3, 5]] = np.nan
    report = parity_report()
    broken = replace(report, parity=compare(reports.REFERENCE, candidate, [[row] for row in range(reports.ROWS)]))
    assert "2 probes with NaN or Inf are not in the plot" in page(broken).text
    candidate[:] = np.nan
    nothing = replace(report, parity=compare(reports.REFERENCE, candidate, [[row] for row in range(reports.ROWS)]))
    assert "80 probes with NaN or Inf" in page(nothing).text


def test_equal_vectors_are_drawn() -> None:
    report = parity_report()
    same = compare(reports.REFERENCE, reports.REFERENCE, [[row] for row in range(reports.ROWS)])
    assert "none at all" in page(replace(report, parity=same, verdicts=())).text


def test_coverage_says_how_many_of_which_kind() -> None:
    found = page(parity_report(SWEEP, SKIPPED))
    assert "80 probes of 2 to 782 tokens: 40 texts of 2 kinds, and 40 edge cases." in found.text
    assert "weights – skipped not compared: a golden file has no weights" in found.text


def test_a_page_says_where_the_judged_came_from() -> None:
    found, manifest = page(parity_report()), reports.manifest()
    for told in (manifest["source"]["weights_sha256"], manifest["seal"], "a processor, 2 cores", "ab" * 32):
        assert told in found.text
    assert "korsbert validate demo --report page.html" in found.text
    unsealed = page(parity_report(), manifest={**manifest, "seal": "", "files": {}})
    assert "in manifest.json, which lists the hash of this page too" in unsealed.text


def test_the_candidates_of_int8_say_who_was_refused_and_by_what() -> None:
    found = page(parity_report(), files={"int8.json": json.dumps(reports.int8_json()).encode()})
    assert (
        "Judged on 120 held-out sentences (calibration: the sentences that ship). The probes of the gate take no part "
        "in the choice. A is faster and was refused: emulated, it uses 167% of what the gate allows. B is faster and "
        "was refused: its engine uses 93% of what the gate allows."
    ) in found.text
    assert "C ★ chosen 25.0% 2.00× 0.01 0.0033 0.011 37% the fastest that passes" in found.text


def test_the_range_audit_says_what_stays_float32() -> None:
    found = page(parity_report(), files={"fp16.json": json.dumps(reports.fp16_json()).encode()})
    assert "The largest activation of 200 nodes over 582 sentences is 3.012e+04. float16 ends at 65,504." in found.text
    assert "so 1 node stays float32." in found.text
    assert "layer.2/Add 117.6 float16" in found.text


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"candidates": []}', b"\xff", b'{"limit": 1e999}'])
def test_a_file_that_cannot_be_read_has_no_section(content: bytes) -> None:
    found = page(parity_report(), files={"int8.json": content, "fp16.json": content})
    assert "INT8 candidates" not in found.text
    assert "Range audit" not in found.text


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("int8.json", lambda content: content["candidates"][0].update(relative_time=1e-320)),
        ("int8.json", lambda content: content["candidates"][0].update(label="<b>")),
        ("int8.json", lambda content: content["candidates"][2].update(result="rejected")),
        ("int8.json", lambda content: content["candidates"][0].update(result="chosen")),
        ("int8.json", lambda content: content["candidates"][0]["emulated"].update(min_cosine=1e300)),
        ("fp16.json", lambda content: content.update(limit=1.0)),
        ("fp16.json", lambda content: content.update(largest=[])),
        ("fp16.json", lambda content: content["largest"][0].update(value=-1.0)),
    ],
)
def test_impossible_figures_of_a_stranger_have_no_section(name: str, wrong: Callable[[Any], object]) -> None:
    content = {"int8.json": reports.int8_json(), "fp16.json": reports.fp16_json()}[name]
    wrong(content)
    text = page(parity_report(), files={name: json.dumps(content).encode()}).text
    assert "INT8 candidates" not in text
    assert "Range audit" not in text


def test_speed_is_told_beside_the_first_encoder() -> None:
    found = page(throughput=reports.throughput())
    assert found.of("h1") == [
        "demo int8 on onnxruntime encodes 228 sentences per second, 6.85 times sentence-transformers fp32."
    ]
    verdict = {**reports.throughput(), "verdict": "int8 1.8x fp16 here: int8 is worth it"}
    assert page(throughput=verdict).of("h1") == ["int8 1.8x fp16 here: int8 is worth it"]


def test_engines_that_were_compared() -> None:
    tuning = reports.tuning()
    found = page(tuning=tuning)
    assert found.of("h1") == [tuning["sentence"]]
    assert found.of("title")[0] == "measured: int8 on openvino · korsbert"
    for part in (tuning["conditions"], "4 int8 on openvino", "published, best throughput", "the CPU provider cannot"):
        assert part in found.text
    assert "2 fp16 on onnxruntime" in found.text
    assert found.text.count("dominated by another") == 1
    assert "Accuracy against throughput" in found.text


def test_a_comparison_says_whether_vectors_can_be_searched() -> None:
    found = page(comparison=reports.comparison())
    sentence = "vectors stored with A can be searched with B: yes, top-10 overlap 0.998 (at least 0.979)"
    assert found.of("h1") == [sentence]
    assert found.of("title")[0] == "passed: old and new · korsbert"
    assert "stored with A, asked with B 0.9980 0.90" in found.text
    assert "stored with B, asked with A" not in found.text
    assert "what a bundle another one" in found.text
    assert "80 rows of my.txt, matched by text. A and B were made from one checkpoint." in found.text
    assert "Error against length" in found.text
    assert "228" in found.text
    only = page(comparison=reports.comparison(worst=0.1, vectors_only=True))
    assert only.of("title")[0] == "FAILED: old and new · korsbert"
    assert "Error against length" not in only.text
    assert "5 MB" not in only.text


def test_a_comparison_of_other_dimensions_has_no_plots() -> None:
    nothing: dict[str, Any] = {"statistics": None, "rows": [], "worst": [], "search": None, "verdicts": [], "sts": []}
    found = page(comparison={**reports.comparison(), **nothing})
    assert "Distances" not in found.text
    assert "Worst sentences" not in found.text


def test_what_could_not_be_judged_says_why() -> None:
    found = Elements(error_page("my/bundle", "model.onnx: altered\n  next: export it again", command="korsbert x"))
    assert found.of("h1") == ["my/bundle could not be judged: model.onnx: altered"]
    assert "next: export it again" in found.text
    assert "! not judged" in found.text


def test_texts_of_strangers_stay_texts() -> None:
    report = parity_report(replace(SWEEP, coverage=ATTACK, name=ATTACK), worst=0.1, subject=ATTACK, execution=ATTACK)
    report = replace(report, probes=tuple(Probe(ATTACK, f"{ATTACK}{row}") for row in range(reports.ROWS)), cause=ATTACK)
    manifest = reports.manifest()
    manifest["recipe"]["name"] = manifest["source"]["checkpoint"] = manifest["machine"]["processor"] = ATTACK
    manifest["files"] = {ATTACK: {"size": 1, "sha256": ATTACK}}
    int8, audit, speed = reports.int8_json(), reports.fp16_json(), reports.throughput()
    int8["text"] = int8["candidates"][0]["reason"] = audit["largest"][0]["node"] = ATTACK
    speed["subjects"][0]["name"] = speed["conditions"] = ATTACK
    made = data(
        report,
        report,
        manifest=manifest,
        files={"int8.json": json.dumps(int8).encode(), "fp16.json": json.dumps(audit).encode()},
        throughput=speed,
        checks=[replace(SWEEP, name=ATTACK, failures=(ATTACK,)).to_dict()],
        command=ATTACK,
        date=ATTACK,
        split=lambda text: [text, ATTACK],
    )
    for content in (report_page(made), error_page(ATTACK, ATTACK, command=ATTACK, date=ATTACK)):
        found = Elements(content)
        assert {tag for tag, _ in found.tags}.isdisjoint({"script", "img", "link", "iframe", "object"})
        assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
        assert "{{ 7 * 7 }}" in found.text
        assert "\u202e" not in content.decode()


def test_nothing_is_referred_to_outside_of_the_page() -> None:
    files = {
        "int8.json": json.dumps(reports.int8_json()).encode(),
        "fp16.json": json.dumps(reports.fp16_json()).encode(),
    }
    made = report_page(data(parity_report(), files=files, throughput=reports.throughput()))
    assert b"http://" not in made
    assert b"https://" not in made
    for tag, attributes in Elements(made).tags:
        for name in ("src", "href", "xlink:href", "action", "data"):
            assert attributes.get(name, "#").startswith("#"), (tag, attributes)  # type: ignore[union-attr]


def test_equal_data_give_equal_bytes() -> None:
    assert report_page(data(parity_report())) == report_page(data(parity_report()))


def test_a_page_is_small() -> None:
    assert len(report_page(data(parity_report()))) < 100_000


def test_a_page_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="a parity report, a comparison, a throughput"):
        report_page(PageData())
