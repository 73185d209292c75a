"""Where agent, version, tenant, conversation and user are: by convention, by name, or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metamon_assets.onboarding.guess import IDENTITY, Guess, flattened, guess_identity, printable, words_of
from metamon_assets.onboarding.sampling import SampleError, sample_spans
from metamon_assets.traces.sources.langsmith_rows import DEFAULT_MAP


def found(runs: list[dict[str, Any]]) -> dict[str, Guess]:
    return {guess.column: guess for guess in guess_identity(runs, DEFAULT_MAP)}


def own(**metadata: Any) -> dict[str, Any]:
    return dict(flattened(metadata, "metadata."))


def test_an_applications_own_names() -> None:
    runs = [
        own(
            botName="helper", gitSha="ab12", customerId=f"c{n % 4}", chat=f"t{n // 3}", endUser=f"u{n % 9}", langchain_version="1.2", step=n
        )
        for n in range(60)
    ]
    guesses = found(runs)
    assert {column: guess.place for column, guess in guesses.items()} == {
        "agent_name": "metadata.botName",
        "agent_version": "metadata.gitSha",
        "tenant_id": "metadata.customerId",
        "conversation_id": "metadata.chat",
        "user_id": "metadata.endUser",
    }
    tenant = guesses["tenant_id"]
    assert (tenant.confidence, tenant.share, tenant.distinct, tenant.rule) == ("likely", 1.0, 4, "metadata.customerId")
    assert set(tenant.examples) <= {"c0", "c1", "c2", "c3"}


def test_a_convention_goes_before_a_better_sounding_name_and_needs_no_rule() -> None:
    runs = [own(tenant_id="a", customer=f"c{n % 3}") | {"thread_id": f"t{n}"} for n in range(30)]
    guesses = found(runs)
    assert (guesses["tenant_id"].place, guesses["tenant_id"].confidence, guesses["tenant_id"].rule) == (
        "metadata.tenant_id",
        "convention",
        None,
    )
    assert guesses["conversation_id"].place == "thread_id"


def test_the_recorded_run_of_langsmith(shared_data: Path) -> None:
    run = json.loads((shared_data / "langsmith/run_full_rest_2026-01.json").read_text())
    guesses = found([own(**run["extra"]["metadata"]) | {"thread_id": run["thread_id"]}])
    assert {column: guess.place for column, guess in guesses.items()} == {
        "agent_name": "metadata.graph_id",
        "agent_version": "metadata.revision_id",
        "tenant_id": None,
        "conversation_id": "thread_id",
        "user_id": "metadata.user_id",
    }
    assert all(guess.confidence == "convention" for guess in guesses.values() if guess.place)


def test_recorded_spans(shared_data: Path) -> None:
    sample = sample_spans(shared_data / "otlp")
    guesses = {guess.column: guess for guess in guess_identity(sample.spans, sample.conventions)}
    assert sample.services == ("support-agent",)
    assert guesses["agent_name"].examples == ("support-agent",)
    assert guesses["agent_version"].examples == ("1.4.0",)
    assert guesses["conversation_id"].share > 0.9
    assert guesses["tenant_id"].place is None
    with pytest.raises(SampleError, match="holds no spans"):
        sample_spans(shared_data / "otlp/frameworks")


@pytest.mark.parametrize(
    ("name", "values", "column", "why"),
    [
        ("agent_kind_agent", [f"a{n}" for n in range(60)], "agent_name", "many"),
        ("customer", [f"c{n}" for n in range(60)], "tenant_id", "every run has another value"),
        ("session", ["one"] * 60, "conversation_id", "same value"),
        ("client", ["a", *[None] * 59], "tenant_id", None),
        ("customer", ["a", "b"] * 10 + [None] * 40, "tenant_id", "33% of the runs"),
        ("crm_customer_ref", ["a", "b"] * 30, "tenant_id", "a part of its name"),
    ],
)
def test_what_only_the_name_speaks_for_is_not_used(name: str, values: list[Any], column: str, why: str | None) -> None:
    guess = found([own(**{name: value}) for value in values])[column]
    assert not guess.used
    assert guess.place is None if why is None else why in guess.remark


@pytest.mark.parametrize(
    "name", ["langchain_version", "sdkVersion", "user_prompt", "api_version", "session_length", "account_tier", "agent_url"]
)
def test_names_that_mean_something_else(name: str) -> None:
    guesses = found([own(**{name: f"v{n % 3}"}) for n in range(30)])
    assert not any(guess.place for guess in guesses.values())


def test_values_that_no_identifier_has() -> None:
    for value in (True, 0.5, "x" * 300, {"a": {"b": {"c": {"d": 1}}}}, ["a"]):
        assert not any(guess.place for guess in found([own(customer=value)] * 30).values()), value
    assert found([own(customer=7)] * 30)["tenant_id"].place == "metadata.customer"
    assert not any(guess.place for guess in found([]).values())


def test_examples_are_safe_to_show() -> None:
    assert printable("\x1b[2Jacme\r\nx") == "[2Jacme x"
    assert printable("a" * 100) == "a" * 39 + "…"
    assert printable("\u202egnp.exe") == "gnp.exe"
    assert printable("a\U00018d09b") == "a b", "a mark that is not assigned may be shown as anything"
    guess = found([own(user_email="jo@example.com")] * 3)["user_id"]
    assert "jo@example.com" not in str(guess)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.dictionaries(st.text(), st.none() | st.text() | st.integers() | st.floats() | st.booleans(), max_size=6), max_size=30))
def test_any_metadata_gives_guesses(runs: list[dict[str, Any]]) -> None:
    guesses = guess_identity(runs, DEFAULT_MAP)
    assert [guess.column for guess in guesses] == list(IDENTITY)
    assert all(0 <= guess.share <= 1 and all(example.isprintable() for example in guess.examples) for guess in guesses)


def test_names_are_taken_apart() -> None:
    assert words_of("customerId") == words_of("customer-id") == words_of("CUSTOMER_ID") == words_of("customer id") == ("customer", "id")
    assert words_of("HTTPStatus") == ("http", "status")
