"""A scene for alerts: runs, gauges and feedback are ingested minute by minute, buckets computed, and a look is taken after each.

Time is the scene's own. Everything between the rows and the incidents is the product's: ingestion, buckets, rules, books.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
from psycopg2.extensions import connection as Connection

from metamon_assets.alerts.catalogue import Catalogue, bundled
from metamon_assets.alerts.routing import Policy
from metamon_assets.alerts.tick import Ticked, Watcher, tick
from metamon_assets.health import system
from metamon_assets.health.state import beat
from metamon_assets.metrics.completions import BUCKET, bucket_of, refresh_completions
from metamon_assets.metrics.rollups import refresh_five_minutes
from metamon_assets.traces.columns import FEEDBACK, GAUGES, RUNS
from metamon_assets.traces.ingest import ingest
from metamon_assets.traces.normalise import Rules
from metamon_assets.traces.sources.base import Batch, Kind, SourceCount, Window
from metamon_assets.warehouse import connect

NOON = datetime(2026, 8, 22, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SCHEMAS = {Kind.RUNS: RUNS, Kind.FEEDBACK: FEEDBACK, Kind.GAUGES: GAUGES}


@dataclass(frozen=True, slots=True)
class Given:
    """Rows as a source gives them."""

    kind: Kind
    rows: list[dict[str, Any]]
    name: str = "files"
    project: str = "shop"

    def read(self, kind: Kind, window: Window | None) -> Iterator[Batch]:
        schema = SCHEMAS[self.kind]
        names = sorted({name for row in self.rows for name in row}, key=schema.names.index)
        yield Batch(self.kind, pa.Table.from_pylist(self.rows, schema=pa.schema([schema.field(name) for name in names])))

    def count(self, window: Window | None) -> SourceCount:
        return SourceCount()


@dataclass
class Scene:
    """One database, its time, and who looks. ``rules``: those that are looked at; none: all."""

    connection: Connection
    rules: Sequence[str] = ()
    now: datetime = NOON
    policy: Policy = field(default_factory=Policy.silent)
    step: timedelta = timedelta(minutes=5)
    latencies: random.Random | None = None  # where given, they are drawn
    number: int = 0
    watcher: Watcher = field(init=False)

    def __post_init__(self) -> None:
        self.look_at({name: rule for name, rule in bundled().items() if not self.rules or name in self.rules})

    def look_at(self, rules: Any) -> None:
        enabled = {name: rule.model_copy(update={"enabled": True}) for name, rule in rules.items()}
        self.watcher = Watcher(Catalogue(enabled), self.policy)

    # --- what happens

    def put(self, kind: Kind, rows: list[dict[str, Any]], source: str = "files", project: str = "shop") -> None:
        given = Given(kind, rows, source, project)
        ingest(self.connection, given, kind, None, Rules(source=source, project=project, now=self.now))
        self.execute("UPDATE metamon.ingestion_ledger SET started_at = least(started_at, %s)", self.now - timedelta(days=3))

    def runs(self, count: float, *, bad: float = 0, good_values: Any = None, bad_values: Any = None, **values: Any) -> None:
        """Runs that end within the step before now, of which ``bad`` have ``bad_values``; ``count`` and ``bad`` are per minute."""
        count, bad = (int(number * (self.step / MINUTE)) for number in (count, bad))
        rows = []
        for place in range(count):
            self.number += 1
            more = (bad_values or {"status": "error"}) if place < bad else (good_values or {})
            row: dict[str, Any] = {
                "run_id": f"r{self.number}",
                "trace_id": f"r{self.number}",
                "run_type": "chain",
                "status": "success",
                "seconds": 1.0,
            }
            row |= {"agent_name": "support", "user_id": f"u{self.number % 7}"} | values | more
            if self.latencies is not None:
                row["seconds"] = self.latencies.lognormvariate(0, 0.4)
            if "total_cost" in row:
                row |= {"total_cost": Decimal(row["total_cost"]), "cost_source": "reported"}
            end = self.now - self.step * ((place + 0.5) / count)
            row["end_time"], row["start_time"] = end, end - timedelta(seconds=row.pop("seconds"))
            rows.append(row)
        self.put(Kind.RUNS, rows)

    def calls(self, count: int, bad: int, run_type: str, name: str) -> None:
        """Runs with a child of that type each, of which ``bad`` fail; the runs themselves go well. Numbers per minute."""
        count, bad = (int(number * (self.step / MINUTE)) for number in (count, bad))
        rows = []
        for place in range(count):
            self.number += 1
            end = self.now - self.step * ((place + 0.5) / count)
            root: dict[str, Any] = {"run_id": f"r{self.number}", "trace_id": f"r{self.number}", "run_type": "chain", "status": "success"}
            root |= {"agent_name": "support", "start_time": end - timedelta(seconds=2), "end_time": end}
            child = root | {"run_id": f"c{self.number}", "parent_run_id": root["run_id"], "run_type": run_type, "name": name}
            rows += [root, child | {"tool_name": name, "status": "error" if place < bad else "success"}]
        self.put(Kind.RUNS, rows)

    def gauge(self, name: str, value: float, kind: str = "gauge", **labels: str) -> None:
        import orjson

        row = {"name": name, "time": self.now, "kind": kind, "value": value, "labels": orjson.dumps(labels).decode()}
        self.put(Kind.GAUGES, [row])

    def cache(self, size: float) -> None:
        self.gauge("cache_size", size, cache="answers")
        self.gauge("cache_capacity", 1000, cache="answers")

    def jobs(self, finished: int, failed: int) -> None:
        self.figure("runs_finished", finished)
        self.figure("runs_failed", failed)

    def judged(self, count: float) -> None:
        self.runs(count)
        self.feedback()

    def feedback(self) -> None:
        self.number += 1
        row = {"feedback_id": f"f{self.number}", "trace_id": f"r{self.number}", "run_id": f"r{self.number}", "key": "user_rating"}
        self.put(Kind.FEEDBACK, [row | {"score": 1.0, "created_at": self.now}])

    def figure(self, name: str, value: float) -> None:
        system.store(self.connection, [system.Figure(name, value)], self.now)

    def beat(self) -> None:
        beat(self.connection, "dagster_daemon")
        self.execute("UPDATE metamon.heartbeats SET beat_at = %s", self.now)

    # --- time

    def go_on(self, *happens: Callable[[], None]) -> Ticked:
        """A step passes in which that happens; then a look."""
        self.now += self.step
        for what in happens:
            what()
        touched = [self.now - back * BUCKET for back in range(int(self.step / BUCKET) + 2)]
        refresh_completions(self.connection, touched, self.now)
        if "RAGFailureRateHigh" in self.watcher.catalogue.enabled:  # the one rule that looks at reporting buckets
            refresh_five_minutes(self.connection, [bucket_of(moment) for moment in touched], self.now)
        return tick(self.connection, self.watcher, self.now)

    def minutes(self, count: int, *happens: Callable[[], None]) -> list[Ticked]:
        return [self.go_on(*happens) for _ in range(-(-count // int(self.step / MINUTE)))]

    # --- what came of it

    def execute(self, query: str, *values: Any) -> None:
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute(query, values or None)

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute(query, values or None)
            return list(cursor.fetchall())

    def incidents(self, rule: str | None = None) -> list[tuple[str, str, str, str]]:
        """Rule, group, severity and status, in order of opening."""
        found = self.rows("SELECT rule, dimension || ':' || dimension_value, severity, status FROM metamon.incidents ORDER BY incident_id")
        return [row for row in found if rule is None or row[0] == rule]

    def state(self, rule: str, dimension: str = "overall") -> str | None:
        found = self.rows("SELECT state FROM metamon.rule_states WHERE rule = %s AND dimension = %s", rule, dimension)
        return found[0][0] if found else None


@contextmanager
def scene(database: str, *rules: str, **more: Any) -> Iterator[Scene]:
    connection = connect(database)
    try:
        yield Scene(connection, rules, **more)
    finally:
        connection.close()
