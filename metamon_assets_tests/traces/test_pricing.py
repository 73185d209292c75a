"""Costs: the bills that other tools got wrong, prices that changed, tiers, overrides, and arithmetic that is exact.

Expected amounts are worked out by hand in the comments from the providers' list prices, in dollars per million tokens.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from metamon_assets.traces import columns
from metamon_assets.traces.normalise import Rules, normalise_runs
from metamon_assets.traces.pricing import PriceBook, PriceOverride
from metamon_assets.traces.sources.base import Batch, Kind

NOW = datetime(2026, 11, 20, tzinfo=UTC)
DAY = datetime(2026, 9, 1, 12, tzinfo=UTC)
PRICES = PriceBook()
COSTS = ("input_cost", "output_cost", "total_cost", "cost_source")


def table(*runs: Mapping[str, Any]) -> pa.Table:
    """Runs in the unified columns: model calls unless they say otherwise."""
    defaults = {"run_type": "llm", "start_time": DAY}
    schema = pa.schema(columns.RUN_FIELDS)
    return pa.Table.from_pylist([{**defaults, **run} for run in runs], schema=schema)


def price(book: PriceBook = PRICES, /, **run: Any) -> dict[str, Any]:
    row: dict[str, Any] = book.price(table(run)).select(COSTS).to_pylist()[0]
    return row


def ingested(**run: Any) -> dict[str, Any]:
    """The run as it is stored: token convention settled, then priced."""
    batch = Batch(Kind.RUNS, table({"run_id": "r", "end_time": DAY, **run}))
    result = normalise_runs(batch, Rules(source="files", project="p", now=NOW, prices=PRICES))
    assert not result.rejects
    row: dict[str, Any] = result.rows.to_pylist()[0]
    return row


# The five wrong bills -------------------------------------------------------------------------------------------


def test_bill_1_cached_tokens_inside_the_input_are_not_counted_twice() -> None:
    """langfuse#10592: 17,903 input tokens, 17,817 of them cached, were shown as 35,720."""
    row = ingested(provider="openai", request_model="gpt-4o", input_tokens=17_903, output_tokens=100, cache_read_input_tokens=17_817)
    assert (row["input_tokens"], row["total_tokens"]) == (17_903, 18_003)
    # gpt-4o: input 2.50, cached 1.25, output 10. 86 × 2.50 + 17,817 × 1.25 = 215 + 22,271.25 = 22,486.25 millionths
    assert row["input_cost"] == Decimal("0.02248625")
    assert row["output_cost"] == Decimal("0.001")
    assert row["total_cost"] == Decimal("0.02348625")


def test_bill_2_cached_tokens_beside_the_input_are_not_charged_as_output_or_input() -> None:
    """phoenix#10036, Bedrock: $0.20 was shown for a call of $0.0048."""
    row = ingested(
        provider="aws.bedrock",
        request_model="us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        input_tokens=3,
        output_tokens=12,
        total_tokens=13_256,
        cache_creation_input_tokens=25,
        cache_read_input_tokens=13_216,
    )
    assert (row["input_tokens"], row["output_tokens"], row["total_tokens"]) == (13_244, 12, 13_256)
    assert '"token_convention":"additive"' in row["metadata"]
    # regional endpoint: input 3.30, write 4.125, read 0.33, output 16.50
    # 3 × 3.30 + 25 × 4.125 + 13,216 × 0.33 = 9.9 + 103.125 + 4,361.28 = 4,474.305 millionths; output 12 × 16.50 = 198
    assert row["input_cost"] == Decimal("0.004474305")
    assert row["output_cost"] == Decimal("0.000198")
    assert row["total_cost"] == Decimal("0.004672305")  # the report rounds the rates up to $0.0048


