"""Incidents in the Dagster UI: a run of their snapshot whenever one changes, and a look of its own where nobody else looks."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from metamon_assets import partitions
from metamon_assets.alerts import catalogue, tick
from metamon_assets.alerts.routing import Policy
from metamon_assets.alerts.tick import Watcher
from metamon_assets.warehouse.resources import Warehouse

LOOKED_AT = timedelta(minutes=2, seconds=30)  # somebody looks: `metamon alerts`
SECONDS = 15.0  # of a look in here, whose tick may last a minute
_watchers: dict[str, Watcher] = {}  # what was learnt stays in memory between ticks of the code server


def incidents_sensor(job_name: str) -> dg.SensorDefinition:
    """A sensor that launches a run of ``job_name`` for today when incidents have changed."""

    @dg.sensor(
        name="incidents",
        job_name=job_name,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Looks for incidents where `metamon alerts` does not run, and keeps a snapshot of them whenever one changes.",
    )
    def incidents(context: dg.SensorEvaluationContext, warehouse: Warehouse) -> dg.SensorResult | dg.SkipReason:
        now = datetime.now(UTC)
        with warehouse.connection() as connection:
            with connection, connection.cursor() as cursor:
                last = tick.last_tick(cursor)
            said = "`metamon alerts` looks" if last is not None and now - last < LOOKED_AT else _look(warehouse, now)
            with connection, connection.cursor() as cursor:
                cursor.execute("SELECT coalesce(max(event_id), 0) FROM metamon.incident_events")
                (newest,) = cursor.fetchone() or (0,)
        known = int(context.cursor) if context.cursor is not None else newest  # what happened before is no news
        if newest == known:
            context.update_cursor(str(newest))
            return dg.SkipReason(f"{said}; no incident has changed")
        today = partitions.key_of(now.date())
        return dg.SensorResult(run_requests=[dg.RunRequest(run_key=f"incidents:{newest}", partition_key=today)], cursor=str(newest))

    return incidents


def _look(warehouse: Warehouse, now: datetime) -> str:
    rules = catalogue.load(warehouse.settings)
    settings, home = warehouse.settings, str(warehouse.settings.home)
    watcher = _watchers.get(home)
    if watcher is None or watcher.catalogue != rules:
        watcher = _watchers[home] = Watcher(rules, Policy.of(settings, rules.channels, rules.runbooks), settings.alerts.shadow_hours)
    with warehouse.connection() as connection:
        return tick.tick(connection, watcher, now, seconds=SECONDS).words
