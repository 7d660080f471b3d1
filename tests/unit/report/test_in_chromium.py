"""The page in a real Chromium: what it shows, asks for and prints, in light and dark, on a desk and on a phone."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

from exporter.report import error_page, report_page
from tests.support import reports
from tests.support.reports import SKIPPED, SWEEP, TOKENIZER, data, parity_report

DESK, PHONE = ViewportSize(width=1280, height=900), ViewportSize(width=360, height=740)
FILES = {
    "int8.json": json.dumps(reports.int8_json()).encode(),
    "fp16.json": json.dumps(reports.fp16_json()).encode(),
}
LONG = "이름에공백이없는" * 40
PAGES: dict[str, Callable[[], bytes]] = {
    "passed": lambda: report_page(data(parity_report(SWEEP, SKIPPED), files=FILES)),
    "failed": lambda: report_page(data(parity_report(TOKENIZER, SWEEP, worst=0.3))),
    "not validated": lambda: report_page(data(parity_report(SWEEP), not_validated="UNVALIDATED")),
    "two": lambda: report_page(
        data(parity_report(execution="HTTP"), parity_report(execution="gRPC"), checks=[SWEEP.to_dict()])
    ),
    "compared": lambda: report_page(data(manifest=None, comparison=reports.comparison(worst=0.1))),
    "bench": lambda: report_page(data(throughput=reports.throughput(), files=FILES)),
    "tune": lambda: report_page(data(tuning=reports.tuning())),
    "everything": lambda: report_page(data(parity_report(SWEEP), throughput=reports.throughput(), files=FILES)),
    "not judged": lambda: error_page("a bundle", "model.onnx: altered\n  next: export it again"),
    "long names": lambda: report_page(data(parity_report(subject=LONG, execution=LONG), command=LONG)),
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert path is not None, "there is no Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    for name, made in PAGES.items():
        (folder / f"{name}.html").write_bytes(made())
    return folder


@dataclass
class Opened:
    """A page, and what it has said and asked for."""

    page: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def opened(browser: Browser, folder: Path, request: pytest.FixtureRequest) -> Iterator[Opened]:
    name, viewport, scheme = request.param
    context = browser.new_context(viewport=viewport, color_scheme=scheme)
    found = Opened(context.new_page())
    found.page.on("console", lambda message: found.said.append(message.text))
    found.page.on("pageerror", lambda error: found.said.append(str(error)))
    found.page.on("request", lambda asked: found.asked.append(asked.url))
    found.page.goto((folder / f"{name}.html").as_uri())
    yield found
    context.close()


def on(*names: str, viewport: ViewportSize = DESK, scheme: Literal["light", "dark"] = "light") -> pytest.MarkDecorator:
    """Open these pages, by default all."""
    chosen = names or tuple(PAGES)
    return pytest.mark.parametrize("opened", [(name, viewport, scheme) for name in chosen], indirect=True, ids=chosen)


@on()
def test_it_says_nothing_and_asks_for_nothing(opened: Opened, folder: Path) -> None:
    opened.page.wait_for_load_state("networkidle")
    assert opened.said == []
    assert len(opened.asked) == 1
    assert opened.asked[0].startswith(folder.as_uri())


@on("passed")
def test_the_console_is_listened_to(opened: Opened) -> None:
    opened.page.evaluate("document.body.appendChild(document.createElement('script')).src = 'https://example.com/x.js'")
    opened.page.wait_for_timeout(200)
    assert any("Content Security Policy" in said for said in opened.said)
    assert len(opened.asked) == 2


def violations(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found]


@on()
def test_axe_finds_nothing(opened: Opened) -> None:
    assert violations(opened.page) == []


@on("everything", "failed", "not judged", "not validated", scheme="dark")
def test_axe_finds_nothing_in_the_dark(opened: Opened) -> None:
    assert violations(opened.page) == []


@on("everything", viewport=PHONE)
def test_axe_finds_nothing_on_a_phone(opened: Opened) -> None:
    assert violations(opened.page) == []


@on("passed")
def test_axe_would_find_a_fault(opened: Opened) -> None:
    opened.page.evaluate("document.querySelector('h1').style.color = '#cccccc'")
    assert any(found.startswith("color-contrast") for found in violations(opened.page))


@on(viewport=PHONE)
def test_a_phone_scrolls_tables_and_never_the_page(opened: Opened) -> None:
    width = opened.page.evaluate("document.documentElement.scrollWidth")
    assert width == PHONE["width"]
    outside = opened.page.evaluate(
        """[...document.querySelectorAll("body *:not(.hidden)")]
        .filter(one => !one.closest(".scroll") && one.getBoundingClientRect().right > innerWidth + 1)
        .map(one => one.outerHTML.slice(0, 80))"""
    )
    assert outside == []


@on()
def test_headings_are_in_order_below_one_title(opened: Opened) -> None:
    levels = opened.page.evaluate('[...document.querySelectorAll("h1,h2,h3,h4,h5,h6")].map(one => +one.tagName[1])')
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert [opened.page.locator(tag).count() for tag in ("header", "main", "footer")] == [1, 1, 1]


@on("everything", "two", "bench")
def test_every_link_of_the_contents_leads_somewhere(opened: Opened) -> None:
    targets = opened.page.evaluate('[...document.querySelectorAll("nav a")].map(one => one.getAttribute("href"))')
    assert len(targets) >= 3
    for target in targets:
        assert opened.page.locator(target).count() == 1, target


@on("everything", "two", "failed")
def test_every_plot_has_a_name_a_description_and_its_table(opened: Opened) -> None:
    plots = opened.page.locator("figure.plot")
    assert plots.count() >= 3
    for place in range(plots.count()):
        plot = plots.nth(place)
        told = plot.locator("svg").evaluate(
            "one => one.getAttribute('aria-labelledby').split(' ').map(id => document.getElementById(id).textContent)"
        )
        assert all(len(text) > 15 for text in told), told
        table = plot.locator("table")
        assert table.locator("caption").text_content() == told[0]
        assert table.locator("tbody tr").count() >= 1
        assert table.locator("thead th[scope=col]").count() >= 2


@on("everything")
def test_every_cell_belongs_to_named_rows_and_columns(opened: Opened) -> None:
    assert opened.page.locator("th:not([scope])").count() == 0
    assert opened.page.locator("table:not(:has(caption))").count() == 0


def lightness(opened: Opened, selector: str, property_: str) -> float:
    """Return how light a color is, from 0 to 255."""
    color = opened.page.locator(selector).first.evaluate(f"one => getComputedStyle(one).{property_}")
    red, green, blue = (float(part) for part in color.strip("rgba()").split(",")[:3])
    return 0.3 * red + 0.6 * green + 0.1 * blue


BARS = 'svg path[style*="var(--series)"]'


@on("passed")
def test_it_is_dark_where_the_reader_wants_that_and_light_on_paper(opened: Opened) -> None:
    def seen() -> tuple[float, float, float]:
        return (
            lightness(opened, "body", "backgroundColor"),
            lightness(opened, "body", "color"),
            lightness(opened, BARS, "fill"),
        )

    ground, ink, bars = seen()
    opened.page.emulate_media(color_scheme="dark")
    dark_ground, dark_ink, dark_bars = seen()
    assert ground > 230
    assert ink < 60
    assert dark_ground < 60
    assert dark_ink > 200
    assert dark_bars > bars + 50
    opened.page.emulate_media(media="print", color_scheme="dark")
    assert seen() == (255, 0, bars)
    assert not opened.page.locator("nav").is_visible()


@on("everything")
def test_it_can_be_printed(opened: Opened) -> None:
    assert opened.page.pdf().startswith(b"%PDF")


@on("failed", "passed", "not judged", "bench")
def test_the_verdict_is_a_word_and_not_only_a_color(opened: Opened) -> None:
    told = opened.page.locator("header .badge").inner_text()
    assert told.split(maxsplit=1)[1] in {"FAILED", "passed", "not judged", "measured"}


@on("everything")
def test_a_keyboard_reaches_what_scrolls(opened: Opened) -> None:
    assert opened.page.locator(".scroll:not([tabindex='0'])").count() == 0
    opened.page.keyboard.press("Tab")
    assert opened.page.evaluate("document.activeElement.tagName") == "A"
    outline = opened.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
