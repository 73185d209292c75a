"""What happens to requests: sums, times, probabilities, and the same dice whatever is left out."""

from datetime import date, timedelta

import numpy as np
import pytest

from metamon_assets.simulation import World
from metamon_assets.simulation.traffic import Flow
from metamon_assets.simulation.world import LLM

DAY = date(2026, 9, 16)


@pytest.fixture(scope="module")
def flow() -> Flow:
    return World(11, 6000).flow(DAY)


def test_a_root_carries_the_sums_of_its_calls(flow: Flow) -> None:
    for name in ("input_tokens", "output_tokens", "cache_read", "input_cost", "output_cost"):
        sums = np.zeros(len(flow.requests["time"]), dtype=np.int64)
        np.add.at(sums, flow.calls["request"], flow.calls[name])
        assert (sums == flow.requests[name]).all()
        assert sums.sum() > 0
    calls = np.bincount(flow.calls["request"][flow.calls["kind"] == LLM], minlength=len(sums))
    assert (calls == flow.requests["llm_calls"]).all()
    missed = flow.requests["cache_hit"] == 0
    assert (flow.requests["llm_calls"][~missed] == 0).all()
    assert 3 < (np.bincount(flow.calls["request"], minlength=len(sums))).mean() < 6


def test_calls_lie_within_their_root_one_after_the_other(flow: Flow) -> None:
    owner = flow.calls["request"]
    assert (flow.calls["start"] >= flow.requests["time"][owner]).all()
    assert (flow.calls["end"] <= flow.requests["end"][owner]).all()
    assert (flow.calls["end"] > flow.calls["start"]).all()
    same = owner[1:] == owner[:-1]
    assert (flow.calls["start"][1:][same] >= flow.calls["end"][:-1][same]).all()
    answered = flow.requests["first_token"] > 0
    assert (flow.requests["first_token"][answered] > flow.requests["time"][answered]).all()
    assert (flow.requests["first_token"][answered] <= flow.requests["end"][answered]).all()


def test_a_call_that_fails_twice_is_the_last_of_its_request() -> None:
    flow = World(11, 20_000).flow(DAY)
    calls, owner = flow.calls, flow.calls["request"]
    last = np.append(owner[1:] != owner[:-1], True)
    assert not (calls["failed"] & (calls["attempt"] == 1) & ~last).any()
    taken_down = last & calls["failed"]
    assert taken_down.sum() > 30
    assert flow.requests["error"][owner[taken_down]].all()
    assert (calls["attempt"][taken_down] == 1).all()
    again = np.flatnonzero(calls["failed"] & (calls["attempt"] == 0))
    assert (calls["attempt"][again + 1] == 1).all()
    assert (calls["kind"][again + 1] == calls["kind"][again]).all()


def test_cached_and_reasoning_tokens_are_parts(flow: Flow) -> None:
    calls = flow.calls
    assert (calls["cache_read"] + calls["cache_write"] <= calls["input_tokens"]).all()
    assert (calls["reasoning"] <= calls["output_tokens"]).all()
    assert (calls["cache_read"] > 0).sum() > 100
    assert (calls["cache_write"] > 0).sum() > 100
    assert (calls["reasoning"] > 0).sum() > 100


def test_outcomes_come_as_often_as_their_probabilities_say() -> None:
    world = World(12, 3000)
    flows = [world.flow(DAY + timedelta(days=day)) for day in range(20)]
    for outcome, probability in (
        ("error", "p_error"),
        ("degraded", "p_degraded"),
        ("completed", "p_completed"),
        ("cache_hit", "p_cache"),
        ("hung", "p_hung"),
    ):
        happened = sum(float(flow.requests[outcome].sum()) for flow in flows)
        expected = sum(float(flow.requests[probability].sum()) for flow in flows)
        variance = sum(float((flow.requests[probability] * (1 - flow.requests[probability])).sum()) for flow in flows)
        assert abs(happened - expected) < 4 * np.sqrt(variance) + 1, outcome
    success = [~flow.requests["error"] for flow in flows]
    quality = np.concatenate([flow.requests["quality"][good] for flow, good in zip(flows, success, strict=True)])
    expected_quality = np.concatenate([flow.requests["expected_quality"][good] for flow, good in zip(flows, success, strict=True)])
    assert quality.mean() == pytest.approx(expected_quality.mean(), abs=4 * quality.std() / np.sqrt(len(quality)))


def test_leaving_a_problem_out_changes_nothing_else() -> None:
    world = World(7, 3000)
    tried = 0
    for number in range(40):
        day = DAY + timedelta(days=number)
        real = world.flow(day)
        for incident in real.incidents:
            other = world.flow(day, frozenset({incident.id}))
            base = min(len(real.requests["time"]), len(other.requests["time"]))
            assert (real.requests["time"][:base] == other.requests["time"][:base]).all()
            met = np.zeros(len(real.requests["time"]), dtype=bool)
            for effect in incident.effects:
                met |= incident.selects(effect, real.requests, real.requests["time"])
            untouched = np.flatnonzero(~met[:base])
            for name in ("error", "end", "input_tokens", "first_token", "model", "p_error", "p_completed"):
                assert (real.requests[name][untouched] == other.requests[name][untouched]).all(), (incident.kind, name)
            tried += 1
    assert tried > 20
