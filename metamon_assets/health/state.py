"""Signs of life, failed runs and failed checks, as rows: what alerts, ``metamon doctor`` and reports read instead of asking Dagster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

MESSAGE_LIMIT = 4_000  # characters of a failure that are kept
DAEMON = "dagster_daemon"  # the component whose sign of life the heartbeat sensor gives
SUPERVISOR = "supervisor"  # the one that tells what the supervisor finds wrong


@dataclass(frozen=True, slots=True)
class RunFailure:
    """A run of the pipeline that failed."""

    dagster_run_id: str
    job_name: str
    partition_key: str | None
    failed_at: datetime
    message: str
    step_keys: Sequence[str] = field(default=())


@dataclass(frozen=True, slots=True)
class CheckVerdict:
    """What a check of an asset found, as Dagster logged it."""

    storage_id: int
    asset_key: str
    check_name: str
    partition_key: str | None
    passed: bool
    severity: str
    dagster_run_id: str | None
    happened_at: datetime
    message: str


def beat(connection: Connection, component: str, detail: Mapping[str, Any] | None = None) -> None:
    """Note that a part of the system is alive now."""
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO metamon.heartbeats (component, detail) VALUES (%s, %s)"
            " ON CONFLICT (component) DO UPDATE SET beat_at = statement_timestamp(), detail = excluded.detail",
            (component, orjson.dumps(dict(detail or {})).decode()),
        )


def record_failure(connection: Connection, failure: RunFailure) -> None:
    """Keep a failed run, once. The message must have been redacted."""
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO metamon.run_failures (dagster_run_id, job_name, partition_key, failed_at, step_keys, message)"
            " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (dagster_run_id) DO NOTHING",
            (
                failure.dagster_run_id,
                failure.job_name,
                failure.partition_key,
                failure.failed_at,
                list(failure.step_keys),
                failure.message.replace("\x00", "")[:MESSAGE_LIMIT],
            ),
        )


# Of a range of days Dagster has a verdict for each day, and one for all of them together: that says nothing new. A pass
# is news only after a failure of the same check and partition.
_RECORD_VERDICT = """
INSERT INTO metamon.dagster_events
    (storage_id, kind, asset_key, check_name, partition_key, severity, dagster_run_id, happened_at, message)
SELECT %(storage_id)s, %(kind)s, %(asset_key)s, %(check_name)s, %(partition_key)s, %(severity)s, %(run)s, %(happened_at)s, %(message)s
WHERE CASE WHEN %(passed)s THEN (
        SELECT kind FROM metamon.dagster_events WHERE asset_key = %(asset_key)s AND check_name = %(check_name)s
            AND partition_key IS NOT DISTINCT FROM %(partition_key)s AND happened_at < %(happened_at)s
        ORDER BY happened_at DESC LIMIT 1) = 'check_failed'
    ELSE %(partition_key)s::text IS NOT NULL OR NOT EXISTS (
        SELECT FROM metamon.dagster_events WHERE asset_key = %(asset_key)s AND check_name = %(check_name)s
            AND partition_key IS NOT NULL AND dagster_run_id = %(run)s AND kind = 'check_failed')
    END
ON CONFLICT (storage_id, happened_at) DO NOTHING"""


def record_verdicts(connection: Connection, verdicts: Sequence[CheckVerdict]) -> int:
    """Keep what failed, each once, and what passed again; gives how many were new. Messages must have been redacted."""
    recorded = 0
    with connection, connection.cursor() as cursor:
        for verdict in sorted(verdicts, key=lambda one: one.storage_id):
            cursor.execute(
                _RECORD_VERDICT,
                {
                    "storage_id": verdict.storage_id,
                    "kind": "check_passed" if verdict.passed else "check_failed",
                    "asset_key": verdict.asset_key,
                    "check_name": verdict.check_name,
                    "partition_key": verdict.partition_key,
                    "passed": verdict.passed,
                    "severity": verdict.severity,
                    "run": verdict.dagster_run_id,
                    "happened_at": verdict.happened_at,
                    "message": verdict.message.replace("\x00", "")[:MESSAGE_LIMIT],
                },
            )
            recorded += cursor.rowcount
    return recorded