def test_bill_3_output_is_what_was_reported_not_total_minus_prompt() -> None:
    """phoenix#10783, Bedrock: 8,709 output tokens were billed for 442."""
    row = ingested(
        provider="amazon_bedrock",
        request_model="global.anthropic.claude-sonnet-4-5-20250929-v1:0",
        input_tokens=3,
        output_tokens=442,
        total_tokens=8_712,
        cache_read_input_tokens=7_917,
        cache_creation_input_tokens=350,
    )
    assert (row["input_tokens"], row["output_tokens"], row["total_tokens"]) == (8_270, 442, 8_712)
    assert row["output_cost"] == Decimal("0.00663")  # 442 × 15
    # 3 × 3 + 350 × 3.75 + 7,917 × 0.30 = 9 + 1,312.5 + 2,375.1 = 3,696.6 millionths
    assert row["input_cost"] == Decimal("0.0036966")
    assert row["total_cost"] == Decimal("0.0103266")


def test_bill_4_cached_tokens_in_a_total_are_not_output() -> None:
    """phoenix#13379: total = input + output + cached, and the cached ones were billed at the price of output."""
    row = ingested(
        provider="anthropic",
        request_model="claude-sonnet-4-5",
        input_tokens=5_000,
        output_tokens=200,
        total_tokens=9_200,
        cache_read_input_tokens=4_000,
    )
    assert (row["input_tokens"], row["output_tokens"], row["total_tokens"]) == (9_000, 200, 9_200)
    # input 3, read 0.30, output 15: 5,000 × 3 + 4,000 × 0.30 = 15,000 + 1,200 = 16,200 millionths; 200 × 15 = 3,000
    assert (row["input_cost"], row["output_cost"]) == (Decimal("0.0162"), Decimal("0.003"))


def test_bill_5_the_uncached_remainder_is_not_free() -> None:
    """langsmith-sdk#2519: 19 base tokens beside 39,000 cached ones were charged $0 (and no total to tell it by)."""
    row = ingested(
        provider="anthropic", request_model="claude-sonnet-4-5", input_tokens=19, output_tokens=50, cache_read_input_tokens=38_000,
        cache_creation_input_tokens=1_000,
    )  # fmt: skip
    assert row["input_tokens"] == 39_019
    # 19 × 3 + 38,000 × 0.30 + 1,000 × 3.75 = 57 + 11,400 + 3,750 = 15,207 millionths; 50 × 15 = 750
    assert row["input_cost"] == Decimal("0.015207")
    assert row["total_cost"] == Decimal("0.015957")


def test_thoughts_beside_the_output_are_billed_as_output() -> None:
    """Gemini counts thoughts beside the candidates: total = prompt + candidates + thoughts."""
    row = ingested(
        provider="google",
        request_model="gemini-2.5-pro",
        input_tokens=1_000,
        output_tokens=100,
        total_tokens=1_400,
        reasoning_output_tokens=300,
    )
    assert row["output_tokens"] == 400
    assert row["total_cost"] == Decimal("0.00525")  # 1,000 × 1.25 + 400 × 10 = 1,250 + 4,000 millionths


# Prices over time, tiers, unknowns --------------------------------------------------------------------------------


def test_a_price_is_the_one_of_the_runs_day() -> None:
    call = {"provider": "openai", "request_model": "o3", "input_tokens": 1_000_000, "output_tokens": 1_000_000}
    before = price(**call, start_time=datetime(2025, 6, 9, 23, 59, 59, tzinfo=UTC))
    after = price(**call, start_time=datetime(2025, 6, 10, tzinfo=UTC))
    assert (before["total_cost"], after["total_cost"]) == (Decimal(50), Decimal(10))  # 10 + 40; 2 + 8 since the cut


def test_a_price_by_the_clock() -> None:
    call = {"provider": "deepseek", "request_model": "deepseek-chat", "input_tokens": 1_000_000, "output_tokens": 0}
    day = price(**call, start_time=datetime(2025, 3, 1, 12, tzinfo=UTC))
    night = price(**call, start_time=datetime(2025, 3, 1, 20, tzinfo=UTC))
    assert night["total_cost"] == day["total_cost"] / 2


