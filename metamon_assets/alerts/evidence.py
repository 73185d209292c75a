"""What an incident rests on: how many runs and users it touches, and some of the runs (NOT-3).

Here belongs reading it from the traces, within the window of the incident and with a bound on the work: an incident must be told in
time, whatever it takes to count everybody.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metamon_assets.alerts.series import Group
    from metamon_assets.warehouse.connection import Cursor

EVERY = 5  # minutes: an incident that goes on is counted again no more often
EXAMPLES = 5
MOST = 50_000  # bad runs that are counted
LONGEST = timedelta(days=1)  # before the end that is looked at
COLUMNS = {
    "agent": "t.agent_name",
    "agent_version": "t.agent_version",
    "tenant": "t.tenant_id",
    "mode": "t.mode",
    "model": "coalesce(t.response_model, t.request_model)",
    "environment": "t.environment",
}
_TOOL = (
    "EXISTS (SELECT FROM metamon.spans AS u WHERE u.day = t.day AND u.source = t.source AND u.trace_id = t.trace_id"
    " AND COALESCE(u.tool_name, u.name) = %(value)s)"
)
_QUERY = """
    WITH bad AS MATERIALIZED (
        SELECT t.source, t.project, t.trace_id, t.user_id, t.end_time FROM metamon.traces AS t
        WHERE t.day BETWEEN %(first_day)s AND %(last_day)s AND t.start_time >= %(earliest)s AND t.start_time <= %(at)s
            AND t.end_time > %(since)s AND t.end_time <= %(at)s AND t.status IN ('success', 'error') AND {group} AND ({bad})
        ORDER BY t.end_time DESC LIMIT %(most)s)
    SELECT (SELECT count(*) FROM bad), (SELECT count(DISTINCT user_id) FROM bad),
        (SELECT coalesce(jsonb_agg(jsonb_build_object('source', source, 'project', project, 'trace_id', trace_id)), '[]')
         FROM (SELECT * FROM bad ORDER BY end_time DESC LIMIT %(examples)s) AS newest)"""


@dataclass(frozen=True, slots=True)
class Evidence:
    """``requests`` and ``users`` are None where they cannot be told; ``requests`` is at most ``MOST``."""

    requests: int | None = None
    users: int | None = None
    examples: tuple[dict[str, str], ...] = ()


def is_due(at: datetime, *, new: bool) -> bool:
    """Whether evidence is to be gathered: when an incident begins, and every few minutes while it goes on."""
    return new or at.minute % EVERY == 0


def gather(cursor: Cursor, bad: str, group: Group, since: datetime, at: datetime, limit: float | None) -> Evidence:
    """The bad runs of a group that ended between ``since`` and ``at``, the newest as examples.

    ``bad``: SQL over a row t of traces, in which ``%(threshold)s`` stands for ``limit``.
    """
    dimension, value = group
    if not bad or dimension not in (*COLUMNS, "overall", "tool"):
        return Evidence()
    of_group = "true" if dimension == "overall" else _TOOL if dimension == "tool" else f"{COLUMNS[dimension]} = %(value)s"
    since = max(since, at - LONGEST)
    earliest = since - LONGEST
    cursor.execute(
        _QUERY.format(group=of_group, bad=bad),
        {
            "value": value,
            "threshold": limit,
            "since": since,
            "at": at,
            "earliest": earliest,
            "first_day": earliest.date(),
            "last_day": at.date(),
            "most": MOST,
            "examples": EXAMPLES,
        },
    )
    requests, users, examples = cursor.fetchone() or (0, 0, [])
    return Evidence(requests, users or None, tuple(examples))
