"""UTC days as moments: where one begins. Dagster's partitions of the same days are in ``partitions``."""

from __future__ import annotations

from datetime import UTC, date, datetime, time


def midnight(day: date) -> datetime:
    """The moment at which a UTC day begins."""
    return datetime.combine(day, time(), UTC)
