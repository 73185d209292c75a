"""When requests come: seasons, bursts, conversations."""

from datetime import date, timedelta

import numpy as np
import pytest

from metamon_assets.simulation.arrivals import day_number, expected_rate, requests_of
from metamon_assets.simulation.changes import DAY
from metamon_assets.simulation.incidents import HOUR
from metamon_assets.simulation.world import AGENTS, cast

START = day_number(date(2026, 6, 1))  # a Monday


@pytest.fixture(scope="module")
def eight_weeks() -> np.ndarray:
    """Requests in each hour of 56 days without incidents: (days, 24)."""
    hours = [requests_of(cast(5), START + day, 2000, ())["time"] % DAY // HOUR for day in range(56)]
    return np.array([np.bincount(hour, minlength=24) for hour in hours])


def test_the_world_has_the_size_that_was_asked_for(eight_weeks: np.ndarray) -> None:
    assert eight_weeks.sum(axis=1).mean() == pytest.approx(2000, rel=0.04)


def test_days_and_weeks_have_their_seasons(eight_weeks: np.ndarray) -> None:
    by_hour = eight_weeks.mean(axis=0)
    assert 1.6 < by_hour.max() / by_hour.min() < 5
    by_weekday = eight_weeks.sum(axis=1).reshape(8, 7).mean(axis=0)
    assert by_weekday[5:].mean() / by_weekday[:5].mean() == pytest.approx(0.72 / 1.112, rel=0.08)


def test_tenants_follow_zipf_and_agents_their_shares() -> None:
    people = cast(5)
    requests = [requests_of(people, START + day, 4000, ()) for day in range(14)]
    tenants = np.bincount(np.concatenate([request["tenant"] for request in requests]), minlength=len(people.tenants))
    assert tenants / tenants.sum() == pytest.approx(people.tenant_share, abs=0.03)
    assert 12 <= len(people.tenants) <= 20
    agents = np.bincount(np.concatenate([request["agent"] for request in requests]), minlength=len(AGENTS))
    assert agents / agents.sum() == pytest.approx([agent.share for agent in AGENTS], abs=0.02)


def test_conversations_have_turns_in_order_and_run_past_midnight() -> None:
    today, tomorrow = (requests_of(cast(5), START + day, 4000, ()) for day in (0, 1))
    assert ((today["time"] >= START * DAY) & (today["time"] < (START + 1) * DAY)).all()
    order = np.lexsort((today["turn"], today["id"]))
    same = np.diff(today["id"][order]) == 0
    assert same.mean() > 0.3
    assert (np.diff(today["time"][order])[same] > 0).all()
    assert (np.diff(today["turn"][order])[same] == 1).all()
    spanning = np.intersect1d(today["id"], tomorrow["id"])
    assert len(spanning) > 0
    first = tomorrow["turn"][tomorrow["id"] == spanning[0]].min()
    assert first == today["turn"][today["id"] == spanning[0]].max() + 1


def test_a_user_keeps_one_language_and_comes_back() -> None:
    requests = requests_of(cast(5), START, 8000, ())
    person = requests["tenant"] * 100_000 + requests["user"]
    pairs = np.unique(person * 10 + requests["language"])
    assert len(pairs) == len(np.unique(person))
    conversations = np.unique(np.stack([person, requests["id"]]), axis=1)[0]
    assert np.bincount(np.unique(conversations, return_inverse=True)[1]).max() > 3


def test_rates_wander_from_window_to_window() -> None:
    rates = np.array([expected_rate(cast(5), START + 7 * week + 1, 2000).sum(axis=0) for week in range(40)])
    residual = np.log(rates / rates.mean(axis=0) / rates.mean(axis=1, keepdims=True) * rates.mean())
    assert 0.15 < residual.std() < 0.6
    assert np.mean([np.corrcoef(row[1:], row[:-1])[0, 1] for row in residual]) > 0.5
    assert timedelta(days=1).total_seconds() * 1e6 == DAY