def test_a_tier_holds_for_all_tokens_of_the_call() -> None:
    call = {"provider": "gcp.vertex_ai", "request_model": "gemini-2.5-pro", "output_tokens": 1_000}
    # up to 200,000: 1.25 and 10; above: 2.50 and 15
    assert price(**call, input_tokens=200_000)["total_cost"] == Decimal("0.26")
    assert price(**call, input_tokens=200_001)["total_cost"] == Decimal("0.5150025")
    assert price(**call, input_tokens=None)["output_cost"] is None  # which tier cannot be told


def test_unknown_is_unpriced_and_never_zero() -> None:
    book = PriceBook()
    unknown = price(book, provider="openai", request_model="gpt-99-secret", input_tokens=1, output_tokens=1)
    assert unknown == {"input_cost": None, "output_cost": None, "total_cost": None, "cost_source": "unpriced"}
    price(book, provider="ollama", request_model="gpt-4o", input_tokens=1, output_tokens=1)
    price(book, input_tokens=1, output_tokens=1)
    assert book.unpriced_models == {"openai/gpt-99-secret": 1, "ollama/gpt-4o": 1, "unknown provider/unknown model": 1}


def test_output_tokens_alone_give_a_partial_cost() -> None:
    row = price(provider="openai", request_model="gpt-4o", output_tokens=1_000)
    assert row == {"input_cost": None, "output_cost": Decimal("0.01"), "total_cost": None, "cost_source": "unpriced"}


def test_an_embedding_needs_no_output_tokens() -> None:
    row = price(provider="openai", request_model="text-embedding-3-small", run_type="embedding", input_tokens=1_000)
    assert (row["total_cost"], row["cost_source"]) == (Decimal("0.00002"), "computed")
    assert price(provider="openai", request_model="gpt-4o", input_tokens=1_000)["cost_source"] == "unpriced"


def test_a_fee_per_request_counts_as_input() -> None:
    row = price(provider="perplexity", request_model="sonar", input_tokens=1_000, output_tokens=1_000)
    assert row["input_cost"] == Decimal("0.013")  # 1,000 × 1 millionths and 12 per thousand requests
    assert row["total_cost"] == Decimal("0.014")


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("azure.ai.openai", "gpt-4o"),
        ("azure.ai.inference", "gpt-4o"),
        ("az.ai.openai", "gpt-4o"),
        ("azure_openai", "gpt-4o"),
        ("azure.eastus2", "gpt-4-1106-preview"),
        ("aws.bedrock", "anthropic.claude-3-5-sonnet-20240620-v1:0"),
        ("gcp.gen_ai", "gemini-2.5-pro"),
        ("google_genai", "models/gemini-2.5-pro"),
        ("mistral_ai", "mistral-large-latest"),
        ("x_ai", "grok-3"),
        ("openrouter", "openai/gpt-4o"),
        ("openrouter", "openrouter/openai/gpt-4o"),
        (None, "openai/gpt-4o"),
        (None, "gpt-4o"),
        ("litellm", "anthropic/claude-sonnet-4-5"),
        ("openai.chat", "gpt-4o"),
        ("groq.com", "llama-3.3-70b-versatile"),
        ("anthropic", "anthropic/claude-sonnet-4-5"),
        ("together.ai", "meta-llama/Llama-3-70b-chat-hf"),
        ("perplexity.ai", "sonar"),
        ("OpenAI", "GPT-4o"),
    ],
)
def test_providers_by_the_names_that_sources_use(provider: str | None, model: str) -> None:
    assert price(provider=provider, request_model=model, input_tokens=10, output_tokens=10)["cost_source"] == "computed"


