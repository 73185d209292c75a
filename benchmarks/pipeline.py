"""How long the pipeline takes: a day in a warm process, ninety days by ``metamon run``, a second run, the command's start.

The days are those of the sample world, whose files are written before the clock starts. ``--steps`` shows where the
time of ``metamon run`` goes, by Dagster's own record of its steps.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from _common import Report, Stopwatch, Target, arguments, home

from metamon_assets.config import Settings
from metamon_assets.simulation.home import furnish
from metamon_assets.supervisor import dagster_environment
from metamon_assets.warehouse import connect, server

TARGETS = (
    Target("one day through the whole graph, warm process", "s", 6, at_least=False),
    Target("metamon run", "s", 120, at_least=False),
    Target("second metamon run", "s", 10, at_least=False),
    Target("metamon --help", "s", 0.4, at_least=False),
)
DAYS, QUICK_DAYS, DAYS_ONE_BY_ONE = 90, 15, 5
TRACES_A_DAY = 2_000
START_SECONDS = 10  # of the 120: initdb, migrations, imports; what fewer days take too
_STEPS = """
    SELECT step_key, count(*) AS times, sum(seconds) AS total FROM (
        SELECT run_id, step_key, extract(epoch FROM max(timestamp) FILTER (WHERE dagster_event_type = 'STEP_SUCCESS')
            - min(timestamp) FILTER (WHERE dagster_event_type = 'STEP_START'))::float8 AS seconds
        FROM event_logs WHERE step_key IS NOT NULL GROUP BY run_id, step_key) steps
    GROUP BY step_key ORDER BY total DESC NULLS LAST"""


def main() -> int:
    parser = arguments("Pipeline: seconds for a day, for ninety days, for a second run, and for the command to start.")
    parser.add_argument("--days", type=int, help=f"days of the sample world (default {DAYS}; {QUICK_DAYS} with --quick)")
    parser.add_argument("--steps", action="store_true", help="show where the time of the days goes, by step")
    options = parser.parse_args()
    options.days = options.days or (QUICK_DAYS if options.quick else DAYS)
    report = Report("pipeline", TARGETS, options)
    _start_of_the_command(report)
    _all_days(report)
    _day_by_day(report)
    return report.finish()


def _start_of_the_command(report: Report) -> None:
    seconds = [_seconds("--help") for _ in range(4 if report.arguments.quick else 10)]
    report.record("metamon --help", seconds[1:], "the first start, which reads the files from disk, is left out")


def _all_days(report: Report) -> None:
    days = report.arguments.days
    with _sample_world(days, report.arguments.seed) as settings:
        note = f"{days} days × {TRACES_A_DAY:,} traces, from the command to its end"
        report.record("metamon run", _seconds("run"), note, limit=START_SECONDS + (120 - START_SECONDS) * days / DAYS)
        report.record("second metamon run", _seconds("run"), "nothing to do")
        if report.arguments.steps:
            _show_steps(settings)


def _day_by_day(report: Report) -> None:
    """New days, each in a run of its own; the first one warms the process and does not count."""
    with _sample_world(DAYS_ONE_BY_ONE + 1, report.arguments.seed) as settings, server.ready(settings, lambda _: None):
        os.environ.update(dagster_environment(settings))
        from metamon_assets import jobs
        from metamon_assets.definitions import build_definitions

        definitions, seconds = build_definitions(), []
        with jobs.instance() as instance:
            for number in range(DAYS_ONE_BY_ONE + 1):
                with Stopwatch() as watch:
                    jobs.execute(definitions, instance, jobs.DAILY, [settings.start_day + timedelta(days=number)])
                seconds.append(watch.seconds)
        note = f"{TRACES_A_DAY:,} traces; the first day, which imports everything, took {seconds[0]:.1f} s"
        report.record("one day through the whole graph, warm process", seconds[1:], note)
        if report.arguments.steps:
            _show_steps(settings)


@contextmanager
def _sample_world(days: int, seed: int) -> Iterator[Settings]:
    with home() as empty:
        furnish(empty, days=days, traces_per_day=TRACES_A_DAY, seed=seed, say=lambda _: None)
        yield Settings.load()


def _seconds(*command: str) -> float:
    """Seconds that ``metamon`` with these arguments takes, in a process of its own."""
    with Stopwatch() as watch:
        subprocess.run(
            [Path(sys.executable).with_name("metamon"), *command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    return watch.seconds


def _show_steps(settings: Settings) -> None:
    with server.running(settings):
        connection = connect(server.dagster_url(settings))
        with connection, connection.cursor() as cursor:
            cursor.execute(_STEPS)
            for step, times, seconds in cursor.fetchall():
                print(f"    {step}: {seconds or 0:.1f} s in {times} run(s)")
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
