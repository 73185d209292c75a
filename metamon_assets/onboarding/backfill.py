"""The first backfill: newest day first, roots before children, with an estimate of the time left, resumable (ONB-2).

It runs the same daily job as ``metamon run`` and the schedules, in this process. What is done is what Dagster knows of:
killed in the middle, it goes on where it stopped. Today is read and computed without the job, since the day is not over
and its partition must not count as done.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from metamon_assets.days import midnight
from metamon_assets.errors import MetamonError
from metamon_assets.reports.rejected import QUERY, rejected, sentence
from metamon_assets.traces.available import available_days
from metamon_assets.traces.configured import ConfiguredSource, open_sources
from metamon_assets.traces.ingest import IngestError, ingest_days
from metamon_assets.traces.sources.base import Kind, SourceError, TellsHoldings, Window
from metamon_assets.warehouse import connect, server
from metamon_assets.words import duration

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from metamon_assets.config import Settings

Say = Callable[[str], None]
Show = Callable[["Connection"], None]  # shows the report
GOAL_SECONDS = 100.0  # what one step may take: days are taken together, since each run costs some ten seconds besides reading
ERASE = "\x1b[K"  # a terminal's rest of the line
COUNTED_DAYS = 31  # a source is asked for its count of each day, up to so many
OVERHEAD_TRACES = 20  # what a day costs besides its traces, in traces


class BackfillError(MetamonError):
    """Days could not be read or computed; the message says which and why. What is done stays done."""


class BackfillInterruptedError(BackfillError):
    """Somebody stopped it."""

    exit_code = 130  # as shells have it


@dataclass(frozen=True, slots=True)
class Step:
    """Some neighbouring days that were computed together."""

    days: Sequence[date]
    traces: int
    seconds: float
    failed: bool = False


@dataclass(slots=True)
class Progress:
    """What is done and what is left, and how long that will take at the rate so far."""

    weights: dict[date, float]  # of all days: their traces by the source's own count, or the same for each
    done: list[Step] = field(default_factory=list)

    @property
    def gone(self) -> bool:
        """Whether the last two steps failed, as they do when a source is gone: the others would fail too."""
        return len(self.done) > 1 and all(step.failed for step in self.done[-2:])

    def seconds_left(self) -> float | None:
        """None before the first step: nothing has been measured. The first also waits for imports, so it counts only alone."""
        finished = {day for step in self.done for day in step.days}
        measured = self.done[1:] or self.done
        work = sum(self.weights.get(day, 0.0) for step in measured for day in step.days)
        left = sum(weight for day, weight in self.weights.items() if day not in finished)
        return left * sum(step.seconds for step in measured) / work if work else None

    def about(self, seconds: float) -> str:
        """A time left for people; from the first step alone, which waits for imports and may be of one day, it is rather too long."""
        return f"{'at most ' if len(self.done) == 1 else ''}{duration(seconds)}"

    @property
    def days_done(self) -> int:
        return len({day for step in self.done for day in step.days})

    @property
    def days_per_step(self) -> int:
        """How many days to take next, so that a step is neither long nor wasteful."""
        if not self.done or any(step.failed for step in self.done):
            return 1
        last = self.done[-1]
        return max(1, int(GOAL_SECONDS / max(last.seconds / len(last.days), 0.1)))

    def line(self) -> str:
        """The last step, and what is left, for people."""
        last = self.done[-1]
        newest, oldest = last.days[-1], last.days[0]
        span = f"{newest}" if newest == oldest else f"{newest} back to {oldest}"
        left, total = self.seconds_left(), len(self.weights)
        rest = f"; {self.about(left)} left" if left and self.days_done < total else ""
        found = "failed" if last.failed else f"{last.traces:,} traces"
        return f"{span}: {found} ({self.days_done} of {total} days{rest})"


def backfill(settings: Settings, first: date | None, *, say: Say, show: Show) -> int:
    """Read and compute the days from ``first`` (None: the first that is kept) to today; gives the number of traces there.

    ``show`` is called after the first whole day with traces, and at the end. Raises BackfillError at the end when days
    failed, and at once when two steps in a row did; BackfillInterruptedError when somebody stops it.
    """
    from metamon_assets.supervisor import dagster_environment

    with server.ready(settings, say) as url:
        os.environ.update(dagster_environment(settings))
        connection = connect(url)
        try:
            return _run(connection, settings, max(first or settings.start_day, settings.start_day), say, show)
        except KeyboardInterrupt:
            raise BackfillInterruptedError("Interrupted. What is done is kept; run this again, and it goes on where it stopped.") from None
        finally:
            connection.close()


def days_left(
    connection: Connection, sources: Sequence[ConfiguredSource], computed: frozenset[date], first: date, today: date
) -> list[date]:
    """The days still to be done, newest first: those that files hold, and where a source cannot tell, all before today."""
    available = available_days(connection, sources, today)
    if available.problems:
        raise BackfillError("\n".join(available.problems))
    days = set(available.days)
    if any(_cannot_tell(configured) for configured in sources):
        days |= {first + timedelta(days=number) for number in range((today - first).days)}
    return sorted((day for day in (days - computed) | available.unread if first <= day <= today), reverse=True)


def _run(connection: Connection, settings: Settings, first: date, say: Say, show: Show) -> int:
    from metamon_assets import jobs
    from metamon_assets.definitions import build_definitions

    today = datetime.now(UTC).date()
    sources = open_sources(connection, settings)
    pulled = [configured for configured in sources if _cannot_tell(configured)]
    failed: list[str] = []
    with jobs.instance() as instance:
        days = [day for day in days_left(connection, sources, jobs.computed_days(instance), first, today) if day != today or not pulled]
        progress = Progress(_weights(pulled, days))
        if days:
            say(f"Reading {len(days)} day{'s' * (len(days) > 1)}, the newest first: {days[0]} back to {days[-1]}")
        if pulled:
            _until_now(connection, pulled, today, failed)
        definitions, shown = build_definitions(), False
        while days:
            step = next_step(days, progress.days_per_step)
            del days[: len(step)]
            begun = time.monotonic()
            _announce(step, progress)
            error = _compute(definitions, instance, step)
            traces = _traces(connection, step[0], step[-1])
            progress.done.append(Step(step, traces, time.monotonic() - begun, failed=error is not None))
            say(progress.line())
            if error and len(step) > 1 and not progress.gone:
                days[:0] = step[::-1]  # one bad day must not cost its neighbours: they are tried one by one
            elif error:
                failed.append(error)
            if progress.gone:
                break
            if traces and days and not shown:
                shown = True
                show(connection)
    if failed:
        left = f" {len(days)} older days were not tried." if days else ""
        raise BackfillError(f"{len(failed)} part(s) failed.{left} Run this again, and it goes on with them:\n" + "\n".join(failed))
    show(connection)
    _tell_rejected(connection, first, say)
    return _traces(connection, first, today)


def _compute(definitions: Any, instance: Any, step: Sequence[date]) -> str | None:
    """Run the daily job; gives what failed."""
    from metamon_assets import jobs

    try:
        jobs.execute(definitions, instance, jobs.DAILY, step)
    except jobs.JobError as error:
        return str(error)
    return None


def next_step(days: Sequence[date], most: int) -> list[date]:
    """The newest of ``days`` (newest first) that are neighbours, at most ``most`` and what one run may hold; earliest first."""
    from metamon_assets.partitions import MAX_DAYS_PER_RUN

    step = [days[0]]
    for day in days[1 : min(most, MAX_DAYS_PER_RUN)]:
        if step[-1] - day != timedelta(days=1):
            break
        step.append(day)
    return step[::-1]


def _cannot_tell(configured: ConfiguredSource) -> bool:
    return not isinstance(configured.source, TellsHoldings)


def _weights(pulled: Sequence[ConfiguredSource], days: Sequence[date]) -> dict[date, float]:
    """How much each day is to read: by the source's own count where it has one for all days, else all the same."""
    if not pulled or len(days) > COUNTED_DAYS:
        return dict.fromkeys(days, 1.0)
    counted: dict[date, float] = {}
    for day in days:
        try:
            runs = [configured.source.count(Window.of_days(day, day)).runs for configured in pulled]
        except SourceError:
            return dict.fromkeys(days, 1.0)
        counted[day] = 1.0 + OVERHEAD_TRACES + sum(number or 0 for number in runs)
    return counted


