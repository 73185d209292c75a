"""The one daily partition set that all assets share, and what a run's partitions mean as days and windows.

UTC days from the configured first day up to and including today: today's partition exists so that a day that is not
over yet can be refreshed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Protocol

import dagster as dg

from metamon_assets.config import Settings

# One run for at most this many days: fewer runs for a backfill, and one bad day costs its neighbours at most.
MAX_DAYS_PER_RUN = 15

daily = dg.DailyPartitionsDefinition(start_date=Settings.load().start_day.isoformat(), end_offset=1)
backfill_policy = dg.BackfillPolicy.multi_run(max_partitions_per_run=MAX_DAYS_PER_RUN)


class HasPartitions(Protocol):
    """An execution context of an asset or a check: one partition or a range of them."""

    @property
    def partition_keys(self) -> Sequence[str]: ...


def days_of(context: HasPartitions) -> list[date]:
    """The days that this run is about, in order."""
    return sorted(date.fromisoformat(key) for key in context.partition_keys)


def bounds_of(days: Sequence[date]) -> tuple[datetime, datetime]:
    """From the start of the first day to the end of the last, as a half-open span in UTC. ``days`` have no gap."""
    window = daily.time_window_for_partition_key
    return window(days[0].isoformat()).start, window(days[-1].isoformat()).end


def key_of(day: date) -> str:
    """The partition key of a day."""
    return day.isoformat()


def closed_days(now: datetime, count: int) -> list[date]:
    """The last ``count`` days that were over at ``now`` (UTC), earliest first."""
    today = now.date()
    return [today - timedelta(days=back) for back in range(count, 0, -1)]
