"""``metamon run``: the pipeline over some days in this process, with progress, and a report of what was found.

Days that were computed before are left alone, unless they were asked for or a source has new files for them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from metamon_assets.errors import MetamonError
from metamon_assets.warehouse import connect, server

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from metamon_assets.config import Settings
    from metamon_assets.reports.summary import Summary

Say = Callable[[str], None]


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
            for chunk in jobs.chunks(days):
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
            f"There is nothing to compute: list sources under `sources:` in {settings.config_path}, load files with"
            " `metamon ingest PATH`, or see the sample world with `make run`."
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
def _progress(total: int, say: Say) -> Iterator[Callable[[Sequence[date]], None]]:
    """A bar on a terminal, a line for each part elsewhere."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("days"), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("Computing", total=total)
            yield lambda days: bar.update(task, advance=len(days), description=f"Computed up to {days[-1]}")
        return
    done = 0

    def tell(days: Sequence[date]) -> None:
        nonlocal done
        done += len(days)
        say(f"Computed {done} of {total} days (up to {days[-1]})")

    yield tell
