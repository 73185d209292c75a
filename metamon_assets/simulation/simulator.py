"""The sample world: any day of it, as tables or as a flow with its probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import pyarrow as pa

from metamon_assets.simulation import rows
from metamon_assets.simulation.arrivals import day_number
from metamon_assets.simulation.traffic import Flow, flow
from metamon_assets.simulation.world import Cast, cast

TRACES_PER_DAY = 2000


@dataclass(frozen=True, slots=True)
class Day:
    """A day as it really was, in the unified columns: nothing late, damaged or doubled.

    ``runs``: roots and children that started on the day, in their last state. ``feedback``: what was said about them, on
    that day and later, edited versions behind the first ones. ``events`` and ``gauges`` of the day.
    """

    date: date
    runs: pa.Table
    feedback: pa.Table
    events: pa.Table
    gauges: pa.Table


@dataclass(frozen=True, slots=True)
class World:
    """The world with a seed. A day depends on the seed, the date and the size of the world, on nothing else."""

    seed: int
    traces_per_day: float = TRACES_PER_DAY

    @property
    def cast(self) -> Cast:
        """Who there is."""
        return cast(self.seed)

    def flow(self, day: date, without: frozenset[str] = frozenset()) -> Flow:
        """What happened on a day (UTC), and with what probabilities, but for the problems and changes named by id."""
        return flow(self.cast, day_number(day), self.traces_per_day, without)

    def dressed(self, day: date) -> Flow:
        """The flow of a day with identifiers and the like, ready for ``rows``."""
        return rows.dress(self.cast, self.flow(day))

    def day(self, day: date) -> Day:
        """A day (UTC) as tables."""
        dressed = self.dressed(day)
        said = rows.feedback(self.cast, dressed)
        return Day(
            day,
            rows.runs(self.cast, dressed),
            pa.concat_tables([said.given, said.edited]),
            rows.events(self.cast, dressed.day, dressed.incidents),
            rows.gauges(self.cast, dressed),
        )
