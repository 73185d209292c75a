"""The report as a whole: which period, what is known about it, what each section found, and what matters most of it.

Here belongs putting together; what is found belongs to the sections, how it looks to ``terminal``, ``html`` and ``rows``.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from psycopg2 import sql

from metamon_assets import words
from metamon_assets.days import midnight
from metamon_assets.errors import MetamonError
from metamon_assets.reports import runs
from metamon_assets.reports.findings import MATERIAL, Content, Context, Finding, Registry, Section
from metamon_assets.reports.rejected import Rejected, rejected
from metamon_assets.reports.sections import default_registry

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from metamon_assets.config import Settings

DAYS = 14  # that a report looks back
HIGHLIGHTS, LEAST_HIGHLIGHTS = 5, 3
TRIFLE = Decimal("0.02")  # of what everything costs
TOTALS = ("cost.total", "errors.total")
TOLD_AT_THE_TOP = (*TOTALS, "cost.unpriced")  # unless it is worth acting on
_RANK = {"serious": 0, "notice": 1, "info": 2}
_LOG = logging.getLogger(__name__)

_FACTS = f"""
    SELECT count(*), count(DISTINCT day), min(start_time), max(start_time), min(day), count(DISTINCT project), count(DISTINCT agent_name),
        count(*) FILTER (WHERE status = 'success' AND {{told}}), count(*) FILTER (WHERE status = 'error' AND {{told}}),
        count(*) FILTER (WHERE status IN ('pending', 'abandoned')), count(total_cost), sum(total_cost), count(latency_seconds),
        count(*) FILTER (WHERE {{told}}),
        count(agent_name), count({runs.MODEL}), count(total_tokens), count(user_id), count(conversation_id), count(agent_version)
    FROM metamon.traces WHERE {{where}}"""
_BESIDE = """
    SELECT EXISTS (SELECT FROM metamon.spans WHERE {spans}),
        EXISTS (SELECT FROM metamon.payloads WHERE day BETWEEN %(first_day)s AND %(last_day)s),
        EXISTS (SELECT FROM metamon.feedback WHERE day >= %(first_day)s)"""
_DAYS_HELD = """
    SELECT to_date(right(c.relname, 8), 'YYYYMMDD') FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'metamon.traces'::regclass ORDER BY 1 DESC"""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is in the period. Money in US dollars."""

    traces: int = 0
    days: int = 0  # with traces
    first: datetime | None = None
    last: datetime | None = None
    projects: int = 0
    agents: int = 0
    succeeded: int = 0
    failed: int = 0
    unended: int = 0  # pending, or given up as abandoned
    untold: int = 0  # do not tell whether they failed
    priced: int = 0
    cost: Decimal | None = None
    rejected: Rejected = field(default_factory=Rejected)  # rows that are in quarantine
    missing: tuple[tuple[str, str], ...] = ()  # what the traces do not tell, and what cannot be said therefore


