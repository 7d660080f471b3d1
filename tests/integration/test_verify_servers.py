"""Real servers behind a proxy with faults: the sound server passes, and every fault is red with its cause named.

Infinity (OpenAI's API) and Triton are real. TEI is a stand-in (``tests/support/tei_stand_in.py``), because it is in no
package index.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer

import exporter
from exporter.bundle import Bundle
from exporter.errors import ServerError
from exporter.golden import read_golden
from exporter.serving.embeddings import ServerOptions
from exporter.serving.embeddings.probing import rows_of
from exporter.serving.embeddings.verify import Judged, verify
from exporter.serving.expected import Expected, expected_of_bundle, expected_of_golden
from exporter.serving.triton import Options, ship
from exporter.serving.triton.verify import verify as verify_triton
from exporter.targets import Precision
from exporter.validator import ParityReport
from tests.conftest import Shared
from tests.support.fault_proxy import Fault, OpenAiAnswers, Proxy, TeiAnswers, TritonAnswers, fault_proxy
from tests.support.faulty_vectors import (
    float16,
    int8_codes,
    normalized,
    rounded_to_8_bits,
    swap_two,
    with_nan,
    without_normalization,
    without_the_last,
)
from tests.support.infinity import infinity
from tests.support.tei_stand_in import tei_stand_in
from tests.support.triton import running
from tests.support.warm import CLI, WarmPython

JUDGED = Judged(clients=8, requests=48, normalize=True)


def half_of(tokenizer: Tokenizer, tokens: int) -> Callable[[list[str]], list[str]]:
    """Return a function that cuts texts off after ``tokens`` tokens, special ones included."""
    plain = Tokenizer.from_str(tokenizer.to_str())
    plain.no_padding()
    plain.enable_truncation(tokens)

    def cut(texts: list[str]) -> list[str]:
        cut_off = []
        for text, encoding in zip(texts, plain.encode_batch(texts), strict=True):
            end = max((stop for _, stop in encoding.offsets), default=len(text))
            cut_off.append(text[:end] if encoding.overflowing else text)
        return cut_off

    return cut


@dataclass(frozen=True)
class Served:
    """A real server behind a proxy, and what it should answer."""

    proxy: Proxy
    expected: Expected
    options: ServerOptions
    path: str
    half: Callable[[list[str]], list[str]]

    def judge(self, fault: Fault | None = None) -> ParityReport:
        self.proxy.fault = fault or Fault()
        return verify(f"{self.proxy.url}{self.path}", self.options, self.expected, JUDGED)


def fewer(expected: Expected) -> Expected:
    """Return every fourth sentence, and all edge cases."""
    probes = expected.reference.probes
    rows = [row for row, probe in enumerate(probes) if probe.kind.startswith("edge") or row % 4 == 0]
    return replace(expected, reference=rows_of(expected.reference, rows))


@pytest.fixture(scope="module", params=["openai", "tei"])
def served(
    request: pytest.FixtureRequest,
    shared: Shared,
    twin: Path,
    twin_bundle: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    folder = shared("twin-golden", lambda folder: exporter.write_golden(twin, folder / "twin.golden"))
    expected = fewer(expected_of_golden(read_golden(folder / "twin.golden")))
    longest = expected.facts.max_seq_length
    half = half_of(Tokenizer.from_file(str(twin_bundle / "tokenizer.json")), longest // 2)
    if request.param == "openai":
        with (
            infinity(twin, tmp_path_factory.mktemp("infinity")) as url,
            fault_proxy(url.removeprefix("http://"), OpenAiAnswers(), ["/embeddings"]) as proxy,
        ):
            yield Served(proxy, expected, ServerOptions(api="openai", model=twin.name), "/embeddings", half)
    else:
        with (
            tei_stand_in(twin_bundle) as server,
            fault_proxy(server.url.removeprefix("http://"), TeiAnswers(), ["/embed"]) as proxy,
        ):
            yield Served(proxy, expected, ServerOptions(api="tei"), "", half)


def test_a_sound_server_passes_every_check(served: Served) -> None:
    report = served.judge()
    assert report.passed, report.failure()
    compared = {check.name for check in report.checks if check.compared}
    assert compared >= {
        "requests",
        "order",
        "concurrency, equal lengths",
        "concurrency, unequal lengths",
        "concurrency, batches",
        "truncation",
        "normalization",
        "dimensions",
        "dtype",
        "refusals",
    }


FAULTS: dict[str, tuple[Fault, tuple[str, ...]]] = {
    "two answers swapped": (
        Fault(vectors=swap_two),
        (
            "answers are swapped in pairs",
            "requests: 2 of 32 answers in one request belong to another text: text 0 has that of text 1",
            "answers belong to another text of the same request",
        ),
    ),
    "normalization dropped": (
        Fault(vectors=without_normalization),
        ("a Normalize was dropped or added", "normalization: the reference's vectors have length 1, the server's"),
    ),
    "rounded to 8 bits": (
        Fault(vectors=rounded_to_8_bits),
        ("likely cause: every value is a number of 8 bits", "dtype: every value is a number of 8 bits"),
    ),
    "int8 codes": (Fault(vectors=int8_codes), ("every value is a number of 8 bits",)),
    "float16": (
        Fault(vectors=float16),
        ("the output is rounded to float16", "dtype: every value is a number of float16"),
    ),
    "one answer late": (
        Fault(late=True),
        ("answers belong to another text: requests that come at the same time get each other's answers",),
    ),
    "NaN": (Fault(vectors=with_nan), ("rows have NaN or Inf",)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_red_and_its_cause_is_named(served: Served, name: str) -> None:
    fault, told = FAULTS[name]
    report = served.judge(fault)
    assert not report.passed
    for part in told:
        assert part in report.failure()


def test_truncation_at_half_the_length_is_found_and_measured(served: Served) -> None:
    report = served.judge(Fault(texts=served.half))
    assert not report.passed
    assert "and the longest has 128: text is truncated at about half" in report.failure()
    assert re.search(r"of a text of 128 tokens the server reads only the first \d+ of \d+ words", report.failure())


def test_a_dropped_row_is_told(served: Served) -> None:
    with pytest.raises(ServerError, match=r"32 texts were answered with 31 vectors"):
        served.judge(Fault(vectors=without_the_last))


def test_base64_of_another_type_is_found(served: Served) -> None:
    report = served.judge(Fault(doubles=True))
    if served.options.api == "tei":  # it has no base64
        assert report.passed
        return
    assert "encoding: base64 has 128 dimensions, JSON numbers have 64: another type of number" in report.failure()


@pytest.mark.parametrize(
    ("fault", "told"),
    [(Fault(refuses=9), "after HTTP 429"), (Fault(closes=9), "after broken connections")],
    ids=["overloaded", "closed connections"],
)
def test_what_passes_when_it_is_sent_again_passes(served: Served, fault: Fault, told: str) -> None:
    report = served.judge(fault)
    assert report.passed, report.failure()
    (connection,) = (check for check in report.checks if check.name == "connection")
    assert told in connection.coverage


def test_a_server_that_always_closes_is_told(served: Served) -> None:
    with pytest.raises(ServerError, match="the answer is not HTTP: RemoteDisconnected"):
        served.judge(Fault(closes=1))


@pytest.fixture(scope="module")
def prompted(twin: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose default prompt is that of documents."""
    folder = Path(shutil.copytree(twin, tmp_path_factory.mktemp("prompted") / "prompted"))
    path = folder / "config_sentence_transformers.json"
    prompts = {"prompts": {"query": "질문: ", "document": "글: "}, "default_prompt_name": "document"}
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **prompts}), encoding="utf-8")
    return Bundle.open(exporter.export(str(folder), out=folder.parent / "out").folder, for_encoding=True)