def test_the_answering_model_goes_before_the_requested_one() -> None:
    row = price(
        provider="azure", request_model="our-deployment", response_model="gpt-4o-2024-08-06", input_tokens=1_000_000, output_tokens=0
    )
    assert row["total_cost"] == Decimal("2.5")
    fallback = price(provider="openai", request_model="gpt-4o", response_model="unheard-of", input_tokens=1_000_000, output_tokens=0)
    assert fallback["total_cost"] == Decimal("2.5")


# Reported costs, and what is not priced ---------------------------------------------------------------------------


def test_a_reported_cost_is_kept() -> None:
    call = {"provider": "openai", "request_model": "gpt-4o", "input_tokens": 1_000, "output_tokens": 1_000}
    assert price(**call, total_cost=Decimal("0.5")) == {
        "input_cost": None, "output_cost": None, "total_cost": Decimal("0.5"), "cost_source": "reported"
    }  # fmt: skip
    parts = price(**call, input_cost=Decimal("0.1"), output_cost=Decimal("0.2"))
    assert (parts["total_cost"], parts["cost_source"]) == (Decimal("0.3"), "reported")
    assert price(**call, total_cost=Decimal(0))["cost_source"] == "reported"
    assert price(**call, total_cost=Decimal(1), cost_source="computed")["cost_source"] == "computed"
    assert price(**call, total_cost=Decimal(1), cost_source="unpriced")["cost_source"] == "reported"
    assert price(**call, cost_source="reported")["cost_source"] == "computed"


def test_half_a_reported_cost_is_computed_whole() -> None:
    row = price(provider="openai", request_model="gpt-4o", input_tokens=1_000, output_tokens=1_000, output_cost=Decimal(9))
    assert (row["output_cost"], row["total_cost"], row["cost_source"]) == (Decimal("0.01"), Decimal("0.0125"), "computed")


def test_only_model_calls_and_roots_that_tell_their_model_are_priced() -> None:
    known = {"provider": "openai", "request_model": "gpt-4o", "input_tokens": 1_000, "output_tokens": 1_000}
    for run_type in ("chain", "agent", "tool", "retriever"):
        child = price(**known, run_type=run_type, parent_run_id="root")
        assert (child["total_cost"], child["cost_source"]) == (None, "unpriced")
        root = price(**known, run_type=run_type)
        assert (root["total_cost"], root["cost_source"]) == (Decimal("0.0125"), "computed")  # 1,000 × $2.50 + 1,000 × $10 a million
        assert price(**(known | {"output_tokens": None}), run_type=run_type)["cost_source"] == "unpriced"


def test_an_answer_from_the_applications_cache_costs_nothing() -> None:
    """opik#4508: a client-side cache hit showed the cost of a call that was never made."""
    row = price(provider="openai", request_model="gpt-4o", input_tokens=1_000, output_tokens=1_000, cache_hit=True)
    assert (row["total_cost"], row["cost_source"]) == (Decimal(0), "computed")
    assert price(cache_hit=True)["total_cost"] == Decimal(0)
    assert price(cache_hit=False)["total_cost"] is None
    assert price(cache_hit=True, total_cost=Decimal(1))["total_cost"] == Decimal(1)


# Overrides ----------------------------------------------------------------------------------------------------------


def test_overrides_go_first_and_hold_from_their_day() -> None:
    book = PriceBook(
        [
            PriceOverride("openai", "gpt-4o", date(2026, 3, 1), Decimal(1), Decimal(2)),
            PriceOverride("openai", "gpt-4o", date(2026, 9, 1), Decimal("0.5"), Decimal(1), Decimal("0.05"), Decimal("0.6")),
            PriceOverride("*", "our-llama", date(2020, 1, 1), Decimal("0.1"), Decimal("0.1")),
            PriceOverride("vllm", "our-llama", date(2020, 1, 1), Decimal("0.2"), Decimal("0.2")),
        ]
    )
    call = {"provider": "openai", "request_model": "GPT-4o", "input_tokens": 1_000_000, "output_tokens": 0}
    at = lambda month, day: price(book, **call, start_time=datetime(2026, month, day, tzinfo=UTC))["total_cost"]  # noqa: E731
    assert [at(2, 28), at(3, 1), at(8, 31), at(9, 1)] == [Decimal("2.5"), Decimal(1), Decimal(1), Decimal("0.5")]
    cached = price(book, **call, cache_read_input_tokens=400_000, cache_creation_input_tokens=100_000)
    assert cached["total_cost"] == Decimal("0.33")  # 500,000 × 0.5 + 400,000 × 0.05 + 100,000 × 0.6
    own = {"request_model": "our-llama", "input_tokens": 1_000_000, "output_tokens": 0}
    assert price(book, **own, provider="vllm")["total_cost"] == Decimal("0.2")
    assert price(book, **own, provider="tgi")["total_cost"] == Decimal("0.1")
    assert price(book, **own)["total_cost"] == Decimal("0.1")


