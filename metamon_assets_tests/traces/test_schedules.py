"""The daily schedule (AUT-1)."""

from __future__ import annotations

from datetime import UTC, datetime

import dagster as dg

from metamon_assets import jobs
from metamon_assets.traces.schedules import daily_schedule


def requested(day: int) -> list[dg.RunRequest]:
    """What the schedule asks for in the night to a day of November 2026."""
    with dg.build_schedule_context(scheduled_execution_time=datetime(2026, 11, day, 0, 15, tzinfo=UTC)) as context:
        requests = daily_schedule(jobs.DAILY)(context)
        assert isinstance(requests, list)
        return requests


def test_the_schedule_asks_for_the_last_three_days_that_are_over() -> None:
    first, again = requested(20), requested(20)
    assert [request.partition_key for request in first] == ["2026-11-19", "2026-11-18", "2026-11-17"]
    assert [request.run_key for request in first] == [request.run_key for request in again], "a tick that is repeated starts nothing twice"


def test_the_next_night_asks_again_for_days_that_may_have_changed() -> None:
    assert len({request.run_key for day in (20, 21) for request in requested(day)}) == 6
