"""What could be saved, by the price table alone: cheaper models, prompt caching, fewer retries, shorter inputs.

These are upper bounds from arithmetic on the tokens that were used: nothing here was tried, and what a change does to
quality is for an evaluation or a rollout to say. They act on the same money, so they are never added up.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from metamon_assets import words
from metamon_assets.config import Configuration
from metamon_assets.reports import runs
from metamon_assets.reports.findings import Content, Context, Estimate, Finding, Table
from metamon_assets.reports.sections import retries
from metamon_assets.traces.configured import price_overrides
from metamon_assets.traces.pricing import PriceBook

CHEAPER = Decimal("0.7")  # of today's price at most, or a change is not worth its risk
WORTH, NOTABLE = Decimal("0.01"), Decimal("0.05")  # of all the money that model calls cost, at least
CACHE_LIFE = "5 minutes"  # that providers keep a prompt without being asked to
LONG_INPUT, INPUT_PER_OUTPUT, CACHED = 1024, 8, 0.2  # tokens of input, times the output, share served from the cache
SMALL = re.compile(r"(?<![a-z])(mini|nano|haiku|flash|lite|small)(?![a-z])")
OTHER_PURPOSE = re.compile(r"audio|realtime|search|preview|tts|transcribe|image|embed|vision|codex|live|guard|moderation|instruct|ft:")
SAFE = ("savings.caching.", "savings.retries")  # what cannot make answers worse
MODELS = 5  # the dearest ones that are looked at

_TRAFFIC = f"""
    WITH calls AS ({{calls}}), limits AS (
        SELECT provider, model, percentile_disc(0.95) WITHIN GROUP (ORDER BY input_tokens) AS most FROM calls
        WHERE total_cost IS NOT NULL AND input_tokens IS NOT NULL AND output_tokens IS NOT NULL GROUP BY 1, 2
    ), ordered AS (
        SELECT *, start_time - lag(start_time) OVER same <= interval '{CACHE_LIFE}' AS warm
        FROM calls WHERE total_cost IS NOT NULL AND input_tokens IS NOT NULL AND output_tokens IS NOT NULL
        WINDOW same AS (PARTITION BY provider, model, agent_name ORDER BY start_time)
    )
    SELECT o.provider, o.model, count(*), sum(total_cost), sum(input_tokens), sum(output_tokens), COALESCE(sum(cache_read_input_tokens), 0),
        COALESCE(sum(cache_creation_input_tokens), 0), COALESCE(sum(reasoning_output_tokens), 0),
        COALESCE(sum(input_tokens - COALESCE(cache_read_input_tokens, 0)) FILTER (WHERE warm), 0), sum(input_cost), most,
        sum(greatest(input_tokens - most, 0)), count(*) FILTER (WHERE input_tokens > most)
    FROM ordered o JOIN limits l ON l.model IS NOT DISTINCT FROM o.model AND l.provider IS NOT DISTINCT FROM o.provider
    WHERE o.model IS NOT NULL GROUP BY o.provider, o.model, most ORDER BY 4 DESC"""


class _Traffic(NamedTuple):
    """Priced calls of a model, and their tokens."""

    provider: str | None
    model: str
    calls: int
    cost: Decimal
    input: Decimal
    output: Decimal
    cache_read: Decimal
    cache_creation: Decimal
    reasoning: Decimal
    warm: Decimal  # fresh input tokens of calls that came soon after another one
    input_cost: Decimal | None  # None where the source tells totals alone
    most: int  # 95th percentile of a call's input
    beyond: Decimal  # tokens above it
    long_calls: int


class _Saving(NamedTuple):
    """A candidate: at most ``amount`` dollars of the period."""

    key: str
    what: str
    amount: Decimal
    how: str
    traffic: _Traffic | None
    query: str


def build(context: Context) -> Content:
    """The candidates, dearest first, each with its bound and what it overlaps with."""
    traffic = [_Traffic(*row) for row in runs.rows(context, _TRAFFIC.format(calls=runs.model_calls(context)))]
    total = sum((model.cost for model in traffic), Decimal(0))
    if not total:
        return Content(silence="No model call has both a price and its tokens, so nothing can be worked out about savings.")
    prices = _prices(context)
    found: list[_Saving] = []
    for model in traffic[:MODELS]:
        if candidate := _cheaper(context, prices, model, traffic):
            found.append(candidate)
        if candidate := _caching(context, prices, model):
            found.append(candidate)
        if candidate := _trimming(context, model):
            found.append(candidate)
    if candidate := _retries(context):
        found.append(candidate)
    worth = sorted((saving for saving in found if saving.amount >= WORTH * total), key=lambda saving: -saving.amount)
    if not worth:
        return Content(
            silence=f"Nothing that price arithmetic shows is worth {words.percent(float(WORTH))} of what model calls cost,"
            f" {words.dollars(total)}."
        )
    return Content(
        findings=tuple(_finding(context, saving, worth, total) for saving in worth[:6]),
        tables=(_table(context, worth, total),),
    )


def _prices(context: Context) -> PriceBook:
    return PriceBook(price_overrides(context.connection, context.settings or Configuration()))


def _prices_of(
    prices: PriceBook, traffic: _Traffic, models: Sequence[str], moment: datetime, cached: Decimal | None = None
) -> list[Decimal | None]:
    """What the mean call costs with each of the models, at the prices of ``moment``; None where there is no price."""
    import pyarrow as pa

    from metamon_assets.traces import columns

    def each(tokens: Decimal) -> int:
        return round(tokens / traffic.calls)

    call = {
        "run_type": "llm",
        "provider": traffic.provider,
        "start_time": moment,
        "input_tokens": each(traffic.input),
        "output_tokens": each(traffic.output),
        "cache_read_input_tokens": min(
            each(traffic.cache_read if cached is None else cached), each(traffic.input) - each(traffic.cache_creation)
        ),
        "cache_creation_input_tokens": each(traffic.cache_creation),
        "reasoning_output_tokens": each(traffic.reasoning),
    }
    table = pa.Table.from_pylist([call | {"response_model": model, "request_model": model} for model in models], schema=columns.RUNS)
    return prices.price(table).column("total_cost").to_pylist()


def _cheaper(context: Context, prices: PriceBook, traffic: _Traffic, all_traffic: list[_Traffic]) -> _Saving | None:
    """The nearest cheaper model of the provider: one in use already, else the small one of its family in the price table."""
    used = [other.model for other in all_traffic if other.provider == traffic.provider and other.model != traffic.model]
    for names in (used, _small_siblings(prices, traffic)):
        own, *others = _prices_of(prices, traffic, [traffic.model, *names], context.now)
        if not own:
            return None
        ratios = {name: price / own for name, price in zip(names, others, strict=True) if price is not None and 0 < price <= CHEAPER * own}
        if ratios:
            best = max(ratios, key=lambda name: (_alike(name, traffic.model), ratios[name]))
            in_use = "in use here already" if names is used else "from the price table, not used here so far"
            return _Saving(
                f"savings.model.{traffic.model}",
                f"{words.name(best)} in place of {words.name(traffic.model)}",
                traffic.cost * (1 - ratios[best]),
                f"Today's list price of the same tokens is {words.percent(float(ratios[best]))} of the other's ({in_use})."
                " What it does to quality was not tested.",
                traffic,
                _calls(context, traffic),
            )
    return None


def _alike(one: str, other: str) -> int:
    """How many characters two names begin with in common."""
    return next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _small_siblings(prices: PriceBook, traffic: _Traffic) -> list[str]:
    family = re.match(r"[a-z]*", traffic.model.rpartition("/")[2].lower())
    if family is None or not family[0] or SMALL.search(traffic.model.lower()):
        return []
    return [
        name
        for name in prices.models_of(traffic.provider)
        if name.startswith(family[0]) and SMALL.search(name) and not OTHER_PURPOSE.search(name)
    ]


def _caching(context: Context, prices: PriceBook, traffic: _Traffic) -> _Saving | None:
    """Prompt caching where inputs are long, outputs short, and little is cached: at most all of it but the first call's."""
    long = traffic.input >= LONG_INPUT * traffic.calls and traffic.input >= INPUT_PER_OUTPUT * traffic.output
    if not long or float(traffic.cache_read / traffic.input) >= CACHED:
        return None
    (now,) = _prices_of(prices, traffic, [traffic.model], context.now)
    (cached,) = _prices_of(prices, traffic, [traffic.model], context.now, cached=traffic.input)
    if not now or cached is None or cached >= now:
        return None
    fresh = traffic.input - traffic.cache_read
    amount = traffic.cost * (1 - cached / now) * traffic.warm / fresh if fresh else Decimal(0)
    return _Saving(
        f"savings.caching.{traffic.model}",
        f"prompt caching for {words.name(traffic.model)}",
        amount,
        f"A call has {traffic.input / traffic.calls:,.0f} tokens of input and {traffic.output / traffic.calls:,.0f} of output;"
        f" {words.percent(float(traffic.cache_read / traffic.input))} of the input came from the provider's cache. The bound takes all"
        f" input of calls within {CACHE_LIFE} of another one for a repeated prefix; how much is one has not been measured.",
        traffic,
        _calls(context, traffic),
    )