def test_an_override_without_a_price_leaves_those_tokens_unpriced() -> None:
    book = PriceBook([PriceOverride("x", "m", date(2020, 1, 1), output_per_million=Decimal(1))])
    row = price(book, provider="x", request_model="m", input_tokens=5, output_tokens=1_000_000)
    assert (row["input_cost"], row["output_cost"], row["cost_source"]) == (None, Decimal(1), "unpriced")
    assert price(book, provider="x", request_model="m", input_tokens=0, output_tokens=1)["cost_source"] == "computed"


def test_an_impossible_override_is_refused() -> None:
    with pytest.raises(ValueError, match=r"x/m from 2020-01-01: -1"):
        PriceOverride("x", "m", date(2020, 1, 1), Decimal(-1))


def test_overrides_come_from_the_database_and_the_file_goes_first(database: str, tmp_path: Path) -> None:
    from metamon_assets.config import Settings
    from metamon_assets.traces.configured import price_overrides
    from metamon_assets.warehouse import connect

    written = "[{model: gpt-4o-mini, provider: openai, valid_from: 2026-01-01, input_per_million: 3}]"
    (tmp_path / "metamon.yaml").write_text(f"price_overrides: {written}\n")
    connection = connect(database)
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO metamon.price_overrides (provider, model, valid_from, input_per_million, output_per_million)"
                " VALUES ('openai', 'gpt-4o', '2026-01-01', 1.25, 5), ('openai', 'gpt-4o-mini', '2026-01-01', 7, 7)"
            )
        book = PriceBook(price_overrides(connection, Settings.load({"METAMON_HOME": str(tmp_path)})))
    finally:
        connection.close()
    assert price(book, provider="openai", request_model="gpt-4o-mini", input_tokens=1_000_000, output_tokens=0)["total_cost"] == 3
    assert price(book, provider="openai", request_model="gpt-4o", input_tokens=1_000, output_tokens=0)["total_cost"] == Decimal("0.00125")


# Arithmetic ---------------------------------------------------------------------------------------------------------


