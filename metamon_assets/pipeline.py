"""``metamon run``: the pipeline over some days in this process, with progress, and a report of what was found.

Days that were computed before are left alone, unless they were asked for or a source has new files for them.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from metamon_assets.errors import MetamonError
from metamon_assets.warehouse import connect, server
from metamon_assets.words import duration

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from metamon_assets.config import Settings
    from metamon_assets.reports.summary import Summary

Say = Callable[[str], None]
PROGRESS_SECONDS = 15.0
FIRST_DAYS = 3  # are computed apart, so that how long the others will take is known early


class PipelineError(MetamonError):
    """There is nothing to run, or days failed; the message says which, why, and what to do."""


class RunInterruptedError(PipelineError):
    """Somebody stopped the run; what is done stays done."""

    exit_code = 130  # as shells have it


def run_days(settings: Settings, from_day: date | None, to_day: date | None, *, progress: Say) -> Summary:
    """Compute every day from ``from_day`` to ``to_day``; gives the report.

    Without bounds: every day that something is known for and that was not computed since.
    Raises PipelineError at the end when days failed; the others are done.
    """
    from metamon_assets.supervisor import dagster_environment

    with server.ready(settings, progress) as url:
        os.environ.update(dagster_environment(settings))
        connection = connect(url)
        try:
            computed, failed = _compute(connection, settings, from_day, to_day, progress)
            from metamon_assets.reports.summary import summarise

            summary = summarise(connection, settings, days_computed=computed)
        finally:
            connection.close()
    if failed:
        raise PipelineError(f"{summary}\n\n{len(failed)} part(s) of the run failed, everything else is done:\n" + "\n".join(failed))
    return summary


def _compute(connection: Connection, settings: Settings, from_day: date | None, to_day: date | None, say: Say) -> tuple[int, list[str]]:
    """Run the daily job over what needs it; gives the number of days computed and the messages of what failed."""
    from metamon_assets import jobs
    from metamon_assets.definitions import build_definitions

    with jobs.instance() as instance:
        days, failed = _days_to_run(connection, settings, jobs.computed_days(instance), from_day, to_day)
        if not days:
            return 0, failed
        say(f"Computing {len(days)} day{'s' * (len(days) > 1)}, {days[0]} to {days[-1]}")
        definitions, done = build_definitions(), 0
        with _progress(len(days), say) as advance:
            for chunk in [*jobs.chunks(days[:FIRST_DAYS]), *jobs.chunks(days[FIRST_DAYS:])]:
                try:
                    jobs.execute(definitions, instance, jobs.DAILY, chunk)
                    done += len(chunk)
                except jobs.JobError as error:
                    failed.append(str(error))
                except KeyboardInterrupt:
                    raise RunInterruptedError(
                        f"Interrupted: {done} of {len(days)} days are done. The next `metamon run` does the others."
                    ) from None
                advance(chunk)
        # Rows that came with a later day, such as late feedback, changed days that had been computed before.
        for chunk in jobs.chunks(sorted(_outdated_days(connection))):
            try:
                jobs.execute(definitions, instance, jobs.REFRESH_METRICS, chunk)
            except jobs.JobError as error:
                failed.append(str(error))
        return done, failed


def _days_to_run(
    connection: Connection, settings: Settings, computed: frozenset[date], from_day: date | None, to_day: date | None
) -> tuple[list[date], list[str]]:
    """The days, in order; and what keeps some source from being read."""
    from metamon_assets.traces.available import available_days
    from metamon_assets.traces.configured import open_sources

    today = datetime.now(UTC).date()
    available = available_days(connection, open_sources(connection, settings), today)
    if not available.days and not settings.sources:
        raise PipelineError(
            "There is nothing to compute: connect a source with `metamon connect langsmith`, `metamon connect files PATH` or"
            f" `metamon connect otlp` (it writes {settings.config_path}), load files with `metamon ingest PATH`, or see the sample world"
            " with `make run`."
        )
    wanted = available.days if from_day or to_day else (available.days - computed) | available.unread | _outdated_days(connection)
    first, last = from_day or settings.start_day, to_day or today
    early = sorted(day for day in available.days if day < settings.start_day)
    if early:
        raise PipelineError(
            f"There is data of {early[0]} and {len(early) - 1} more days before the first day that is kept, {settings.start_day}:"
            f" set `start_day: {early[0]}` in {settings.config_path}."
        )
    return sorted(day for day in wanted if first <= day <= last), list(available.problems)


def _outdated_days(connection: Connection) -> set[date]:
    """Days whose rows changed after their metrics were computed."""
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT d.day FROM metamon.ingestion_ledger l, unnest(l.days) d(day)"
            " WHERE l.status = 'complete' AND l.finished_at > (SELECT max(refreshed_at) FROM metamon.daily_metrics m WHERE m.day = d.day)"
        )
        return {day for (day,) in cursor.fetchall()}


@contextmanager
def _progress(total: int, say: Say, every_seconds: float = PROGRESS_SECONDS) -> Iterator[Callable[[Sequence[date]], None]]:
    """A bar on a terminal; elsewhere a line for each part and, while one takes long, every ``every_seconds``."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("days"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("Computing", total=total)
            yield lambda days: bar.update(task, advance=len(days), description=f"Computed up to {days[-1]}")
        return
    parts, over = [(time.monotonic(), 0)], threading.Event()  # when so many days were done

    def line() -> str:
        now, (begun, _), (last, done) = time.monotonic(), parts[0], parts[-1]
        if done == total:
            return f"Computed {total} of {total} days in {now - begun:.0f} s"
        rest = "how long it takes shows after the first"
        if done:
            since, before = parts[1] if len(parts) > 2 else parts[0]  # the first part also waits for imports: alone, it tells too much
            left = (last - since) / (done - before) * (total - done) - (now - last)
            rest = f"{'at most ' if len(parts) == 2 else ''}{duration(left)} left"
        return f"Computed {done} of {total} days in {now - begun:.0f} s; {rest}"

    def tell(days: Sequence[date]) -> None:
        parts.append((time.monotonic(), parts[-1][1] + len(days)))
        say(line())

    def remind() -> None:
        while not over.wait(every_seconds):
            say(line())

    reminder = threading.Thread(target=remind, name="progress", daemon=True)
    reminder.start()
    try:
        yield tell
    finally:
        over.set()
        reminder.join()