def _trimming(context: Context, traffic: _Traffic) -> _Saving | None:
    """The longest inputs cut to the 95th percentile."""
    if not traffic.beyond or traffic.input_cost is None:
        return None
    return _Saving(
        f"savings.trimming.{traffic.model}",
        f"inputs of {words.name(traffic.model)} of {traffic.most:,} tokens at most",
        traffic.input_cost * traffic.beyond / traffic.input,
        f"{words.of(traffic.long_calls, traffic.calls, 'call')} had more than {traffic.most:,} tokens of input,"
        f" {traffic.beyond:,.0f} tokens above that"
        " in all. Whether the answers need them is not known.",
        traffic,
        _calls(context, traffic, "AND input_tokens > %(most)s", {"most": traffic.most}),
    )


def _retries(context: Context) -> _Saving | None:
    steps = retries.steps_again(context)
    cost = sum((step.cost for step in steps if step.cost), Decimal(0))
    if not cost:
        return None
    count = sum(step.retries for step in steps)
    return _Saving(
        "savings.retries",
        "calls that need no second try",
        cost,
        f"{words.many(count, 'call')} came again after a failure. The bound is what they cost; the first tries may have had a price too.",
        None,
        retries.query_of(context, max(steps, key=lambda step: step.cost or 0)),
    )


