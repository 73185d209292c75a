"""Commands about live data."""

from __future__ import annotations

import signal
import sys
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from metamon_assets.cli.group import main
from metamon_assets.cli.output import json_option, print_json, print_table, say, with_settings

if TYPE_CHECKING:
    from metamon_assets.config import Settings


@main.command()
@click.option("--once", is_flag=True, help="One look; print what it found. Nothing is sent.")
@json_option
@with_settings
def alerts(settings: Settings, once: bool, as_json: bool) -> None:
    """Look each minute, open incidents and send messages until Ctrl-C. `metamon up` does so too; a second one stands by."""
    from metamon_assets import log
    from metamon_assets.alerting import COMPONENT, look_once, run_alerts
    from metamon_assets.config import Settings
    from metamon_assets.warehouse import server

    if once:
        with server.ready(settings, say) as url:
            ticked = look_once(settings, url)
        if as_json:
            print_json(asdict(ticked))
        else:
            say(ticked.words)
        return
    log.configure(COMPONENT)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with server.ready(settings) as url:
        run_alerts(settings, url, stop, load=Settings.load)


@main.command()
@click.option("--once", is_flag=True, help="One poll of every source; print what came. Exit code 1 when a source failed.")
@json_option
@with_settings
def feed(settings: Settings, once: bool, as_json: bool) -> None:
    """Poll the sources every minute until Ctrl-C. `metamon up` does so too; a second feed waits for the first to end."""
    from metamon_assets import log
    from metamon_assets.feed import COMPONENT, poll_once, run_feed
    from metamon_assets.warehouse import server

    if not once:
        log.configure(COMPONENT)
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        with server.ready(settings) as url:
            run_feed(settings, url, stop)
        return
    with server.ready(settings, say) as url:
        polled = poll_once(settings, url)
    if as_json:
        print_json([asdict(found) | {"days": sorted(found.days)} for found in polled])
    elif polled:
        columns = ["source", "project", "rows_read", "rows_written", "pending", "windows", "error"]
        print_table(columns, [tuple(getattr(found, column) for column in columns) for found in polled])
    else:
        say("No source is configured that can be polled.")
    if any(found.error for found in polled):
        sys.exit(1)
