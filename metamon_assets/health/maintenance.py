"""Keeping Dagster's event log from growing for ever: dispensable kinds of events go, by age.

Runs are never deleted, and neither are events about assets, checks and the state of runs: without them Dagster would
forget what has been materialised. What goes is how steps went and what they logged, which nobody reads a month later.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

KEEP = timedelta(days=30)
BATCH = 20_000  # rows; short transactions, since runs write to the same table
# Values of Dagster's DagsterEventType. Lines that code logged have none.
DISPENSABLE = (
    "ENGINE_EVENT",
    "HANDLED_OUTPUT",
    "LOADED_INPUT",
    "LOGS_CAPTURED",
    "OBJECT_STORE_OPERATION",
    "RESOURCE_INIT_FAILURE",
    "RESOURCE_INIT_STARTED",
    "RESOURCE_INIT_SUCCESS",
    "STEP_INPUT",
    "STEP_OUTPUT",
    "STEP_RESTARTED",
    "STEP_SKIPPED",
    "STEP_START",
    "STEP_SUCCESS",
    "STEP_UP_FOR_RETRY",
    "STEP_WORKER_STARTED",
    "STEP_WORKER_STARTING",
)
NEXT_BATCH = """
WITH looked_at AS (
    SELECT id, dagster_event_type FROM event_logs WHERE id > %(after)s AND timestamp < %(before)s ORDER BY id LIMIT %(batch)s
), gone AS (
    DELETE FROM event_logs
    WHERE id IN (SELECT id FROM looked_at WHERE dagster_event_type IS NULL OR dagster_event_type = ANY(%(kinds)s))
    RETURNING id
)
SELECT (SELECT max(id) FROM looked_at), (SELECT count(*) FROM gone)
"""


def prune_event_log(connection: Connection, now: datetime, keep: timedelta = KEEP, batch: int = BATCH) -> int:
    """Delete dispensable events that are older than ``keep`` at ``now``; gives how many went.

    ``connection`` is to Dagster's storage. Each batch is a transaction: an interrupted call has done some of the work.
    """
    before = (now - keep).astimezone(UTC).replace(tzinfo=None)  # the column has no zone
    after, total = 0, 0
    while True:
        with connection, connection.cursor() as cursor:
            cursor.execute(NEXT_BATCH, {"after": after, "before": before, "batch": batch, "kinds": list(DISPENSABLE)})
            last, gone = cursor.fetchone() or (None, 0)
        if last is None:
            return total
        after, total = last, total + gone
