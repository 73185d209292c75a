"""``metamon up`` with children that need no Dagster, to see how the supervisor treats them.

``python -m metamon_assets_tests.stand_ins`` is the supervisor; with a name it is that child.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

from metamon_assets.config import Settings
from metamon_assets.supervisor import Child, Plan, Supervisor
from metamon_assets.supervisor.watchdog import Watchdog

SILENCE_SECONDS = 4.0
FLOOD_BYTES = 5_000_000


def plan(settings: Settings, progress: Callable[[str], None]) -> Plan:
    """One of them has a child of its own, one has no program."""

    def stand_in(name: str, beat: str | None = None) -> Child:
        return Child(name, [sys.executable, "-u", "-m", __spec__.name, name], beat=beat)

    children = [
        Child("steady", ["sh", "-c", "sleep 1000 & echo $! > grandchild; wait"]),
        Child("crashing", ["sh", "-c", "echo I crash; exit 3"]),
        Child("absent", ["/no/such/program"]),
        stand_in("talking"),
        stand_in("flooding"),
        stand_in("alive", beat="alive"),
        stand_in("hanging", beat="hanging"),
    ]
    return Plan(children, "http://127.0.0.1:9", "http://127.0.0.1:9")


def talking() -> None:
    """What our own processes, Dagster and Python print."""
    print('{"time": "2026-01-02T03:04:05.678Z", "level": "warning", "component": "talking", "message": "ours", "runs": 7}')
    print("2026-01-02 05:04:05 +0200 - dagster.daemon - ERROR - it broke")
    print("DagsterError: why\n\nStack Trace:\n  File x")
    print('{"event": "of dagster", "level": "info", "logger": "dagster.code_server", "timestamp": "2026-01-02T03:04:06.5Z"}')
    print("the key is " + os.environ["A_KEY"])
    print("\x1b[34mcoloured\x1b[0m")
    try:
        int("no number")
    except ValueError as error:
        raise SystemError("worse") from error


def flooding() -> None:
    """Many lines, then one that is far too long."""
    for number in range(FLOOD_BYTES // 50):
        print(f"{number:049}")
    print("x" * FLOOD_BYTES)
    print("that was all")
    time.sleep(1000)


def alive() -> None:
    """Gives signs of life, whatever becomes of the database."""
    from psycopg2 import Error

    from metamon_assets.health.state import beat
    from metamon_assets.warehouse import connect, server

    while True:
        try:
            connection = connect(server.database_url(Settings.load(), "metamon_writer"))
            while True:
                beat(connection, "alive")
                time.sleep(0.5)
        except Error as error:
            print(f"INFO: no database: {type(error).__name__}")
            time.sleep(0.5)


def hanging() -> None:
    """Runs and does nothing."""
    time.sleep(1000)


if __name__ == "__main__":
    if sys.argv[1:]:
        {child.__name__: child for child in (talking, flooding, alive, hanging)}[sys.argv[1]]()
    else:
        watchdog = Watchdog(silence_seconds=SILENCE_SECONDS)
        Supervisor(Settings.load(), lambda text: print(text, flush=True), plan, watchdog, look_seconds=0.5).run()
