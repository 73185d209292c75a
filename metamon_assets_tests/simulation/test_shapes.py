"""The simulated shapes beside the real ones, where the real data is at hand. Factors say how close they must be."""

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
import pytest

from metamon_assets.simulation import World
from metamon_assets.simulation.arrivals import requests_of
from metamon_assets.simulation.traffic import Flow
from metamon_assets.simulation.world import AGENTS, LLM, MODELS, cast

START = date(2026, 6, 1)


@pytest.fixture(scope="module")
def flows() -> list[Flow]:
    world = World(5, 4000)
    return [world.flow(START + timedelta(days=day)) for day in range(5)]


def within(simulated: float, real: float, factor: float) -> None:
    assert real / factor < simulated < real * factor, f"simulated {simulated:.3f}, real {real:.3f}"


def residuals(values: np.ndarray, groups: np.ndarray, least: int) -> np.ndarray:
    """ln of each value over its group's median, for groups of at least ``least``."""
    parts = [
        np.log(values[groups == group] / np.median(values[groups == group]))
        for group in np.unique(groups)
        if (groups == group).sum() >= least
    ]
    return np.concatenate(parts)


def hill(residual: np.ndarray) -> float:
    """Tail index over the largest 2 %."""
    ordered = np.sort(residual)
    count = len(ordered) // 50
    return float(1 / np.mean(ordered[-count:] - ordered[-count - 1]))


@pytest.mark.parametrize(("column", "factor"), [("ttft_s", 1.4), ("total_time_s", 1.4)])
def test_latency_has_the_spread_and_the_tail_of_real_calls(shared_data: Path, flows: list[Flow], column: str, factor: float) -> None:
    table = pyarrow.csv.read_csv(shared_data / "llm_latency" / "thefastest_ai_llm_latency.csv")
    table = table.filter(pc.and_(pc.greater(table["ttft_s"], 0), pc.less_equal(table["num_tokens"], 40)))
    real = residuals(table[column].to_numpy(), table["model"].to_numpy(zero_copy_only=False), 40)
    calls = {
        name: np.concatenate([flow.calls[name] for flow in flows])
        for name in ("kind", "failed", "output_tokens", "first_token_seconds", "seconds")
    }
    models = np.concatenate([flow.requests["model"][flow.calls["request"]] for flow in flows])
    short = (calls["kind"] == LLM) & ~calls["failed"] & (calls["output_tokens"] >= 10) & (calls["output_tokens"] <= 40)
    ours = residuals(calls["first_token_seconds" if column == "ttft_s" else "seconds"][short], models[short], 40)
    within(ours.std(), real.std(), factor)
    for quantile in (0.05, 0.9, 0.99):
        within(float(np.exp(abs(np.quantile(ours, quantile)))), float(np.exp(abs(np.quantile(real, quantile)))), factor)
    within(hill(ours), hill(real), 1.6)


def test_tokens_have_the_spread_of_real_requests(shared_data: Path, flows: list[Flow]) -> None:
    azure = pyarrow.parquet.read_table(shared_data / "tokens" / "azure_llm_2023.parquet").to_pandas()
    for workload, agent in (("conv", "support"), ("code", "coding")):
        number = [agent.name for agent in AGENTS].index(agent)
        real = azure[azure.workload == workload]
        for ours, theirs in (("input_tokens", "context_tokens"), ("output_tokens", "generated_tokens")):
            parts = []
            for flow in flows:
                answers = (flow.calls["place"] == 4) & ~flow.calls["failed"] & (flow.requests["agent"][flow.calls["request"]] == number)
                parts.append(flow.calls[ours][answers])
            ln = np.log(np.concatenate(parts))
            within(float(ln.std()), float(np.log(real[theirs].clip(lower=1)).std()), 1.45)
            for quantile in (0.9, 0.95):
                expected = np.quantile(real[theirs], quantile) / np.median(real[theirs])
                within(float(np.exp(np.quantile(ln, quantile) - np.median(ln))), float(expected), 1.9)


def test_arrivals_are_as_bursty_as_real_clients(shared_data: Path) -> None:
    windows = pyarrow.parquet.read_table(shared_data / "arrivals" / "servegen_client_windows.parquet").to_pandas()
    real = []
    for model in ("m-large", "m-mid", "m-small"):
        rate = windows[windows.model == model].groupby("t_s").rate_rps.sum()
        rate = rate.reindex(range(0, 14 * 86_400, 600), fill_value=0.0).to_numpy().reshape(14, 144)
        real.append(excess(rate))
    ours = np.array(
        [
            np.bincount(requests_of(cast(5), 20_600 + day, 20_000, ())["time"] % 86_400_000_000 // 600_000_000, minlength=144)
            for day in range(14)
        ]
    )
    poisson = float((1 / ours.mean(axis=0)).mean())
    within(float(np.sqrt(max(excess(ours) ** 2 - poisson, 0.0))), float(np.median(real)), 1.8)
    shares = np.sort(windows[windows.model == "m-large"].groupby("client_id").rate_rps.sum().to_numpy())[::-1]
    within(float(np.sort(cast(5).tenant_share)[::-1][:3].sum()), float(shares[:3].sum() / shares.sum()), 2.0)


def excess(counts: np.ndarray) -> float:
    """Coefficient of variation of ten-minute counts around the day's level and the hour's shape."""
    days, hours = counts.mean(axis=1, keepdims=True), counts.mean(axis=0).reshape(24, 6).mean(axis=1).repeat(6)
    return float((counts * counts.mean() / (days * hours[None, :])).std())


def test_every_model_that_sends_a_bill_has_the_bundled_price() -> None:
    from genai_prices import Usage, calc_price

    for model in MODELS:
        if model.input_price is None or model.output_price is None or model.cache_read_price is None:
            continue
        cached = calc_price(Usage(input_tokens=10**6, cache_read_tokens=10**6, output_tokens=0), model.name, provider_id=model.provider)
        plain = calc_price(Usage(input_tokens=10**6, output_tokens=10**6), model.name, provider_id=model.provider)
        prices = [10**6 * price for price in (plain.input_price, plain.output_price, cached.input_price)]
        assert prices == [model.input_price, model.output_price, model.cache_read_price], model.name
