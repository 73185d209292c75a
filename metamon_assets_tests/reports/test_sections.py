"""What the counting sections say, against histories whose figures are known and worked out here once more."""

from __future__ import annotations

import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import yaml
from psycopg2.extensions import connection as Connection

from metamon_assets import words
from metamon_assets.config import PriceOverride, Settings
from metamon_assets.reports.findings import Content, Context, Finding
from metamon_assets.reports.sections import cost, repeats, retries, savings, slices, steps
from metamon_assets.statistics import significance
from metamon_assets.statistics.proportions import share_interval
from metamon_assets_tests.reports import histories
from metamon_assets_tests.reports.histories import DAYS, END, NOW, START, write

HOURS = 24 * DAYS


@pytest.fixture
def history(database: str) -> Iterator[Connection]:
    connection = histories.opened(database)
    yield connection
    connection.close()


def context(history: Connection, **more: Any) -> Context:
    return Context(history, START, END, NOW, **more)


def by_key(content: Content) -> dict[str, Finding]:
    return {finding.key: finding for finding in content.findings}


def listed(history: Connection, finding: Finding) -> int:
    with history, history.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM ({finding.query}) AS q")
        ((count,),) = cursor.fetchall()
        return int(count)


def evenly(count: int, **columns: Any) -> list[dict[str, Any]]:
    return [{"run_id": f"r{number}", "hours": HOURS * number / count, **columns} for number in range(count)]


# Cost ----------------------------------------------------------------------------------------------------------


