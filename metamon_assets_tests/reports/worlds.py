"""Sample worlds in databases of their own, as the report benchmark needs them: with what is planted, and without.

A quiet world is the same people and the same traffic without any planted problem and with changes that do nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta

import pyarrow as pa
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from metamon_assets.simulation import World, rows
from metamon_assets.simulation.arrivals import day_number
from metamon_assets.simulation.changes import DAY, changes_of
from metamon_assets.simulation.incidents import LONGEST, incidents_between
from metamon_assets.simulation.world import AGENTS
from metamon_assets.traces.events import infer_events
from metamon_assets.traces.ingest import ingest
from metamon_assets.traces.normalise import Rules
from metamon_assets.traces.sources.base import Batch, Kind, SourceCount, Window
from metamon_assets.warehouse import connect
from metamon_assets.warehouse.migrations import migrate
from metamon_assets.warehouse.postgres import ADMINISTRATOR, EmbeddedPostgres
from metamon_assets.warehouse.roles import WRITER

PROJECT = "assistants"


@dataclass(frozen=True, slots=True)
class Tables:
    """A source whose rows are in memory already."""

    tables: dict[Kind, pa.Table]
    name: str = "files"
    project: str = PROJECT

    def read(self, kind: Kind, window: Window) -> Iterator[Batch]:
        if kind in self.tables:
            yield Batch(kind, self.tables[kind])

    def count(self, window: Window) -> SourceCount:
        return SourceCount()


@dataclass(frozen=True, slots=True)
class Stage:
    """A world and the days of it that are looked at."""

    seed: int
    first: date
    days: int
    per_day: float
    quiet: bool = False
    world: World = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "world", World(self.seed, self.per_day))

    @property
    def dates(self) -> list[date]:
        return [self.first + timedelta(days=number) for number in range(self.days)]

    @property
    def start(self) -> datetime:
        return datetime.combine(self.first, time(), UTC)

    @property
    def end(self) -> datetime:
        return self.start + timedelta(days=self.days)

    def left_out(self) -> frozenset[str]:
        """What a quiet world lacks: every problem that could reach these days, and the effect of every change."""
        if not self.quiet:
            return frozenset()
        start, end = day_number(self.first) * DAY - LONGEST, (day_number(self.first) + self.days + 1) * DAY
        problems = {incident.id for incident in incidents_between(self.seed, start, end)}
        return frozenset(problems | {change.id for agent in range(len(AGENTS)) for change in changes_of(self.seed, agent)})

    def tables(self, day: date, without: frozenset[str]) -> dict[Kind, pa.Table]:
        """A day's runs and reported events."""
        dressed = rows.dress(self.world.cast, self.world.flow(day, without))
        events = rows.events(self.world.cast, dressed.day, dressed.incidents)
        return {Kind.RUNS: rows.runs(self.world.cast, dressed), Kind.EVENTS: events}


def fill(connection: Connection, stage: Stage) -> None:
    """Put the stage's days into the tables through the real ingestion, and infer the changes that nobody reported."""
    without = stage.left_out()
    rules = Rules(source="files", project=PROJECT, now=stage.end + timedelta(days=1), exclude_projects=frozenset({"metamon"}))
    for day in stage.dates:
        start = datetime.combine(day, time(), UTC)
        source = Tables(stage.tables(day, without))
        for kind in (Kind.RUNS, Kind.EVENTS):
            ingest(connection, source, kind, Window(start, start + timedelta(days=1)), rules)
    infer_events(connection, stage.dates)


@contextmanager
def database_of(server: EmbeddedPostgres, name: str) -> Iterator[Connection]:
    """A connection to a new, migrated database of that name, which is dropped afterwards."""
    administrator = connect(server.url("postgres", ADMINISTRATOR))
    administrator.autocommit = True  # CREATE DATABASE takes no transaction
    try:
        with administrator.cursor() as cursor:
            cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            migrate(server.url(name, ADMINISTRATOR))
            connection = connect(server.url(name, WRITER))
            try:
                yield connection
            finally:
                connection.close()
                cursor.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
    finally:
        administrator.close()
