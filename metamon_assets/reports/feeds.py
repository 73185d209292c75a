"""Which sources the runs came from, when the runs of each begin, and up to when it was read.

Files end where they end, and a project of LangSmith is known up to its last read: that no run came after that is no outage, and that
none came before a source was connected is none either. So numbers of runs are judged in between only.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from metamon_assets.config import LangSmithSource
from metamon_assets.reports import runs
from metamon_assets.reports.findings import Context

SOON = timedelta(hours=1)  # a history that ends so shortly before the report does goes up to its end

_FEEDS = """
    WITH feeds AS (
        SELECT source, project, min(start_time) AS first, max(start_time) AS last FROM metamon.traces
        WHERE day >= %(first_day)s AND start_time < %(now)s GROUP BY 1, 2
    )
    SELECT source, project, first, last,
        source = ANY(%(of_files)s) OR EXISTS (SELECT FROM metamon.source_files AS f WHERE f.source = feeds.source AND f.kind = 'runs'),
        (SELECT max(least(l.window_end, l.started_at)) FROM metamon.ingestion_ledger AS l
            WHERE (l.source, l.project) = (feeds.source, feeds.project) AND l.kind = 'runs' AND l.status IN ('complete', 'empty')
                AND l.window_end IS NOT NULL)
    FROM feeds ORDER BY source, project"""


@dataclass(frozen=True, slots=True)
class Feed:
    """A project of a source. ``last``: its last run; ``known_until``: what came later is not known; None: it is sent here as it comes."""

    source: str
    project: str
    first: datetime
    last: datetime
    known_until: datetime | None = None

    @property
    def key(self) -> str:
        """As the column ``feed`` of a history has it."""
        return f"{self.source}\x1f{self.project}"

    def ends_before(self, end: datetime) -> bool:
        """Whether what is known of it ends well before a moment."""
        return self.known_until is not None and self.known_until < end - SOON


def feeds_of(context: Context) -> tuple[Feed, ...]:
    """The feeds of the runs from the beginning of the context's period on."""
    parts = context.settings.sources if context.settings is not None else ()
    of_files = [part.source for part in parts if not isinstance(part, LangSmithSource)]
    found = []
    for source, project, first, last, held, read_until in runs.rows(context, _FEEDS, {"of_files": of_files}):
        found.append(Feed(source, project, first, last, last if held else read_until and max(read_until, last)))
    return tuple(found)
