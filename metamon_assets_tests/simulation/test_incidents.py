"""The calendar of planted problems, and that each does what it says."""

from collections import Counter
from datetime import date, timedelta

import numpy as np
import pytest

from metamon_assets.simulation import World
from metamon_assets.simulation.arrivals import day_number
from metamon_assets.simulation.changes import DAY, changes_between
from metamon_assets.simulation.incidents import Incident, incidents_between
from metamon_assets.simulation.truth import METRICS, sums
from metamon_assets.simulation.world import TOOLS

FIRST = date(2026, 8, 22)


def calendar(seed: int, first: date = FIRST, days: int = 90) -> tuple[Incident, ...]:
    start = day_number(first)
    return incidents_between(seed, start * DAY, (start + days) * DAY)


@pytest.mark.parametrize("seed", range(12))
def test_ninety_days_hold_some_24_problems_a_third_of_them_unnamed(seed: int) -> None:
    for first in (FIRST, FIRST + timedelta(days=37)):
        begun = [incident for incident in calendar(seed, first) if incident.start >= day_number(first) * DAY]
        assert 22 <= len(begun) <= 26
        unknown = [incident for incident in begun if incident.kind == "unknown"]
        assert len(unknown) / len(begun) >= 1 / 3
        assert len({incident.kind for incident in begun}) >= 10
        assert len({incident.mechanism for incident in unknown}) >= 5
        assert all(incident.fix is None for incident in unknown)


def test_other_seeds_have_other_calendars() -> None:
    slices = Counter(str(dict(incident.slice)) + incident.kind for seed in range(10) for incident in calendar(seed))
    assert len(slices) > 60
    starts = [tuple(incident.start for incident in calendar(seed)) for seed in range(10)]
    assert len(set(starts)) == 10


def test_the_calendar_does_not_depend_on_the_range_asked_for() -> None:
    whole = calendar(3)
    start = day_number(FIRST)
    for day in (0, 13, 45, 89):
        alone = incidents_between(3, (start + day) * DAY, (start + day + 1) * DAY)
        expected = [incident.id for incident in whole if incident.start < (start + day + 1) * DAY and incident.end > (start + day) * DAY]
        assert [incident.id for incident in alone] == expected


def rate(metric: str, total: dict[str, float]) -> float:
    numerator, denominator = METRICS[metric]
    return total[numerator] if denominator is None else total[numerator] / max(total[denominator], 1e-9)