def test_money_is_the_sum_of_what_has_a_price(history: Connection) -> None:
    rng = np.random.default_rng(5)
    costs = [Decimal(str(round(value, 6))) for value in rng.lognormal(-4, 1.5, 700)]
    traces = evenly(1000, agent_name="a")
    for trace, price in zip(traces, costs, strict=False):
        trace["total_cost"] = str(price)
    rng.shuffle(traces)
    for number, trace in enumerate(traces):
        trace["hours"] = HOURS * number / 1000
    write(history, traces)
    found = by_key(cost.build(context(history)))

    total = sum(costs, Decimal(0))
    assert found["cost.total"].estimate is not None
    assert found["cost.total"].estimate.value == pytest.approx(float(total))
    assert found["cost.total"].money_per_month == (total * 30 / 14).quantize(Decimal("0.000001"))
    assert "300 of 1,000 traces (30.0%)" in found["cost.unpriced"].statement
    assert listed(history, found["cost.unpriced"]) == 300
    dearest = sorted(costs)[-7:]
    assert found["cost.tail"].estimate is not None
    assert found["cost.tail"].estimate.value == pytest.approx(float(sum(dearest) / total))
    assert listed(history, found["cost.tail"]) == 7

    days = np.zeros((DAYS, 2))
    for trace in traces:
        if "total_cost" in trace:
            days[int(trace["hours"] // 24)] += (float(trace["total_cost"]), 1)
    expected = significance.compare(
        significance.SampleMean.from_values(days[:7, 0]), significance.SampleMean.from_values(days[7:, 0]), difference="relative"
    )
    change = found["cost.change"].estimate
    assert change is not None
    assert (change.value, change.low, change.high) == pytest.approx((expected.effect, expected.ci_lower, expected.ci_upper))


def test_a_rise_of_cost_is_told_with_its_money(history: Connection) -> None:
    rng = np.random.default_rng(6)
    traces = evenly(1400)
    for trace in traces:
        trace["total_cost"] = str(round((1.0 if trace["hours"] < HOURS / 2 else 1.5) * rng.uniform(0.9, 1.1), 6))
    write(history, traces)
    found = by_key(cost.build(context(history)))["cost.change"]
    assert found.severity == "notice"
    assert found.estimate is not None
    assert found.estimate.low is not None
    assert found.estimate.high is not None
    assert found.estimate.low < 0.5 < found.estimate.high
    assert found.money_per_month is not None
    assert float(found.money_per_month) == pytest.approx(0.5 * 100 * 30, rel=0.05)
    assert listed(history, found) == 700


def test_the_lines_for_metamon_yaml_are_ones(history: Connection) -> None:
    hostile = 'm"]: {x\n- evil'
    models = [("openai", "gpt-unknown"), ("x", hostile)]
    write(
        history,
        [
            {"run_id": f"r{n}", "hours": n, "provider": provider, "response_model": model, "input_tokens": 5, "output_tokens": 5}
            for n, (provider, model) in enumerate(models)
        ],
    )
    (table,) = [table for table in cost.build(context(history)).tables if table.columns == ("price_overrides:",)]
    text = "\n".join((table.columns[0], *(row[0] for row in table.rows))).replace("…", "1.5")
    parsed = yaml.safe_load(text)["price_overrides"]
    assert sorted(entry["model"] for entry in parsed) == sorted(model for _, model in models)
    assert all(PriceOverride(**entry) for entry in parsed)


# Steps ---------------------------------------------------------------------------------------------------------


def test_own_times_add_up_to_the_whole(history: Connection) -> None:
    """A root of 10 s calls a chain of 8 s, which calls a model for 5 s and a tool for 2 s: own 2, 1, 5 and 2 of 10."""
    traces, spans = [], []
    for number, trace in enumerate(evenly(400, latency_seconds=10.0)):
        traces.append(trace)
        run = {"hours": trace["hours"], "trace_id": trace["run_id"]}
        chain = f"c{number}"
        spans += [
            {**run, "run_id": chain, "parent_run_id": trace["run_id"], "run_type": "chain", "name": "plan", "latency_seconds": 8.0},
            {**run, "run_id": f"l{number}", "parent_run_id": chain, "run_type": "llm", "name": "answer", "latency_seconds": 5.0},
            {**run, "run_id": f"t{number}", "parent_run_id": chain, "run_type": "tool", "name": "search", "latency_seconds": 2.0},
        ]
    write(history, traces, spans)
    content = steps.build(context(history))
    found = by_key(content)
    assert set(found) == {"steps.llm.answer", "steps.tool.search", "steps.chain.plan"}
    assert "takes 50.0% of the time" in found["steps.llm.answer"].statement
    assert "takes 20.0% of the time" in found["steps.tool.search"].statement
    assert "takes 10.0% of the time" in found["steps.chain.plan"].statement
    assert listed(history, found["steps.llm.answer"]) == 400
    (picture,) = content.charts
    assert sum(value["amount"] for value in picture["data"]["values"]) == pytest.approx(1)


def test_a_percentile_needs_enough_calls(history: Connection) -> None:
    rng = np.random.default_rng(1)
    for count in (20, 1000):
        times = rng.lognormal(0, 0.7, count)
        names = f"step-{count}"
        traces = [{"run_id": f"{names}{n}", "hours": 330 * n / count, "latency_seconds": t} for n, t in enumerate(times)]
        spans = [
            {**trace, "run_id": f"s{trace['run_id']}", "trace_id": trace["run_id"], "parent_run_id": trace["run_id"], "name": names}
            for trace in traces
        ]
        write(history, traces, [span | {"run_type": "llm"} for span in spans])
        found = steps._finding(
            context(history),
            steps._Step("llm", names, count, count, 0, times.sum(), times.sum()),
            times.sum(),
            times,
        )
        if count == 20:
            assert "too few; it takes 300" in found.certainty
        else:
            assert found.estimate is not None
            assert found.estimate.low is not None
            assert found.estimate.high is not None
            assert found.estimate.low < math.exp(0.7 * 1.6449) < found.estimate.high


# Slices --------------------------------------------------------------------------------------------------------


def traffic(seed: int, count: int = 1500, *, bad_tenant: float = 0.05, dear: float = 1.0) -> list[dict[str, Any]]:
    """Traces of five tenants, three agents and 300 users; tenant t0 fails more often, agent a0 is dearer, if so asked."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        tenant, agent = int(rng.integers(5)), int(rng.integers(3))
        failed = rng.random() < (bad_tenant if tenant == 0 else 0.05)
        rows.append(
            {
                "run_id": f"r{number}",
                "hours": HOURS * number / count,
                "tenant_id": f"t{tenant}",
                "agent_name": f"a{agent}",
                "mode": "fast" if rng.random() < 0.5 else "slow",
                "user_id": f"u{rng.integers(300)}",
                "status": "error" if failed else "success",
                "latency_seconds": float(rng.lognormal(0, 0.8)),
                "total_cost": str(round(float(rng.lognormal(-5, 0.8)) * (dear if agent == 0 else 1), 9)),
            }
        )
    return rows


def test_what_stands_out_is_found_and_nothing_else(history: Connection) -> None:
    rows = traffic(3, 4000, bad_tenant=0.2, dear=2.5)
    write(history, rows)
    found = by_key(slices.build(context(history)))
    assert set(found) == {"slices.errors.tenant.t0", "slices.cost.agent.a0"}
    mine = [row for row in rows if row["tenant_id"] == "t0"]
    rest = [row for row in rows if row["tenant_id"] != "t0"]
    rate = [sum(row["status"] == "error" for row in part) / len(part) for part in (mine, rest)]
    errors, money = found["slices.errors.tenant.t0"], found["slices.cost.agent.a0"]
    assert errors.estimate is not None
    assert errors.estimate.low is not None
    assert errors.estimate.high is not None
    assert errors.estimate.value == pytest.approx(rate[0] - rate[1])
    assert errors.estimate.low < 0.15 < errors.estimate.high
    assert listed(history, errors) == sum(row["status"] == "error" for row in mine)
    assert money.estimate is not None
    assert money.estimate.low is not None
    assert money.estimate.high is not None
    assert money.estimate.low < 2.5 < money.estimate.high
    assert money.money_per_month is not None
    excess = sum(float(row["total_cost"]) for row in rows if row["agent_name"] == "a0") * (1 - 1 / money.estimate.value) * 30 / 14
    assert float(money.money_per_month) == pytest.approx(excess, rel=1e-6)


def test_quiet_histories_have_nothing_that_stands_out(history: Connection) -> None:
    false = []
    for seed in range(20):
        with history, history.cursor() as cursor:
            cursor.execute("DELETE FROM metamon.traces")
        write(history, traffic(100 + seed, 600))
        false += [finding.statement for finding in slices.build(context(history)).findings]
    assert len(false) <= 1, false


def test_few_units_are_too_few(history: Connection) -> None:
    write(history, [{**row, "user_id": f"u{number % 20}"} for number, row in enumerate(traffic(4, 400, bad_tenant=0.9))])
    content = slices.build(context(history))
    assert not content.findings
    assert "too few to tell" in content.silence


# Retries -------------------------------------------------------------------------------------------------------


def test_calls_made_again_after_a_failure(history: Connection) -> None:
    """Ten traces: search fails and is called again (three of those fail too); then another tool, which is no retry."""
    traces, spans = evenly(30, latency_seconds=5.0), []
    for number, trace in enumerate(traces[:10]):
        for place, (name, status) in enumerate(
            [("search", "error"), ("search", "error" if number < 3 else "success"), ("other", "success")]
        ):
            spans.append(
                {
                    "run_id": f"s{number}.{place}",
                    "trace_id": trace["run_id"],
                    "parent_run_id": trace["run_id"],
                    "run_type": "tool",
                    "name": name,
                }
                | {"hours": trace["hours"] + place / 3600, "status": status, "latency_seconds": 2.0, "total_cost": "0.5"}
            )
    write(history, traces, spans)
    content = retries.build(context(history))
    (found,) = content.findings
    assert "called again after a failure 10 times in 10 traces: 50.0% of its calls, 20.0 s of work, $5.00." in found.statement
    assert found.estimate is not None
    assert (found.estimate.value, found.estimate.low, found.estimate.high) == pytest.approx((0.7, *share_interval(7, 10)))
    assert listed(history, found) == 10


def test_asking_again_in_a_conversation(history: Connection) -> None:
    traces = []
    for number in range(8):
        at = {"conversation_id": f"c{number}", "latency_seconds": 3.0, "total_cost": "0.1"}
        traces += [
            {**at, "run_id": f"a{number}", "hours": number, "status": "error"},
            {**at, "run_id": f"b{number}", "hours": number + (0.1 if number < 6 else 0.5)},  # two of them half an hour later
        ]
    write(history, traces)
    found = by_key(retries.build(context(history)))["retries.asked_again"]
    assert "6 of 8 failed traces (75.0%) in conversations had another after them within 10 minutes" in found.statement
    assert "$0.60" in found.statement
    assert listed(history, found) == 6


# Repeats -------------------------------------------------------------------------------------------------------


def test_inputs_that_came_again(history: Connection) -> None:
    """Twelve askings of one question an hour apart, written differently; one two days later; other questions; a second turn."""
    asked = ["What is  THIS?", "what is this?"]
    traces = [{"run_id": f"q{n}", "hours": n, "agent_name": "a", "total_cost": "0.25", "latency_seconds": 2.0} for n in range(12)]
    traces += [
        {"run_id": "late", "hours": 60, "agent_name": "a", "total_cost": "0.25"},
        {"run_id": "other", "hours": 61, "agent_name": "a"},
    ]
    traces += [{"run_id": "turn1", "hours": 61, "agent_name": "a", "conversation_id": "c"}]
    traces += [{"run_id": "turn2", "hours": 61.5, "agent_name": "a", "conversation_id": "c"}]
    payloads = [{"run_id": f"q{n}", "hours": n, "inputs": asked[n % 2]} for n in range(12)]
    payloads += [{"run_id": "late", "hours": 60, "inputs": asked[0]}, {"run_id": "other", "hours": 61, "inputs": "something else"}]
    payloads += [{"run_id": "turn1", "hours": 61, "inputs": "unique"}, {"run_id": "turn2", "hours": 61.5, "inputs": "something else"}]
    write(history, traces, payloads=payloads)
    (found,) = repeats.build(context(history)).findings
    assert found.key == "repeats.traces"
    assert "11 of 15 traces (73.3%)" in found.statement
    assert "22.0 s of work and $2.75" in found.statement
    assert listed(history, found) == 11


def test_what_is_not_stored_is_not_judged(history: Connection) -> None:
    write(history, evenly(50))
    settings = Settings.load()
    off = settings.model_copy(update={"privacy": settings.privacy.model_copy(update={"store_payloads": False})})
    assert "No successful trace or model call comes with its inputs" in repeats.build(context(history)).silence
    assert "Inputs are not stored" in repeats.build(context(history, settings=off)).silence


# Savings -------------------------------------------------------------------------------------------------------


def test_savings_are_price_arithmetic(history: Connection) -> None:
    """Calls of 4,000 tokens in and 100 out at 10 and 20 dollars a million; a cheaper model of the provider is in use."""
    with history, history.cursor() as cursor:
        cursor.execute(
            "INSERT INTO metamon.price_overrides (provider, model, valid_from, input_per_million, output_per_million,"
            " cache_read_per_million) VALUES ('acme', 'big', '2020-01-01', 10, 20, 1), ('acme', 'less', '2020-01-01', 1, 2, 0.1),"
            " ('other', 'free', '2020-01-01', 0.1, 0.1, 0.1)"
        )
    each = Decimal("0.04") + Decimal("0.002")
    call = {"run_type": "llm", "provider": "acme", "response_model": "big", "input_tokens": 4000, "output_tokens": 100}
    calls = evenly(200, **call, total_cost=str(each), input_cost="0.04", output_cost="0.002")
    for number, one in enumerate(calls):
        one["hours"] = number / 60  # a minute apart: all but the first within the cache's life
    calls.append({**calls[0], "run_id": "cheap", "response_model": "less", "total_cost": "0.0042", "hours": 100})
    write(history, calls)
    content = savings.build(context(history))
    found = by_key(content)
    assert set(found) == {"savings.model.big", "savings.caching.big"}
    cheaper, caching = found["savings.model.big"], found["savings.caching.big"]
    assert cheaper.estimate is not None
    assert caching.estimate is not None
    assert cheaper.estimate.value == pytest.approx(float(200 * each) * 0.9)
    assert "not tested" in cheaper.statement
    assert "Overlaps with: prompt caching for big" in cheaper.certainty
    assert caching.estimate.value == pytest.approx(199 * 4000 * 9e-6)
    assert cheaper.estimate.low == 0
    assert listed(history, cheaper) == 200
    assert not any("other" in finding.statement for finding in content.findings), "another provider's model is no candidate"


def test_without_a_price_nothing_is_worked_out(history: Connection) -> None:
    write(history, evenly(20, run_type="llm", response_model="m", input_tokens=10, output_tokens=10))
    content = savings.build(context(history))
    assert not content.findings
    assert "nothing can be worked out" in content.silence


# Words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "unpriced"), (0, "$0.00"), (0.00042, "$0.00042"), (0.0087, "$0.0087"), (12.5, "$12.50"), (1234.5, "$1,234"), (-3.2, "-$3.20")],
)
def test_dollars(value: float | None, said: str) -> None:
    assert words.dollars(value) == said


@pytest.mark.parametrize(
    ("share", "said"), [(0, "0.0%"), (0.00001, "under 0.1%"), (0.9999, "over 99.9%"), (1, "100.0%"), (None, "unknown")]
)
def test_percent(share: float | None, said: str) -> None:
    assert words.percent(share) == said
