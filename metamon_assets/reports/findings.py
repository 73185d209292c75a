"""What a report consists of: sections of findings, each of which says what, how sure, how much money, which runs.

Here belong the shapes that sections fill and renderers (terminal, HTML, table) read, and the registry of sections. What
a section finds belongs to the stage that knows about it: a later stage registers a section under the same key and so
takes the place of the first form.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from metamon_assets import words

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from metamon_assets.config import Settings

DAYS_A_MONTH = 30
MATERIAL = Decimal(1)  # US dollars in 30 days from which on money is worth acting on
Unit = Literal["share", "seconds", "dollars", "ratio", "count"]
Severity = Literal["info", "notice", "serious"]  # worth knowing, worth acting on, hurting now


@dataclass(frozen=True, slots=True)
class Context:
    """What a section may look at: runs that started in ``start <= t < end`` (UTC) of one project, agent, or all."""

    connection: Connection
    start: datetime
    end: datetime
    now: datetime
    timezone: str = "UTC"
    project: str | None = None
    agent: str | None = None
    settings: Settings | None = None  # for sections that need prices or what is stored; None: the defaults
    observed_days: float | None = None  # days from the first trace to the end; None: not counted yet (``runs.observed_days``)
    memo: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)  # what the sections of one report share


@dataclass(frozen=True, slots=True)
class RunReference:
    """A run that shows what a finding says."""

    source: str
    project: str
    run_id: str
    start_time: datetime
    url: str | None = None  # where its source shows it


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval; None for bounds where the figure was counted, not estimated."""

    value: float
    low: float | None
    high: float | None
    unit: Unit
    sample: int  # runs, or whatever ``certainty`` names, that it rests on
    p_value: float | None = None

    def __post_init__(self) -> None:
        if any(figure is not None and math.isnan(figure) for figure in (self.value, self.low, self.high, self.p_value)):
            raise ValueError("a finding carries no figure that is not a number: where nothing can be compared, it has no estimate")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing worth knowing. ``statement`` and ``certainty`` are whole sentences for people."""

    key: str  # stable within the section: "errors.rising.timeout"
    statement: str
    certainty: str
    estimate: Estimate | None = None
    money_per_month: Decimal | None = None  # US dollars per 30 days at stake, of what goes on; None: not known
    runs: tuple[RunReference, ...] = ()  # a few examples
    query: str = ""  # SELECT over ``analytics`` that gives all its runs, for `metamon sql`
    severity: Severity = "notice"
    cost: Decimal | None = None  # US dollars that it cost once, in this period: of what is over, which has no monthly rate
    money_is: str = ""  # what the money is, where the statement does not say so: "what these runs cost"

    @property
    def money(self) -> str:
        """The money for people: "$12.00 in 30 days", "$3.50 once"; empty where there is none to tell."""
        amount, span = (self.cost, "once") if self.cost is not None else (self.money_per_month, f"in {DAYS_A_MONTH} days")
        return "" if amount is None else f"{words.dollars(amount)} {span}" + (f" ({self.money_is})" if self.money_is else "")


@dataclass(frozen=True, slots=True)
class Table:
    """A small table: a title, column names, and rows of what people read."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Content:
    """What a section has to say. ``silence`` is the true sentence for when there is nothing to find, and why."""

    findings: tuple[Finding, ...] = ()
    tables: tuple[Table, ...] = ()
    charts: tuple[dict[str, Any], ...] = ()  # Vega-Lite specifications
    silence: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report: where it stands, what it asks, and what fills it."""

    key: str
    title: str
    order: int
    build: Callable[[Context], Content]


@dataclass(slots=True)
class Registry:
    """The sections of a report by key; the last one registered under a key is the one that is used."""

    sections: dict[str, Section] = field(default_factory=dict)

    def register(self, section: Section) -> None:
        """Add a section, or put it in the place of the one with its key."""
        self.sections[section.key] = section

    def in_order(self) -> list[Section]:
        """All sections as they are read."""
        return sorted(self.sections.values(), key=lambda section: (section.order, section.key))