@pytest.mark.parametrize("seed", [7, 8])
def test_every_problem_moves_what_it_names_in_its_slice(seed: int) -> None:
    world = World(seed, 8000)
    better_when_high = {"quality_score", "task_completion_rate", "cache_hit_rate", "output_tokens"}
    for incident in calendar(seed):
        day = date(1970, 1, 1) + timedelta(days=int((incident.start + incident.end) // 2 // DAY))
        real, other = world.flow(day), world.flow(day, frozenset({incident.id}))
        totals = []
        for flow in (real, other):
            met = incident.selects(incident.effects[0], flow.requests, flow.requests["time"])
            if incident.effects[0].cached:
                met &= flow.requests["cache_hit"] == 1
            totals.append(sums(flow, met, incident.where.get("tool")))
        if totals[1]["requests"] < 3:
            continue
        for metric in incident.metrics:
            after, before = rate(metric, totals[0]), rate(metric, totals[1])
            assert (after < before) if metric in better_when_high else (after > before), (incident.kind, incident.mechanism, metric)


def test_outcomes_in_a_slice_show_the_planted_size_and_outside_it_nothing() -> None:
    """Rates during and outside a problem, against the planted figures, within Monte-Carlo error."""
    shown = 0
    for seed in range(4):
        world = World(seed, 12_000)
        for incident in calendar(seed):
            effect = incident.effects[0]
            if effect.target not in ("failure", "degraded", "hung") or (incident.end - incident.start) > 3 * DAY:
                continue
            day = date(1970, 1, 1) + timedelta(days=int((incident.start + incident.end) // 2 // DAY))
            real, other = world.flow(day), world.flow(day, frozenset({incident.id}))
            met = incident.selects(effect, real.requests, real.requests["time"]) & (real.requests["cache_hit"] == 0)
            count = int(met.sum())
            if count < 200:
                continue
            outcome, probability = {"failure": ("error", "p_error"), "degraded": ("degraded", "p_degraded"), "hung": ("hung", "p_hung")}[
                effect.target
            ]
            before = other.requests[probability][met].mean()
            planted = before + effect.size * (1 - before)  # one more independent way to fail
            if effect.target != "degraded":  # degradation also needs success
                assert real.requests[probability][met].mean() == pytest.approx(planted, rel=1e-6)
            seen = real.requests[outcome][met].mean()
            expected = real.requests[probability][met].mean()
            assert abs(seen - expected) < 4 * np.sqrt(expected * (1 - expected) / count) + 2 / count
            assert seen - before > effect.size / 2
            outside = ~incident.selects(effect, real.requests, real.requests["time"])
            calm = other.requests[probability][outside].mean()
            assert abs(real.requests[outcome][outside].mean() - calm) < 4 * np.sqrt(calm / outside.sum()) + 1e-3
            shown += 1
    assert shown >= 4


def test_a_failing_tool_fails_as_often_as_planted() -> None:
    found = 0
    for seed in range(8):
        for incident in (incident for incident in calendar(seed) if incident.kind == "tool_errors"):
            world = World(seed, 10_000)
            day = date(1970, 1, 1) + timedelta(days=int((incident.start + incident.end) // 2 // DAY))
            flow = world.flow(day)
            calls = flow.calls
            during = (flow.requests["time"] >= incident.start) & (flow.requests["time"] < incident.end)
            tried = during[calls["request"]] & np.isin(calls["tool"], incident.where["tool"]) & (calls["attempt"] == 0)
            planted = 1 - (1 - TOOLS[incident.where["tool"][0]].failure) * (1 - incident.effects[0].size)
            if tried.sum() < 100:
                continue
            assert calls["p_failure"][tried] == pytest.approx(planted, abs=0.25)
            assert np.median(calls["p_failure"][tried]) == pytest.approx(planted)
            assert calls["failed"][tried].mean() == pytest.approx(planted, abs=4 * np.sqrt(planted * (1 - planted) / tried.sum()))
            found += 1
    assert found >= 2


def test_changes_are_of_every_sign_and_do_what_they_say() -> None:
    start = day_number(FIRST)
    signs = Counter(change.sign for seed in range(8) for change in changes_between(seed, start * DAY, (start + 90) * DAY))
    assert min(signs[sign] for sign in ("positive", "null", "negative", "mixed")) >= 20
    world = World(7, 4000)
    for change in changes_between(7, start * DAY, (start + 90) * DAY):
        day = date(1970, 1, 1) + timedelta(days=int(change.time // DAY + 1))
        real, other = world.flow(day), world.flow(day, frozenset({change.id}))
        chosen = real.requests["agent"] == change.agent
        for level, effect in enumerate(change.effects):
            probability = (None, None, "expected_quality", "p_completed", None, None)[level]
            if probability and effect and change.sign != "mixed":
                moved = real.requests[probability][chosen].mean() - other.requests[probability][chosen].mean()
                assert np.sign(moved) == np.sign(effect)
                assert abs(moved) == pytest.approx(abs(effect), rel=0.35)
        if change.sign == "null":
            assert all((real.requests[name] == other.requests[name]).all() for name in ("end", "p_error", "input_tokens", "model"))


def test_agents_never_drift_away() -> None:
    world = World(9, 3000)
    for year in range(3):
        flow = world.flow(date(2026 + 2 * year, 3, 3))
        assert 0.002 < flow.requests["p_error"].mean() < 0.15
        assert 0.7 < flow.requests["expected_quality"].mean() < 0.97
        assert 1 < np.median((flow.requests["end"] - flow.requests["time"]) / 1e6) < 8