def test_prompts_are_named_to_tei(prompted: Bundle) -> None:
    expected = fewer(expected_of_bundle(prompted, "bundle", Precision.FP32))
    judged = Judged(clients=4, requests=12)
    with tei_stand_in(prompted.folder) as server:
        report = verify(server.url, ServerOptions(api="tei"), expected, judged)
        assert report.passed, report.failure()
        (prompts,) = (check for check in report.checks if check.name == "prompts")
        assert prompts.coverage.startswith("prompt 'query', encode_query, encode_document on ")
        server.encoder.prompts["query"] = ""
        report = verify(server.url, ServerOptions(api="tei"), expected, judged)
        assert [check.name for check in report.checks if not check.passed] == ["prompts"]
        assert "prompts: prompt 'query': min cosine" in report.failure()
        del server.encoder.prompts["query"]
        report = verify(server.url, ServerOptions(api="tei"), expected, judged)
        assert "prompts: refused: Input validation error: prompt 'query' was not found" in report.failure()


@pytest.fixture(scope="module")
def triton(demo_fp32: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Proxy, str, Bundle]]:
    """A real Triton behind a proxy, the address of its gRPC, and the bundle that it serves."""
    bundle = Bundle.open(demo_fp32, for_encoding=True)
    folder = tmp_path_factory.mktemp("triton")
    ship([bundle], folder / "models", Options(runtime="python"))
    with (
        running(folder / "models", folder / "work") as server,
        fault_proxy(server.http, TritonAnswers(), ["/infer"]) as proxy,
    ):
        yield proxy, server.grpc, bundle


