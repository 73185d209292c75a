"""A newcomer in front of the Dagster UI: sees the graph, computes a day by clicking, reads what came of it.

Pictures of every step are kept in ``screenshots/`` for people to look at.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from metamon_assets.supervisor import free_port
from metamon_assets.warehouse.postgres import EmbeddedPostgres
from metamon_assets_tests.conftest import REPOSITORY

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SCREENSHOTS = REPOSITORY / "screenshots"
METAMON = [str(Path(sysconfig.get_path("scripts")) / "metamon")]
GROUPS = ("traces", "metrics")


@pytest.fixture(scope="module")
def yesterday() -> date:
    return datetime.now(UTC).date() - timedelta(days=1)


@pytest.fixture(scope="module")
def home(yesterday: date) -> Iterator[Path]:
    """A home with a small sample world of three days, of which all but yesterday are computed."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    folder = Path(tempfile.mkdtemp(prefix="metamon-ui-"))
    folder.chmod(0o755)  # the server's user has to pass through
    home = folder / "home"
    metamon(home, "simulate", "--days", "3", "--per-day", "100")
    with (home / "metamon.yaml").open("a") as configuration:
        configuration.write(f"ui_port: {free_port()}\n")
    metamon(home, "run", "--to", str(yesterday - timedelta(days=1)))
    yield home
    EmbeddedPostgres(home).stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    """``metamon up`` over that home, and where its UI is."""
    said = home / "said"
    with said.open("wb") as output:
        process = subprocess.Popen([*METAMON, "up"], stdout=output, stderr=output, env=environment(home))
    try:
        deadline = time.monotonic() + 90
        while not (found := re.search(r"Dagster UI: (\S+)", said.read_text())):
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < deadline, said.read_text()
            time.sleep(0.2)
        yield found[1]
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def page(address: str) -> Iterator[Any]:
    """A browser window at the UI's address."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        window = browser.new_page(viewport={"width": 1500, "height": 950}, base_url=address)
        window.set_default_timeout(30_000)
        yield window
        browser.close()


def environment(home: Path) -> dict[str, str]:
    return os.environ | {"METAMON_HOME": str(home)}


def metamon(home: Path, *arguments: str) -> None:
    done = subprocess.run([*METAMON, *arguments], env=environment(home), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def reload_until(page: Any, seen: Callable[[], bool], seconds: float) -> None:
    """Look at the page again and again, as a person does who waits for a run."""
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline, page.locator("body").inner_text()
        page.wait_for_timeout(3_000)
        page.reload()
        page.wait_for_load_state("networkidle")


def keep(page: Any, name: str) -> None:
    """Take a picture when nothing moves any more."""
    SCREENSHOTS.mkdir(exist_ok=True)
    page.wait_for_timeout(700)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def test_a_day_is_computed_by_clicking(page: Any, yesterday: date) -> None:
    from playwright.sync_api import expect

    # The graph: stages as groups, which open into assets.
    page.goto("/asset-groups")
    for group in GROUPS:
        expect(page.locator("foreignObject").filter(has_text=group).first).to_be_visible()
    keep(page, "asset-groups")

    # Compute yesterday.
    page.get_by_role("button", name="Materialize all").click()
    selection = page.get_by_role("dialog").get_by_role("textbox").first
    selection.fill(str(yesterday))
    selection.press("Enter")
    keep(page, "materialize")
    page.get_by_role("button", name="Launch 1 run").click()
    expect(page.get_by_role("dialog")).to_be_hidden()  # it closes when the run was accepted

    # The job that it could have been computed by every night.
    page.goto("/locations/metamon/jobs/daily")
    expect(page.get_by_text("Everything that follows from a day's input").first).to_be_visible()
    keep(page, "daily-job")

    # It is there, with the figures of that day.
    page.goto(f"/assets/daily_metrics?view=partitions&partition={yesterday}")
    reload_until(page, page.get_by_text("Materialized", exact=True).first.is_visible, seconds=150)
    metadata = page.locator("table").filter(has_text="dagster/partition_row_count").first
    expect(metadata).to_be_visible()
    rows = [row.locator("> td").all_inner_texts() for row in metadata.locator("> tbody > tr").all()]
    figures = {name: value for name, value, *_ in rows}
    assert int(figures["dagster/partition_row_count"]) > 20
    assert 50 < int(figures["requests"]) < 250
    assert "(all)" in figures["agents"]
    assert "cost $" in figures["last_14_days"]
    keep(page, "daily-metrics-partition")
    page.get_by_text("[Show Markdown]").click()
    expect(page.get_by_role("dialog").locator("img")).to_be_visible()
    keep(page, "daily-metrics-picture")

    # Its checks were evaluated for that day and passed.
    page.goto("/assets/daily_metrics?view=checks&checkDetail=matches_traces")
    expect(page.get_by_text("The day holds exactly the day's traces").first).to_be_visible()
    expect(page.get_by_text("Passed", exact=True).first).to_be_visible()
    expect(page.get_by_text(str(yesterday)).first).to_be_visible()
    keep(page, "daily-metrics-checks")


@pytest.mark.parametrize(
    ("path", "shows"),
    [
        ("/assets/traces", "Identifier that all runs of one trace share"),
        ("/assets/traces?view=lineage", "daily_metrics|spans"),
        ("/assets/traces?view=checks&checkDetail=ledger_is_complete", "every row that was read is accounted for"),
        ("/automation", "late_data"),
        ("/locations/metamon/schedules/daily_at_00_15", "Reads and computes the day that has just ended"),
        ("/locations/metamon/sensors/late_data", "Computes the metrics of a day again"),
        ("/runs", "Asset materialization|Success"),
    ],
)
def test_other_pages_explain_themselves(page: Any, path: str, shows: str) -> None:
    from playwright.sync_api import expect

    page.goto(path)
    expect(page.get_by_text(re.compile(shows)).first).to_be_visible()
    keep(page, re.sub(r"\W+", "-", path.replace("/locations/metamon", "").strip("/")))
