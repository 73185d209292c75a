"""The short report after ``metamon run``: what came in, what it cost, what failed, and where to look on.

Every figure is read from the tables that an analyst would ask, so the report can be checked with ``metamon sql``.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metamon_assets import words
from metamon_assets.reports import outcomes

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from metamon_assets.config import Settings

Row = tuple[Any, ...]

_TOTALS = """
    SELECT min(day) FILTER (WHERE requests > 0), max(day) FILTER (WHERE requests > 0), count(*) FILTER (WHERE requests > 0),
        COALESCE(sum(requests), 0)::bigint, COALESCE(sum(errors), 0)::bigint,
        COALESCE(sum(pending), 0)::bigint, COALESCE(sum(priced_requests), 0)::bigint, sum(total_cost), sum(input_tokens)::bigint,
        sum(output_tokens)::bigint
    FROM metamon.daily_metrics WHERE dimension = 'overall'"""
_LATENCY = """
    WITH merged AS (SELECT metamon.histogram_merge(latency_bins, latency_counts) AS h, sum(latency_zeros)::bigint AS zeros
        FROM metamon.daily_metrics WHERE dimension = 'overall')
    SELECT metamon.histogram_quantile((h).bins, (h).counts, zeros, 0.5), metamon.histogram_quantile((h).bins, (h).counts, zeros, 0.95),
        metamon.histogram_quantile((h).bins, (h).counts, zeros, 0.99) FROM merged"""
_AGENTS = """
    SELECT dimension_value, sum(requests)::bigint, sum(errors)::float8 / NULLIF(sum(successes) + sum(errors), 0), sum(total_cost),
        sum(latency_sum) / NULLIF(sum(latency_count), 0)
    FROM metamon.daily_metrics WHERE dimension = 'agent' GROUP BY 1 ORDER BY 4 DESC NULLS LAST, 2 DESC LIMIT 8"""
_WORST_DAYS = """
    SELECT day, errors::float8 / NULLIF(successes + errors, 0) AS rate, requests FROM metamon.daily_metrics
    WHERE dimension = 'overall' AND errors > 0 AND successes + errors >= 100 ORDER BY 2 DESC NULLS LAST LIMIT 3"""
_ERRORS = """
    SELECT e.key, sum(e.value::bigint)::bigint FROM metamon.daily_metrics, jsonb_each_text(error_types) e
    WHERE dimension = 'overall' GROUP BY 1 ORDER BY 2 DESC LIMIT 5"""
_REJECTS = "SELECT reason, count(*) FROM quarantine.rejected_rows WHERE replayed_at IS NULL GROUP BY 1 ORDER BY 2 DESC LIMIT 5"
_UNTOLD = """
    SELECT count(*) FROM metamon.traces WHERE (source, project) IN (SELECT * FROM unnest(%(sources)s::text[], %(projects)s::text[]))"""
_EVENTS = "SELECT count(*) FILTER (WHERE NOT inferred), count(*) FILTER (WHERE inferred) FROM metamon.events"
_OTHERS = (
    "SELECT (SELECT count(*) FROM metamon.spans), (SELECT count(*) FROM metamon.feedback), (SELECT count(*) FROM metamon.gauge_samples)"
)


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures over everything that is in the tables. Money in US dollars, latency in seconds, shares from 0 to 1."""

    home: str
    simulated: bool
    days_computed: int
    first_day: date | None
    last_day: date | None
    days: int
    traces: int
    errors: int
    pending: int
    untold: int  # traces that do not tell whether they failed
    spans: int
    feedback: int
    gauge_samples: int
    priced: int
    total_cost: Decimal | None
    input_tokens: int | None
    output_tokens: int | None
    latency_p50: float | None
    latency_p95: float | None
    latency_p99: float | None
    agents: tuple[Row, ...]
    worst_days: tuple[Row, ...]
    error_types: tuple[Row, ...]
    rejected: tuple[Row, ...]
    events_reported: int
    events_inferred: int

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        if not self.traces:
            yield "Nothing has come in yet: the sources had no traces."
            yield "`metamon doctor` says what is configured; `metamon connect` adds a source."
            return
        yield ""
        yield f"{self.first_day} to {self.last_day}: {_days(self.days)} with traces" + (
            " (simulated, problems planted)" if self.simulated else ""
        )
        yield f"  computed now   {_days(self.days_computed)}" + ("" if self.days_computed else ": everything was up to date")
        others = f"{self.spans:,} spans, {self.feedback:,} feedback, {self.gauge_samples:,} gauge samples"
        yield f"  came in        {self.traces:,} traces, {others}"
        yield f"  failed         {self._failed()}; {self.pending:,} have not ended"
        yield f"  latency        p50 {_seconds(self.latency_p50)}, p95 {_seconds(self.latency_p95)}, p99 {_seconds(self.latency_p99)}"
        yield f"  cost           {words.dollars(self.total_cost)}; {1 - self.priced / self.traces:.1%} of the traces have no price"
        yield f"  changes        {self.events_reported:,} reported, {self.events_inferred:,} inferred from the traces"
        yield from _table("By agent", ("agent", "traces", "errors", "cost", "mean latency"), [self._agent(row) for row in self.agents])
        yield from _table(
            "Most errors", ("day", "errors", "traces"), [(str(day), f"{rate:.2%}", f"{n:,}") for day, rate, n in self.worst_days]
        )
        yield from _table("What failed", ("error type", "traces"), [(kind, f"{n:,}") for kind, n in self.error_types])
        yield from _table("Rejected rows", ("reason", "rows"), [(reason, f"{n:,}") for reason, n in self.rejected])
        yield ""
        yield "Where to look"
        yield f"  export METAMON_HOME={shlex.quote(self.home)}   (metamon is in .venv/bin)"
        yield "  metamon report                what stands out, what it costs, what to do about it; --html FILE with pictures"
        yield "  metamon readiness             what works with this much traffic, and what needs more"
        yield "  metamon up                    the Dagster UI: assets, checks and figures of each day"
        yield '  metamon sql "SELECT …"        tables as an analyst sees them; metamon dictionary explains every column'
        if self.rejected:
            yield '  metamon sql "SELECT reason, detail, location FROM quarantine.rejected_rows"'

    @property
    def _none_tells(self) -> bool:
        return self.untold >= self.traces

    def _agent(self, row: Row) -> tuple[str, ...]:
        name, requests, rate, cost, latency = row
        failed = "–" if rate is None or self._none_tells else f"{rate:.2%}"
        return (name, f"{requests:,}", failed, words.dollars(cost), _seconds(latency))

    def _failed(self) -> str:
        if self._none_tells:
            return "unknown: the traces do not tell"
        return f"{self.errors:,} traces ({self.errors / self.traces:.2%}){f'; of {self.untold:,} it is unknown' if self.untold else ''}"


