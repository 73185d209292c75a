"""The report's page in a real browser: nothing but itself, on screens light and dark, on a phone, by keyboard, on paper.

Pictures of it are kept in ``screenshots/`` for people to look at.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metamon_assets.config import Settings
from metamon_assets.reports.html import page
from metamon_assets.reports.report import build_report
from metamon_assets.warehouse.postgres import EmbeddedPostgres
from metamon_assets.warehouse.roles import WRITER
from metamon_assets_tests.browser.test_dagster_ui import ARGUMENTS, CHROMIUM, SCREENSHOTS
from metamon_assets_tests.conftest import TEMPLATE, copied
from metamon_assets_tests.reports import histories
from metamon_assets_tests.reports.histories import END, NOW, START

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

HOSTILE = "<img src=https://evil.example/x onerror=alert(1)>\x1b[2J\u202e"
SCREENS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1100, "height": 900}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1100, "height": 900}},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def file(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page about some traffic, with a hostile agent in it."""
    with copied(postgres, TEMPLATE) as name:
        connection = histories.opened(postgres.url(name, WRITER))
        histories.fill(connection, 2_000)
        with connection, connection.cursor() as cursor:
            cursor.execute("UPDATE metamon.traces SET agent_name = %s WHERE agent_name = 'agent-1'", (HOSTILE,))
        report = build_report(connection, Settings.load(), START, END, NOW)
        connection.close()
    assert not report.failures
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page(report), encoding="utf-8")
    return path


def test_the_page_stands_alone_on_every_screen(browser: Any, file: Path) -> None:
    for name, screen in SCREENS.items():
        context = browser.new_context(**screen)
        window = context.new_page()
        said: list[str] = []
        asked: list[str] = []
        window.on("console", lambda message, said=said: said.append(message.text))
        window.on("pageerror", lambda error, said=said: said.append(str(error)))
        window.on("request", lambda request, asked=asked: asked.append(request.url))
        window.goto(file.as_uri())
        assert said == []
        assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()], "nothing is fetched"
        assert window.locator("script").count() == 0
        assert window.locator("section h2").count() >= 5
        assert window.locator("figure svg").first.is_visible()
        width, room = window.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width <= room, f"on the {name} screen the page is wider than the screen"
        SCREENSHOTS.mkdir(exist_ok=True)
        window.screenshot(path=SCREENSHOTS / f"report-{name}.png", full_page=True)
        context.close()


def test_text_can_be_read_in_light_and_dark(browser: Any, file: Path) -> None:
    """Contrast of body text, soft text and axis labels with what is behind them, as WCAG counts it: 4.5 at least."""
    for scheme in ("light", "dark"):
        window = browser.new_context(color_scheme=scheme).new_page()
        window.goto(file.as_uri())
        for selector in (
            "section .statement",
            "section .certainty",
            ".tile .base",
            "section th",
            "section details summary",
            "figure svg text",
        ):
            ratio = window.locator(selector).first.evaluate(CONTRAST)
            assert ratio >= 4.5, (scheme, selector, ratio)


def test_details_open_by_keyboard(browser: Any, file: Path) -> None:
    window = browser.new_page()
    window.goto(file.as_uri())
    details = window.locator("details").first
    assert details.get_attribute("open") is None
    details.locator("summary").focus()
    window.keyboard.press("Enter")
    assert details.get_attribute("open") is not None
    assert "SELECT" in details.inner_text()


def test_paper_is_white_and_has_no_links(browser: Any, file: Path, tmp_path: Path) -> None:
    window = browser.new_context(color_scheme="dark").new_page()
    window.goto(file.as_uri())
    window.emulate_media(media="print")
    assert window.locator("body").evaluate("element => getComputedStyle(element).backgroundColor") == "rgb(255, 255, 255)"
    assert not window.locator("nav").is_visible()
    window.pdf(path=tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").stat().st_size > 10_000


CONTRAST = """element => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
      .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  let behind = element;
  while (behind.parentElement && (rgb(getComputedStyle(behind).backgroundColor)[3] ?? 1) === 0) behind = behind.parentElement;
  const style = getComputedStyle(element);
  const ink = element instanceof SVGElement ? style.fill : style.color;
  const [a, b] = [light(rgb(ink)), light(rgb(getComputedStyle(behind).backgroundColor))].sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
}"""
