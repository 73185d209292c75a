"""Which days there is something for: what sources hold, what the tables hold, and what has not been read yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

from metamon_assets.traces.configured import ConfiguredSource
from metamon_assets.traces.sources.base import SourceError, TellsHoldings

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

ASKED_BACK_DAYS = 14  # how far back a source is asked that cannot tell how far it reaches


@dataclass(frozen=True, slots=True)
class Available:
    """``days``: all that are known to have something; ``unread``: those that a source has new files for;
    ``problems``: why some source could not say."""

    days: frozenset[date]
    unread: frozenset[date]
    problems: tuple[str, ...] = ()


def available_days(connection: Connection, sources: Sequence[ConfiguredSource], today: date) -> Available:
    """What sources and tables hold; a source that cannot be read does not keep the others from telling."""
    days, unread, problems = _days_of_traces(connection), set(), []
    for configured in sources:
        if not isinstance(configured.source, TellsHoldings):
            days |= {today - timedelta(days=back) for back in range(1, ASKED_BACK_DAYS + 1)}
            continue
        try:
            for holding in configured.source.holdings():
                covered = {date.fromordinal(n) for n in range(holding.first.toordinal(), holding.last.toordinal() + 1)}
                days |= covered
                if holding.unread:
                    unread |= covered
        except SourceError as error:
            problems.append(f"{configured.label}: {error}")
    return Available(frozenset(days), frozenset(unread), tuple(problems))


def _days_of_traces(connection: Connection) -> set[date]:
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT DISTINCT day FROM metamon.traces")
        return {day for (day,) in cursor.fetchall()}