def _until_now(connection: Connection, pulled: Sequence[ConfiguredSource], today: date, failed: list[str]) -> None:
    """Today so far, without counting it as done."""
    from metamon_assets.metrics.rollups import refresh_days

    try:
        for kind in (Kind.RUNS, Kind.FEEDBACK):
            ingest_days(connection, pulled, kind, [today])
    except IngestError as error:
        failed.append(str(error))
    refresh_days(connection, [today], datetime.now(UTC))


def _announce(step: Sequence[date], progress: Progress) -> None:
    """On a terminal, what goes on now; elsewhere lines about what is done are enough."""
    if sys.stderr.isatty():
        left = progress.seconds_left()
        rest = f", {progress.about(left)} left" if left else ""
        print(f"\r{ERASE}Reading {step[-1]}{rest} …\r", end="", file=sys.stderr, flush=True)


def _tell_rejected(connection: Connection, first: date, say: Say) -> None:
    """What did not come in: a source is not connected well while some of its rows are missing unseen."""
    if told := sentence(rejected(connection, midnight(first))):
        say(f'{told} See them: metamon sql "{QUERY}"')


def _traces(connection: Connection, first: date, last: date) -> int:
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM metamon.traces WHERE day BETWEEN %s AND %s", (first, last))
        ((count,),) = cursor.fetchall()
        return int(count)
