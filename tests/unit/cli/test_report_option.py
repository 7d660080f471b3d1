"""``--report``: a page however the command ends, and nothing half written."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from exporter.cli.reports import Reports
from exporter.errors import BundleError, InputError, MissingDependencyError
from tests.support.reports import SWEEP, parity_report


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "argv", ["korsbert", "validate", "a b", "--report", "page.html"])
    return tmp_path / "page.html"


def test_it_is_written_where_the_gate_passed_and_where_it_failed(page: Path) -> None:
    for worst, verdict in ((1e-4, "passed"), (0.1, "FAILED")):
        reports = Reports(page=page)
        reports.write([parity_report(SWEEP, worst=worst)])
        text = page.read_text(encoding="utf-8")
        assert f"<title>{verdict}: demo fp16" in text
        assert "korsbert validate &#39;a b&#39; --report page.html" in text
    assert [path.name for path in page.parent.iterdir()] == ["page.html"]


def test_it_says_why_nothing_could_be_judged(page: Path) -> None:
    def refuse() -> None:
        raise BundleError("my/bundle: altered <b>", next_step="export it again")

    with pytest.raises(BundleError), Reports(page=page).telling("my/bundle"):
        refuse()
    text = page.read_text(encoding="utf-8")
    assert "my/bundle could not be judged: my/bundle: altered &lt;b&gt;" in text
    assert "next: export it again" in text


def test_an_old_page_is_not_taken_for_the_new_one(page: Path) -> None:
    Reports(page=page).write([parity_report(SWEEP)])
    Reports(page=page)
    assert not page.exists()


@pytest.mark.parametrize("option", ["junit", "page"])
def test_what_is_no_earlier_report_is_neither_removed_nor_replaced(tmp_path: Path, option: str) -> None:
    given = tmp_path / "corpus.txt"
    given.write_text("한국어 문장\n")
    with pytest.raises(InputError, match=r"corpus\.txt: is there, and is no .*, so nothing is written to it"):
        Reports(**{option: given})
    assert given.read_text() == "한국어 문장\n"


def test_a_summary_is_not_appended_to_a_file_that_is_no_text(tmp_path: Path) -> None:
    given = tmp_path / "demo.golden"
    given.write_bytes(b"\x08\0\0\0{}")
    with pytest.raises(InputError, match="is no text"):
        Reports(summary=given)
    for _ in range(2):
        Reports(summary=tmp_path / "summary.md").write([parity_report(SWEEP)])
    assert (tmp_path / "summary.md").read_text().count("demo fp16") >= 2


def test_an_earlier_report_is_replaced(tmp_path: Path) -> None:
    junit, page = tmp_path / "junit.xml", tmp_path / "page.html"
    for _ in range(2):
        Reports(junit=junit, page=page).write([parity_report(SWEEP)])
        assert b"<testsuite" in junit.read_bytes()
    for _ in range(2):
        with pytest.raises(InputError, match="refused"), Reports(junit=junit, page=page).telling("x"):
            raise InputError("refused")


def test_two_reports_are_two_files(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="are the same file"):
        Reports(junit=tmp_path / "a", page=tmp_path / "link" / "a")


def test_an_interrupted_command_says_so(page: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Reports(page=page).telling("the server"):
        raise KeyboardInterrupt
    text = page.read_text(encoding="utf-8")
    assert "interrupted after 0 s; nothing was judged" in text
    assert "KeyboardInterrupt" not in text


def test_a_folder_that_is_not_there_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"page\.html: cannot be written: No such file") as failure:
        Reports(page=tmp_path / "no" / "page.html")
    assert failure.value.next_step == f"create {tmp_path / 'no'}"


@pytest.mark.parametrize("option", ["junit", "summary", "page"])
def test_a_file_of_a_bundle_is_neither_removed_nor_replaced(tmp_path: Path, option: str) -> None:
    for name in ("manifest.json", "parity.json", "report.html"):
        (tmp_path / name).write_text("published")
    with pytest.raises(InputError, match=r"report\.html: is in the folder of a bundle") as failure:
        Reports(**{option: tmp_path / "report.html"})
    assert failure.value.next_step == "write it to another folder"
    assert (tmp_path / "report.html").read_text() == "published"


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_package_is_told_before_the_work(page: Path, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=f"{package} is not installed") as failure:
        Reports(page=page)
    assert failure.value.next_step == "pip install 'korsbert[report]'"
    Reports(junit=page.with_name("junit.xml"))  # which needs neither


def test_the_command_is_told_without_secrets(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = ["--header", "Authorization: Bearer a=hush", "--header=X-Key: hush", "--header-b", "X: hush"]
    addresses = [
        "https://me:wo@rd@host:1/x",
        "http://host/v1?key=hush#hush",
        "me:word@host:2",
        "host/v1?key=hush&b=hush",
    ]
    monkeypatch.setenv("KEY_OF_SERVER", "a key")
    mistaken = ["--key-env", "sk-hush", "--key-env-b=sk-hush", "--key-env", "KEY_OF_SERVER"]
    words = [*addresses, *secret, *mistaken, "--clients", "4", "owner/name@v1", "--out=a@b"]
    monkeypatch.setattr(sys, "argv", ["korsbert", "verify", *words])
    Reports(page=page).write([parity_report(SWEEP)])
    text = page.read_text(encoding="utf-8")
    assert "hush" not in text
    assert "--key-env KEY_OF_SERVER" in text
    assert "--key-env-b" in text
    assert "rd@" not in text
    for told in ("//***@host:1/x", "http://host/v1?...", "me:…@host:2", "host/v1?key=…", "owner/name@v1", "--out=a@b"):
        assert told in text
    for told in ("Authorization: …", "--header=X-Key: …", "X: …", "--clients 4"):
        assert told in text
