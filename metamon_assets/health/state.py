"""Signs of life and failed runs, as rows: what alerts, ``metamon doctor`` and reports read instead of asking Dagster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

MESSAGE_LIMIT = 4_000  # characters of a failure that are kept


@dataclass(frozen=True, slots=True)
class RunFailure:
    """A run of the pipeline that failed."""

    dagster_run_id: str
    job_name: str
    partition_key: str | None
    failed_at: datetime
    message: str
    step_keys: Sequence[str] = field(default=())


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
