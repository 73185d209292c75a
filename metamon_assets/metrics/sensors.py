"""Late data: days whose rows changed after their metrics were computed (IN-6)."""

from datetime import date
from typing import TYPE_CHECKING

import dagster as dg

from metamon_assets import partitions
from metamon_assets.warehouse.resources import Warehouse

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

DAYS_PER_TICK = 30

# A run of the pipeline computes the days of its own window itself; any other day that its reading changed is late.
# Live data change the current day all the time: it is computed when it is over, its buckets by the live feed.
_LATE = """
    SELECT l.ledger_id, array_agg(DISTINCT d.day ORDER BY d.day)
    FROM metamon.ingestion_ledger l, unnest(l.days) d(day)
    WHERE l.ledger_id > %(cursor)s AND l.status = 'complete'
        AND NOT (l.live AND d.day >= (statement_timestamp() AT TIME ZONE 'UTC')::date)
        AND NOT EXISTS (SELECT FROM metamon.daily_metrics m WHERE m.day = d.day AND m.refreshed_at > l.finished_at)
        AND (l.dagster_run_id IS NULL OR l.window_start IS NULL
            OR NOT (d.day >= (l.window_start AT TIME ZONE 'UTC')::date AND d.day < (l.window_end AT TIME ZONE 'UTC')::date))
    GROUP BY l.ledger_id ORDER BY l.ledger_id"""


def late_days(connection: "Connection", cursor_position: int, limit: int = DAYS_PER_TICK) -> tuple[dict[date, int], int]:
    """Days changed by readings after ``cursor_position``, each with the last reading that changed it; and the new position.

    At most about ``limit`` days; the position never passes a reading whose days were not given.
    """
    found: dict[date, int] = {}
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT COALESCE(max(ledger_id), 0) FROM metamon.ingestion_ledger WHERE status <> 'running'")
        newest = cursor.fetchone()[0]  # type: ignore[index]
        cursor.execute(
            "SELECT COALESCE(min(ledger_id) - 1, %s) FROM metamon.ingestion_ledger WHERE status = 'running'"
            # An entry of what is sent here grows for a minute.
            " OR live AND window_start IS NULL AND started_at > statement_timestamp() - interval '2 minutes'",
            (newest,),
        )
        end = min(newest, cursor.fetchone()[0])  # type: ignore[index]
        cursor.execute(_LATE, {"cursor": cursor_position})
        for ledger_id, days in cursor.fetchall():
            if ledger_id > end:
                break
            if found and len(found) + len(days) > limit:
                return found, ledger_id - 1
            found |= dict.fromkeys(days, ledger_id)
    return found, max(end, cursor_position)


def late_data_sensor(job_name: str) -> dg.SensorDefinition:
    """A sensor that computes again, with a job, what rests on days that changed late."""

    @dg.sensor(
        name="late_data",
        job_name=job_name,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Computes the metrics of a day again when rows of it arrived or changed after they were computed.",
    )
    def sensor(context: dg.SensorEvaluationContext, warehouse: Warehouse) -> dg.SensorResult:
        with warehouse.connection() as connection:
            days, position = late_days(connection, int(context.cursor or 0))
        requests = [
            dg.RunRequest(
                run_key=f"late:{day}:{ledger_id}",
                partition_key=partitions.key_of(day),
                tags={"metamon/reason": f"ledger entry {ledger_id}"},
            )
            for day, ledger_id in sorted(days.items())
            if partitions.daily.has_partition_key(partitions.key_of(day))
        ]
        return dg.SensorResult(run_requests=requests, cursor=str(position))

    return sensor