def summarise(connection: Connection, settings: Settings, *, days_computed: int) -> Summary:
    """The report over what is in the tables now."""
    with connection, connection.cursor() as cursor:

        def rows(query: str) -> tuple[Row, ...]:
            cursor.execute(query)
            return tuple(cursor.fetchall())

        ((first, last, days, traces, errors, pending, priced, cost, input_tokens, output_tokens),) = rows(_TOTALS)
        ((p50, p95, p99),) = rows(_LATENCY) or ((None, None, None),)
        ((spans, feedback, gauges),) = rows(_OTHERS)
        ((reported, inferred),) = rows(_EVENTS)
        silent = outcomes.untold(settings)
        cursor.execute(_UNTOLD, {"sources": [source for source, _ in silent], "projects": [project for _, project in silent]})
        ((untold,),) = cursor.fetchall()
        return Summary(
            home=str(settings.home.relative_to(Path.cwd()) if settings.home.is_relative_to(Path.cwd()) else settings.home),
            simulated=(settings.home / "sample" / "manifest.json").exists(),
            days_computed=days_computed,
            first_day=first,
            last_day=last,
            days=days,
            traces=traces,
            errors=errors,
            pending=pending,
            untold=untold,
            spans=spans,
            feedback=feedback,
            gauge_samples=gauges,
            priced=priced,
            total_cost=cost,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            latency_p50=p50,
            latency_p95=p95,
            latency_p99=p99,
            agents=rows(_AGENTS),
            worst_days=rows(_WORST_DAYS),
            error_types=rows(_ERRORS),
            rejected=rows(_REJECTS),
            events_reported=reported,
            events_inferred=inferred,
        )


def _days(count: int) -> str:
    return "1 day" if count == 1 else f"{count} days"


def _seconds(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f} s"


def _table(title: str, headers: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Aligned columns, the first to the left and the others to the right; nothing without rows."""
    if not rows:
        return
    widths = [max(len(row[index]) for row in [headers, *rows]) for index in range(len(headers))]
    yield ""
    yield title
    for row in [headers, *rows]:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield "  " + "  ".join([row[0].ljust(widths[0]), *cells])