TRITON_FAULTS: dict[str, tuple[Fault, str]] = {
    "two answers swapped": (Fault(vectors=swap_two), "answers are swapped in pairs"),
    "normalization added": (Fault(vectors=normalized), "a Normalize was dropped or added"),
    "rounded to 8 bits": (Fault(vectors=rounded_to_8_bits), "every value is a number of 8 bits"),
}


def judge_triton(triton: tuple[Proxy, str, Bundle], fault: Fault) -> tuple[bool, str]:
    proxy, grpc, bundle = triton
    proxy.fault = fault
    address = proxy.url.removeprefix("http://")
    result = verify_triton(bundle, address, grpc=grpc, source="bundle", clients=8, requests=64)
    over_http, over_grpc = result.reports
    assert over_grpc.passed  # it does not go through the proxy
    assert result.compared_with == "the bundle"
    told = [over_http.failure()] if not over_http.passed else []
    return result.passed, "\n".join([*told, *result.load.check().failures])


def test_a_sound_triton_passes_through_the_proxy(triton: tuple[Proxy, str, Bundle]) -> None:
    assert judge_triton(triton, Fault()) == (True, "")


@pytest.mark.parametrize("name", TRITON_FAULTS)
def test_a_fault_of_triton_is_red_and_its_cause_is_named(triton: tuple[Proxy, str, Bundle], name: str) -> None:
    fault, told = TRITON_FAULTS[name]
    passed, failure = judge_triton(triton, fault)
    assert not passed
    assert told in failure


def test_truncation_of_triton_at_half_the_length(triton: tuple[Proxy, str, Bundle]) -> None:
    bundle = triton[2]
    tokenizer = Tokenizer.from_buffer(bundle.read("tokenizer.json"))
    passed, failure = judge_triton(triton, Fault(texts=half_of(tokenizer, 128)))
    assert not passed
    assert "text is truncated at about half" in failure


def test_an_answer_of_triton_that_comes_late(triton: tuple[Proxy, str, Bundle]) -> None:
    passed, failure = judge_triton(triton, Fault(late=True))
    assert not passed
    assert "answers belong to another sentence" in failure


def test_triton_with_a_golden_file_from_the_command_line(
    triton: tuple[Proxy, str, Bundle], shared: Shared, python: WarmPython, tmp_path: Path
) -> None:
    proxy, grpc, bundle = triton
    proxy.fault = Fault(vectors=normalized)
    golden = shared("demo-golden", lambda folder: exporter.write_golden("demo", folder / "demo.golden")) / "demo.golden"
    address = (proxy.url, bundle.folder, "--grpc", grpc, "--golden", golden, "--clients", "4", "--requests", "16")
    reports = ("--junit", "v.xml", "--summary", "v.md")
    done = python.run(CLI, "verify", *address, *reports, cwd=tmp_path)
    assert done.status == 1
    over_http = f"demo_text, fp32 on onnxruntime, http, Triton over HTTP at {proxy.url.removeprefix('http://')}"
    assert done.stdout.splitlines()[0] == f"{over_http}, compared with the golden file"
    assert "a Normalize was dropped or added" in done.stderr
    assert "a Normalize was dropped or added" in (tmp_path / "v.md").read_text(encoding="utf-8")
    first, second, together = ET.parse(tmp_path / "v.xml").getroot()
    assert first.get("failures") != "0"
    assert (second.get("failures"), second.get("name")) == ("0", "demo_text, fp32 on onnxruntime, grpc")
    assert [case.get("name") for case in together] == ["load"]
    proxy.fault = Fault()
    assert python.run(CLI, "verify", *address, *reports, cwd=tmp_path).status == 0
    assert "### ✅ demo&#95;text, fp32 on onnxruntime, http: passed" in (tmp_path / "v.md").read_text(encoding="utf-8")


def test_another_type_of_triton_s_numbers(triton: tuple[Proxy, str, Bundle]) -> None:
    with pytest.raises(ServerError, match="were answered with FP64"):
        judge_triton(triton, dataclasses.replace(Fault(), doubles=True))