def _calls(context: Context, traffic: _Traffic, more: str = "", values: dict[str, object] | None = None) -> str:
    """The query that lists the calls of a model, be they spans or roots, dearest first."""
    query = (
        f"SELECT * FROM ({runs.model_calls(context)}) AS calls WHERE model = %(model)s AND provider IS NOT DISTINCT FROM %(provider)s"
        f" AND total_cost IS NOT NULL {more} ORDER BY total_cost DESC"
    )
    return runs.literal(context, query, {"model": traffic.model, "provider": traffic.provider, **(values or {})})


def _finding(context: Context, saving: _Saving, others: list[_Saving], total: Decimal) -> Finding:
    overlapping = [other.what for other in others if other is not saving and _overlap(saving, other)]
    overlap = f" Overlaps with: {'; '.join(overlapping)}. Do not add them up." if overlapping else ""
    sample = saving.traffic.calls if saving.traffic else 0
    tested = saving.key.startswith("savings.model.")
    return Finding(
        key=saving.key,
        statement=f"At most {words.dollars(saving.amount)} of this period's cost would be saved by {saving.what}"
        + (", if quality holds: not tested." if tested else "."),
        certainty=f"Arithmetic, not an experiment: between nothing and that amount. {saving.how}{overlap}",
        estimate=Estimate(float(saving.amount), 0.0, float(saving.amount), "dollars", sample),
        money_per_month=runs.a_month(context, saving.amount),
        money_is="at most",
        runs=runs.examples(context, saving.query),
        query=saving.query,
        severity="notice" if _notable(context, saving, total) else "info",
    )


def _notable(context: Context, saving: _Saving, total: Decimal) -> bool:
    return saving.key.startswith(SAFE) and saving.amount >= NOTABLE * total and runs.is_material(context, saving.amount)


def _overlap(one: _Saving, other: _Saving) -> bool:
    """Savings on the same model act on the same tokens; retries are calls of any model."""
    return one.traffic is None or other.traffic is None or one.traffic.model == other.traffic.model


def _table(context: Context, savings: list[_Saving], total: Decimal) -> Table:
    rows = [
        (
            saving.what,
            words.dollars(saving.amount),
            words.percent(float(saving.amount / total)),
            _month(runs.a_month(context, saving.amount)),
        )
        for saving in savings
    ]
    return Table(
        "Upper bounds, which act on the same money and must not be added up",
        ("what", "in this period", "of model cost", "in 30 days"),
        tuple(rows),
    )


def _month(amount: Decimal | None) -> str:
    return "too few days" if amount is None else words.dollars(amount)