def test_every_bundled_price_agrees_with_its_own_package() -> None:
    """Random calls of all models of the bundled table, dates and tiers included, against genai-prices' own arithmetic."""
    from genai_prices.data import providers
    from genai_prices.types import TieredPrices, Usage

    rng = random.Random(11)
    known = {"input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok", "cache_write_1h_mtok", "requests_kcount"}
    searches = {"web_searches_kcount", "storage_searches_kcount"}
    runs, expected = [], []
    for provider in providers:
        for model in rng.sample(provider.models, min(8, len(provider.models))):
            start = datetime(rng.choice([2024, 2025, 2026]), rng.randint(1, 12), rng.randint(1, 28), rng.randint(0, 23), tzinfo=UTC)
            read, creation = rng.randint(0, 9_000), rng.randint(0, 9_000)
            fresh, output = rng.choice([100, 40_000, 150_000, 300_000]), rng.randint(0, 9_000)
            run = {"provider": provider.id, "request_model": model.id, "start_time": start, "input_tokens": fresh + read + creation,
                   "output_tokens": output, "cache_read_input_tokens": read, "cache_creation_input_tokens": creation}  # fmt: skip
            found = PRICES._find(provider.id, model.id)
            if found is None:
                continue
            rates = found.get_prices(start)
            keys = {key for key, value in vars(rates).items() if value is not None}
            if not {"input_mtok", "output_mtok"} <= keys or keys - known - searches:
                continue
            usage = Usage(input_tokens=fresh + read + creation, output_tokens=output, cache_read_tokens=read, cache_write_tokens=creation)
            runs.append(run)
            expected.append(found.calc_price(usage, provider, genai_request_timestamp=start).total_price)
            assert isinstance(rates.input_mtok, Decimal | TieredPrices)
    assert len(runs) > 150
    priced = PRICES.price(table(*runs)).column("total_cost").to_pylist()
    wrong = [
        (run, ours, theirs)
        for run, ours, theirs in zip(runs, priced, expected, strict=True)
        if ours is None or abs(ours - theirs) > Decimal("1e-10")
    ]
    assert not wrong


def test_a_batch_gives_what_single_runs_give_and_parts_add_up() -> None:
    rng = random.Random(2)
    models = [
        ("openai", "gpt-4o"),
        ("anthropic", "claude-sonnet-4-5"),
        ("google", "gemini-2.5-pro"),
        ("openai", "nope"),
        (None, None),
        ("openai", "o3"),
    ]
    runs = []
    for _ in range(200):
        provider, model = rng.choice(models)
        read = rng.choice([None, 0, 500])
        runs.append(
            {
                "provider": provider,
                "request_model": model,
                "start_time": datetime(2025, rng.randint(5, 7), rng.randint(1, 28), tzinfo=UTC),
                "run_type": rng.choice(["llm", "llm", "chain", "embedding"]),
                "input_tokens": rng.choice([None, 1_000, 250_001]),
                "output_tokens": rng.choice([None, 0, 333]),
                "cache_read_input_tokens": read,
                "total_cost": rng.choice([None, None, None, Decimal("0.123456789012")]),
                "cache_hit": rng.choice([None, None, False, True]),
            }
        )
    batch = PriceBook().price(table(*runs)).select(COSTS).to_pylist()
    assert batch == [price(PriceBook(), **run) for run in runs]
    assert {row["cost_source"] for row in batch} == {"reported", "computed", "unpriced"}
    for row in batch:
        assert (row["cost_source"] == "unpriced") == (row["total_cost"] is None)
        if row["cost_source"] == "computed":
            assert row["input_cost"] + row["output_cost"] == row["total_cost"]


def test_amounts_are_exact() -> None:
    row = price(provider="openai", request_model="text-embedding-3-small", run_type="embedding", input_tokens=999_999_999)
    assert row["total_cost"] == Decimal("19.99999998")  # 999,999,999 × 0.02 / 10⁶
    book = PriceBook([PriceOverride("x", "m", date(2020, 1, 1), Decimal("0.000000333333"), Decimal(0))])
    assert price(book, provider="x", request_model="m", input_tokens=3, output_tokens=0)["total_cost"] == Decimal("0.000000000001")
    rows = PRICES.price(table(*[{"provider": "openai", "request_model": "gpt-4o", "input_tokens": 1, "output_tokens": 1}] * 1_000))
    assert sum(rows.column("total_cost").to_pylist()) == Decimal("0.0125")  # not 0.012500000000000242


def test_counts_that_were_not_normalised_are_refused() -> None:
    for wrong in ({"input_tokens": -1}, {"input_tokens": 2 * 10**9}, {"input_tokens": 5, "cache_read_input_tokens": 6}):
        with pytest.raises(ValueError, match="normalise first"):
            price(provider="openai", request_model="gpt-4o", output_tokens=1, **wrong)


def test_an_empty_table_is_fine() -> None:
    assert PRICES.price(table()).num_rows == 0
