"""What the agents cost: in all, a day, by agent and model; what has no price and how to give it one; how it moves.

Sums are counted, not estimated, and have no interval; the change from the week before does. Days are its units: what
all runs of a day have in common (a campaign, an outage) is then no evidence twice.
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, date, timedelta
from decimal import Decimal
from typing import NamedTuple

from metamon_assets import charts, words
from metamon_assets.reports import runs
from metamon_assets.reports.findings import DAYS_A_MONTH, MATERIAL, Content, Context, Estimate, Finding, Table

WEEK = timedelta(days=7)
ENOUGH_FOR_TAIL = 200  # priced traces: below, 1 % of them is one or two
SKEWED = 0.1  # share of the money that 1 % of the traces must have to be worth a sentence
CHANCE = 0.01  # that a change is told as one without any; two are looked at
GAP = 0.05  # of the traces that lack a price which could be given to be worth acting on
LARGEST = 5  # agents with a colour of their own
SHOWN = 10  # rows of a table

_GROUPS = """
    SELECT GROUPING(day) = 0 AS by_day, day, agent_name, count(*), count(total_cost), sum(total_cost)
    FROM metamon.traces WHERE {where} GROUP BY GROUPING SETS ((day, agent_name), (agent_name))"""
_MODELS = """
    SELECT provider, model, count(*), count(total_cost), sum(total_cost),
        count(*) FILTER (WHERE total_cost IS NULL AND (input_tokens IS NULL OR output_tokens IS NULL))
    FROM ({calls}) calls GROUP BY 1, 2 ORDER BY 5 DESC NULLS LAST, 3 DESC"""
_LACKING = """
    SELECT count(*) FROM metamon.traces WHERE {where} AND total_cost IS NULL
        AND (trace_id, project, source) IN (SELECT trace_id, project, source FROM ({calls}) calls WHERE total_cost IS NULL)"""
_DEAREST = """
    SELECT sum(total_cost), min(total_cost) FROM (SELECT total_cost FROM metamon.traces WHERE {where} AND total_cost IS NOT NULL
        ORDER BY total_cost DESC LIMIT %(count)s) dearest"""


class _Group(NamedTuple):
    """Traces of an agent, on a day or in all."""

    by_day: bool
    day: date | None
    agent: str | None
    traces: int
    priced: int
    cost: Decimal | None


class _Model(NamedTuple):
    """Calls of a model."""

    provider: str | None
    model: str | None
    calls: int
    priced: int
    cost: Decimal | None
    without_tokens: int


def build(context: Context) -> Content:
    """Total where anything has a price, price gaps, change, tail; tables by agent and model; a picture over days."""
    where = runs.traces_where(context)
    groups = [_Group(*row) for row in runs.rows(context, _GROUPS.format(where=where))]
    models = [_Model(*row) for row in runs.rows(context, _MODELS.format(calls=runs.model_calls(context)))]
    agents = sorted((group for group in groups if not group.by_day), key=lambda group: (-(group.cost or 0), -group.traces))
    traces, priced = sum(group.traces for group in agents), sum(group.priced for group in agents)
    if not traces:
        return Content(silence="There are no traces in this period, so there is no cost to speak of.")
    total = sum((group.cost for group in agents if group.cost is not None), Decimal(0)) if priced else None
    unpriced = sorted((model for model in models if model.priced < model.calls), key=lambda model: model.priced - model.calls)
    found: list[Finding | None] = [_total(context, traces, priced, total)] if total is not None else []
    found.append(_unpriced(context, traces, priced, unpriced))
    if total:
        found += [_change(context, groups), _tail(context, priced, total)]
    tables = [_agents(agents, total), _models(models), _overrides(unpriced)]
    return Content(
        findings=tuple(finding for finding in found if finding is not None),
        tables=tuple(table for table in tables if table is not None),
        charts=(_picture(groups, agents),) if total else (),
    )


def _total(context: Context, traces: int, priced: int, total: Decimal) -> Finding:
    days = runs.observed_days(context)
    month = runs.a_month(context, total)
    whose = words.many(priced, "trace") + ("" if priced == traces else " with a price")
    each = f" in {days:,.0f} days, {words.dollars(total / priced)} each." if days >= 2 else "."
    statement = f"{whose} cost {words.dollars(total)}{each}"
    certainty = "Counted, not estimated." if priced == traces else "Counted; what has no price is not in it."
    if month is None:
        certainty += f" A month is not estimated from less than {runs.FEW_DAYS} days."
    else:
        statement += f" At this rate a month of 30 days is {words.dollars(month)}."
    return Finding(
        key="cost.total",
        statement=statement,
        certainty=certainty,
        estimate=Estimate(float(total), None, None, "dollars", priced),
        money_per_month=month,
        query=runs.listing(context, order="total_cost DESC NULLS LAST"),
        severity="info",
    )


def _unpriced(context: Context, traces: int, priced: int, models: list[_Model]) -> Finding | None:
    if priced == traces:
        return None
    condition = "total_cost IS NULL"
    query = runs.listing(context, condition)
    named = [model for model in models if model.model is not None]
    calls, without_tokens = sum(model.calls - model.priced for model in models), sum(model.without_tokens for model in models)
    lacking = 0
    if not named:
        why = " They name no model, so no price table can help: let the source report model and tokens, or the cost."
    else:
        ((lacking,),) = runs.rows(context, _LACKING.format(where=runs.traces_where(context), calls=runs.model_calls(context)))
        lacking_calls = Counter[str]()
        for model in named:  # one model may have several providers
            lacking_calls[words.name(model.model)] += model.calls - model.priced
        listed = ", ".join(f"{name} ({count:,})" for name, count in lacking_calls.most_common(3))
        why = f" {lacking:,} of them made {words.many(calls, 'model call')} without a price, most of {listed}"
        why += f"; {without_tokens:,} of those calls came without token counts, where a price does not help." if without_tokens else "."
        why += f" The other {traces - priced - lacking:,} contain no such call." if lacking < traces - priced else ""
    return Finding(
        key="cost.unpriced",
        statement=f"{_without_a_price(traces, priced)}{why}",
        certainty="Counted." if priced else "Counted; what is unknown is not counted as $0.",
        estimate=Estimate((traces - priced) / traces, None, None, "share", traces),
        runs=runs.examples(context, query),
        query=query,
        severity="notice" if lacking >= GAP * traces else "info",
    )


def _without_a_price(traces: int, priced: int) -> str:
    if not priced:
        return f"What {words.many(traces, 'trace')} cost is unknown: none has a price."
    return f"{words.of(traces - priced, traces, 'trace')} without a price: not counted as $0."


def _change(context: Context, groups: list[_Group]) -> Finding | None:
    """The last seven days of the period that are over against the seven before, day by day."""
    from metamon_assets.statistics import significance

    last = min(runs.parameters(context)["last_day"], context.now.astimezone(UTC).date() - timedelta(days=1))
    days: dict[date, list[float]] = {}
    for group in groups:
        if group.by_day and group.day is not None and group.cost is not None:
            of_day = days.setdefault(group.day, [0.0, 0.0])
            of_day[0] += float(group.cost)
            of_day[1] += group.priced
    after = [days.get(last - timedelta(days=back)) for back in range(7)]
    before = [days.get(last - timedelta(days=back)) for back in range(7, 14)]
    known = [[day for day in week if day is not None] for week in (before, after)]
    if min(map(len, known)) < 7:
        return Finding(
            key="cost.change",
            statement="Whether cost rises or falls is too early to tell.",
            certainty="It takes two weeks with a cost on every day;"
            f" of the last 14 days that are over, {len(known[0]) + len(known[1])} have one.",
            severity="info",
        )
    total = significance.compare(
        *(significance.SampleMean.from_values([cost for cost, _ in week]) for week in known), difference="relative"
    )
    each = significance.compare(
        *(significance.SampleRatio.from_values([cost for cost, _ in week], [count for _, count in week]) for week in known),
        difference="relative",
    )
    if total.status != "ok" or each.status != "ok":
        return None
    clear = total.p_value <= CHANCE
    money = Decimal(str(round((total.treatment_estimate - total.control_estimate) * DAYS_A_MONTH, 6)))
    weeks = [words.dollars(7 * mean) for mean in (total.treatment_estimate, total.control_estimate)]
    moved = f"The last seven days cost {weeks[0]}, the seven before {weeks[1]}"
    per_trace = f"the cost of a trace moved by {_interval(each.effect, each.ci_lower, each.ci_upper)}" + (
        "" if each.p_value <= CHANCE else ", which may be chance"
    )
    return Finding(
        key="cost.change",
        statement=f"{moved} ({words.change(total.effect)}); {per_trace}.",
        certainty=f"The change of a day's cost is {_interval(total.effect, total.ci_lower, total.ci_upper)}, days being the units: "
        + ("more than chance explains." if clear else "not clearly more than days differ by anyway."),
        estimate=Estimate(total.effect, total.ci_lower, total.ci_upper, "ratio", 14, total.p_value),
        money_per_month=money if clear else None,
        query=runs.listing(
            context, "day > %(before)s AND day <= %(last)s", {"before": last - WEEK, "last": last}, order="total_cost DESC NULLS LAST"
        ),
        severity="notice" if clear and total.effect > 0 and money >= MATERIAL else "info",
    )


def _tail(context: Context, priced: int, total: Decimal) -> Finding | None:
    if priced < ENOUGH_FOR_TAIL:
        return None
    count = priced // 100
    ((cost, least),) = runs.rows(context, _DEAREST.format(where=runs.traces_where(context)), {"count": count})
    share = float(cost / total)
    if share < SKEWED:
        return None
    query = runs.listing(context, "total_cost >= %(least)s", {"least": least}, order="total_cost DESC")
    return Finding(
        key="cost.tail",
        statement=f"The dearest 1% of the traces ({count:,}) cost {words.dollars(cost)}, {words.percent(share)} of the money;"
        f" each at least {words.dollars(least)}.",
        certainty="Counted.",
        estimate=Estimate(share, None, None, "share", priced),
        money_per_month=runs.a_month(context, cost),
        runs=runs.examples(context, query),
        query=query,
        severity="info",
    )


def _agents(agents: list[_Group], total: Decimal | None) -> Table | None:
    if len(agents) < 2 and agents[0].agent is None:
        return None
    rows = [
        (
            words.name(group.agent),
            f"{group.traces:,}",
            words.dollars(group.cost),
            words.percent(float(group.cost / total)) if total and group.cost is not None else "–",
            words.dollars(group.cost / group.priced) if group.cost is not None else "–",
            words.percent(1 - group.priced / group.traces),
        )
        for group in agents[:SHOWN]
    ]
    return Table(_first(agents, "By agent"), ("agent", "traces", "cost", "of all", "a trace", "unpriced"), tuple(rows))


def _models(models: list[_Model]) -> Table | None:
    if not any(model.model for model in models):
        return None
    rows = [
        (
            words.name(model.model),
            words.name(model.provider),
            f"{model.calls:,}",
            words.dollars(model.cost),
            words.percent(1 - model.priced / model.calls),
        )
        for model in models[:SHOWN]
    ]
    return Table(_first(models, "By model"), ("model", "provider", "calls", "cost", "unpriced"), tuple(rows))


def _overrides(models: list[_Model]) -> Table | None:
    """Lines for metamon.yaml; names are quoted as JSON, which YAML reads."""
    lines = [
        (_override(model.provider or "*", model.model),)
        for model in models
        if model.model is not None and model.without_tokens < model.calls - model.priced
    ]
    if not lines:
        return None
    return Table("Lines for metamon.yaml that would price them, with your prices in dollars", ("price_overrides:",), tuple(lines[:SHOWN]))


def _override(provider: str, model: str) -> str:
    names = f"provider: {json.dumps(words.clean(provider))}, model: {json.dumps(words.clean(model))}"
    return f"  - {{{names}, input_per_million: …, output_per_million: …}}"


def _picture(groups: list[_Group], agents: list[_Group]) -> dict[str, object]:
    largest = [words.name(group.agent) for group in agents if group.cost][:LARGEST]
    rows = [
        (group.day, found if (found := words.name(group.agent)) in largest else "others", float(group.cost))
        for group in groups
        if group.by_day and group.day is not None and group.cost is not None
    ]
    order = largest + ["others"] * any(found == "others" for _, found, _ in rows)
    return charts.stacked_days(rows, title="US dollars a day", order=order)


def _interval(effect: float, low: float, high: float) -> str:
    return f"{words.change(effect)} (95% interval {words.change(low)} to {words.change(high)})"


def _first(rows: list[_Group] | list[_Model], title: str) -> str:
    return title if len(rows) <= SHOWN else f"{title} (the first {SHOWN} of {len(rows):,})"