@dataclass(frozen=True, slots=True)
class Part:
    """A section as it was built, or why it was not."""

    section: Section
    content: Content
    seconds: float
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that the renderers show."""

    start: datetime
    end: datetime
    now: datetime
    timezone: str
    project: str | None
    agent: str | None
    facts: Facts
    parts: tuple[Part, ...]

    @property
    def findings(self) -> list[tuple[Section, Finding]]:
        """All findings in the order in which they are read."""
        return [(part.section, finding) for part in self.parts for finding in part.content.findings]

    @property
    def highlights(self) -> list[tuple[Section, Finding]]:
        """What matters most: by severity, then money worth mentioning, then as they are read; two of a section at most.

        What is merely worth knowing fills up to three, if it has a figure, and more money to it than ``MATERIAL`` where it has money.
        Totals are not among them: they stand at the top anyway.
        """
        chosen: list[tuple[Section, Finding]] = []
        for section, finding in sorted(self.findings, key=lambda found: self._weight(found[1])):
            others = sum(section.key == other.key for other, _ in chosen)
            room = HIGHLIGHTS if finding.severity != "info" else LEAST_HIGHLIGHTS
            if not self._is_minor(finding) and others < 2 and len(chosen) < room:
                chosen.append((section, finding))
        return chosen

    def _is_minor(self, finding: Finding) -> bool:
        """Whether it has no place among what matters most."""
        if finding.severity != "info":
            return finding.key in TOTALS
        money = finding.money_per_month if finding.cost is None else finding.cost
        return finding.key in TOLD_AT_THE_TOP or finding.estimate is None or (money is not None and abs(money) < MATERIAL)

    def _weight(self, finding: Finding) -> tuple[int, int, Decimal]:
        """What sorts findings. Money that is a trifle of all comes after what has no known price, such as an outage."""
        month = next((other.money_per_month for _, other in self.findings if other.key == "cost.total"), None)
        money, all_money = (finding.money_per_month, month) if finding.cost is None else (finding.cost, self.facts.cost)
        share = None if money is None else money / all_money if all_money else money
        large = money is not None and money >= MATERIAL and share is not None and share >= (TRIFLE if all_money else 0)
        worth = 1 if share is None else 0 if large else 2
        return _RANK[finding.severity], worth, -(share or Decimal(0))

    @property
    def failures(self) -> list[Part]:
        """The sections that could not be built."""
        return [part for part in self.parts if part.failure]


def build_report(
    connection: Connection,
    settings: Settings,
    start: datetime,
    end: datetime,
    now: datetime,
    project: str | None = None,
    agent: str | None = None,
    registry: Registry | None = None,
) -> Report:
    """The report on traces that started in ``start <= t < end``. A section that fails is told as failed; the others go on."""
    context = Context(connection, start, end, now, settings.timezone, project, agent, settings)
    facts, observed = _facts(context)
    context = replace(context, observed_days=observed)
    sections = (registry or default_registry()).in_order() if facts.traces else []
    parts = tuple(_part(context, section) for section in sections)
    return Report(start, end, now, settings.timezone, project, agent, facts, parts)


def last_days(
    connection: Connection, now: datetime, days: int = DAYS, project: str | None = None, agent: str | None = None
) -> tuple[datetime, datetime]:
    """The last ``days`` UTC days up to the last one that has traces, as start and end; when that is today, today so far as well.

    Whole weeks can then be compared at any hour. Without any traces: up to today.
    """
    today = now.astimezone(UTC).date()
    last = _last_day(connection, now, project, agent) or today
    return midnight(last - timedelta(days=days - (last != today))), midnight(last + timedelta(days=1))


def check_names(connection: Connection, project: str | None, agent: str | None) -> None:
    """Raise MetamonError, which lists those that there are, when no trace is of the project or of the agent that was asked for."""
    for column, what, value in (("project", "project", project), ("agent_name", "agent", agent)):
        if value is None:
            continue
        name = sql.Identifier(column)
        with connection, connection.cursor() as cursor:
            cursor.execute(sql.SQL("SELECT EXISTS (SELECT FROM metamon.traces WHERE {} = %s)").format(name), (value,))
            ((found,),) = cursor.fetchall()
            if found:
                continue
            cursor.execute(sql.SQL("SELECT DISTINCT {0} FROM metamon.traces WHERE {0} IS NOT NULL ORDER BY 1 LIMIT 50").format(name))
            known = ", ".join(words.name(text) for (text,) in cursor.fetchall())
        raise MetamonError(f"There is no {what} {words.name(value)}; there {'are: ' + known if known else 'is none at all yet'}.")


def as_json(report: Report) -> dict[str, Any]:
    """The report for programs: everything but how it looks. Money is exact; times are UTC."""
    return {
        "start": report.start,
        "end": report.end,
        "made_at": report.now,
        "timezone": report.timezone,
        "project": report.project,
        "agent": report.agent,
        "facts": asdict(report.facts),
        "highlights": [finding.key for _, finding in report.highlights],
        "sections": [
            {
                "key": part.section.key,
                "title": part.section.title,
                "failure": part.failure or None,
                "silence": part.content.silence or None,
                "findings": [asdict(finding) for finding in part.content.findings],
                "tables": [asdict(table) for table in part.content.tables],
                "charts": list(part.content.charts),
            }
            for part in report.parts
        ],
    }


def _last_day(connection: Connection, now: datetime, project: str | None, agent: str | None) -> date | None:
    with connection, connection.cursor() as cursor:
        cursor.execute(_DAYS_HELD)
        for (day,) in cursor.fetchall():
            context = Context(connection, midnight(day), midnight(day + timedelta(days=1)), now, project=project, agent=agent)
            cursor.execute(f"SELECT EXISTS (SELECT FROM metamon.traces WHERE {runs.traces_where(context)})", runs.parameters(context))
            ((found,),) = cursor.fetchall()
            if found and day <= now.astimezone(UTC).date():
                return day
    return None


def _part(context: Context, section: Section) -> Part:
    began = time.perf_counter()
    try:
        content, failure = section.build(context), ""
    except Exception as error:  # noqa: BLE001 - one section must not take the report with it; it is shown as failed and logged
        _LOG.exception("section %s of the report failed", section.key)
        context.connection.rollback()
        content, failure = (
            Content(),
            f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}",
        )
    return Part(section, content, time.perf_counter() - began, failure)


def _facts(context: Context) -> tuple[Facts, float]:
    ((traces, days, first, last, first_day, projects, agents, *counts),) = runs.rows(
        context, _FACTS.format(where=runs.traces_where(context), told=runs.told(context))
    )
    quarantined = rejected(context.connection, context.start, context.project)
    if not traces:
        return Facts(rejected=quarantined), 0.0
    succeeded, failed, unended, priced, cost, latency, told, *others = counts
    known = [told, latency, *others]
    beside = runs.rows(context, _BESIDE.format(spans=runs.spans_where(context)))[0]
    facts = Facts(
        traces,
        days,
        first,
        last,
        projects,
        agents,
        succeeded,
        failed,
        unended,
        traces - told,
        priced,
        cost,
        quarantined,
        _missing(known, beside),
    )
    return facts, runs.days_between(context.start, context.end, context.now, midnight(first_day))


_KNOWN = (
    ("whether runs failed", "error rates and outages"),
    ("latency", "how long anything took"),
    ("agent names", "which agent did what"),
    ("models", "which model did what, and a price"),
    ("tokens", "a price where the source reports none"),
    ("users", "how many people are affected"),
    ("conversations", "whether people ask again"),
    ("versions", "what a deployment changed"),
)
_PRESENT = (
    ("child runs (spans)", "which step is slow or fails"),
    ("inputs and outputs", "which inputs come again"),
    ("feedback", "whether answers are good"),
)


def _missing(known: list[int], beside: tuple[bool, ...]) -> tuple[tuple[str, str], ...]:
    """What no trace carries. A model may stand in spans alone, but then tokens and cost are added up in the root."""
    absent = [what for what, count in zip(_KNOWN, known, strict=True) if not count]
    if beside[0]:  # models stand in the spans
        absent = [what for what in absent if what[0] != "models"]
    return (*absent, *(what for what, present in zip(_PRESENT, beside, strict=True) if not present))
