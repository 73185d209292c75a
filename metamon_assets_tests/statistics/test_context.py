from __future__ import annotations

import itertools
import json
import math
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metamon_assets.statistics import context
from metamon_assets.statistics.context import LEARNING, MAX_CELLS, PERIOD, ContextModel

DAY = 288


def scores(values: list[float], model: ContextModel | None = None) -> list[float]:
    model = model or ContextModel()
    return [model.update(value) for value in values]


def traffic(days: int, seed: int, noise: float = 0.05) -> list[float]:
    """A daily cycle with multiplicative noise."""
    source = random.Random(seed)
    return [(200 - 100 * math.cos(2 * math.pi * t / DAY)) * math.exp(source.gauss(0, noise)) for t in range(days * DAY)]


def excursions(values: list[float], threshold: float, start: int) -> int:
    """Alerts at or above the threshold from ``start`` on; those within six hours of the one before are the same excursion."""
    alerts = [t for t, value in enumerate(values) if t >= start and value >= threshold]
    return sum(1 for before, now in zip([-DAY, *alerts], alerts, strict=False) if now - before > 72)


def test_a_healthy_cycle_is_expected_and_says_so() -> None:
    false_alarms = sum(excursions(scores(traffic(14, seed)), 0.7, 2 * DAY) for seed in range(5))
    assert false_alarms <= 5  # .08 per series-day; the generator's mean is lower


def test_a_value_of_the_usual_range_in_the_wrong_place_is_noticed() -> None:
    noticed = 0
    for seed in range(5):
        values = traffic(8, seed)
        start = 7 * DAY + DAY // 2  # at the peak
        values[start : start + 3] = [110.0, 108.0, 112.0]  # as at every trough
        noticed += max(scores(values)[start : start + 6]) >= 0.7
    assert noticed == 5


def test_a_stuck_value_in_the_middle_of_the_range_is_noticed() -> None:
    noticed = 0
    for seed in range(5):
        values = traffic(8, seed)
        start = 7 * DAY + DAY // 4
        values[start : start + 60] = [values[start]] * 60
        noticed += max(scores(values)[start : start + 60]) >= 0.65
    assert noticed >= 4


def test_an_excursion_alerts_once_and_becomes_normal() -> None:
    values = traffic(12, 3)
    first, second = 6 * DAY + 100, 7 * DAY + 100
    for start in (first, second):
        values[start : start + 40] = [900.0 * value / 200 for value in values[start : start + 40]]
    result = scores(values)
    assert max(result[first : first + 3]) > 0.9
    assert max(result[first + 5 : first + 40]) < 0.6
    assert max(result[second : second + 3]) < 0.7


def test_what_does_not_return_is_forgotten() -> None:
    model = ContextModel()
    scores([0.0, 1.0, 2.0, 3.0] * 400 + [2.0, 0.0, 0.0], model)
    followed = len(model.state["followed"])
    scores([0.0, 1.0, 2.0, 3.0] * PERIOD, model)
    assert len(model.state["followed"]) < followed
    assert all(count >= 1 for _, count in model.state["followed"])


def test_farther_is_never_less_surprising() -> None:
    model = ContextModel()
    scores(traffic(6, 1), model)
    far = [model.peek(10.0**exponent) for exponent in (2.6, 2.8, 3.0, 3.3, 4.0, 6.0, 300.0)]
    assert far == sorted(far)
    assert far[-1] == 1.0


@pytest.mark.parametrize("constant", [0.0, 5.0, -0.1, 1e300, 5e-324])
def test_a_constant_series_is_never_surprising_and_leaving_it_is(constant: float) -> None:
    model = ContextModel()
    assert scores([constant] * 5000, model) == [0.0] * 5000
    assert model.peek(constant + max(1.0, abs(constant) / 1e3)) > 0.9
    assert model.peek(constant - max(1.0, abs(constant) / 1e3)) > 0.9


def test_it_says_nothing_while_it_learns() -> None:
    source = random.Random(0)
    assert scores([source.gauss(0, 1) ** 3 for _ in range(LEARNING)]) == [0.0] * LEARNING


@pytest.mark.parametrize("skipped", [math.nan, math.inf, -math.inf, None])
def test_missing_and_infinite_values_are_skipped(skipped: float | None) -> None:
    values = traffic(2, 5)
    model, whole = ContextModel(), ContextModel()
    result = []
    for value in values:
        assert model.update(skipped) == 0.0
        result.append(model.update(value))
    assert model.peek(skipped) == 0.0
    assert result == scores(values, whole)
    assert model.state == whole.state


def test_a_peek_tells_the_next_score_and_learns_nothing() -> None:
    model = ContextModel()
    for value in traffic(4, 2, noise=0.3):
        before = model.state
        peeked = model.peek(value)
        assert model.state == before
        assert model.update(value) == peeked


def test_the_largest_numbers_do_not_break_it() -> None:
    source = random.Random(1)
    model = ContextModel()
    for _ in range(2000):
        score = model.update(source.choice([-1.7e308, 1.7e308, 5e-324, 0.0, source.uniform(-1, 1)]))
        assert 0 <= score <= 1
    json.dumps(model.state, allow_nan=False)


def test_memory_and_state_stay_bounded_on_the_least_regular_series() -> None:
    source = random.Random(2)
    model = ContextModel()
    largest = 0
    for t in range(12_000):
        model.update(source.uniform(-1, 1) if source.random() < 0.88 else source.choice([-1, 1]) * math.exp(source.uniform(0, 6)))
        if t % 100 == 0:
            largest = max(largest, len(model.state["followed"]))
    assert MAX_CELLS / 2 < largest <= MAX_CELLS
    assert len(json.dumps(model.state)) < 14_000


def test_a_full_memory_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "MAX_CELLS", 30)
    source = random.Random(3)
    model = ContextModel()
    for _ in range(1000):
        model.update(source.gauss(0, 1))
        assert len(model.state["followed"]) <= 30


def test_one_surprise_raises_the_extreme_and_time_lowers_it() -> None:
    model = ContextModel()
    scores([1.0, 2.0] * 500, model)
    before = model.state["extremes"]
    assert model.update(1e9) == 1.0
    after = model.state["extremes"]
    assert after[0] == 2 * before[0]  # more bits than that are not believed at once
    scores([1.0, 2.0] * 2500, model)
    assert model.state["extremes"][0] == pytest.approx(after[0] * 0.9998**5000, rel=0.01)


def test_a_small_surprise_is_never_held_against_a_smaller_extreme() -> None:
    model = ContextModel()
    scores(traffic(3, 9), model)
    low, smallest = (ContextModel({**model.state, "extremes": [extreme] * 2}) for extreme in (0.5, 4.0))
    assert [low.peek(value) for value in (90.0, 110.0, 130.0)] == [smallest.peek(value) for value in (90.0, 110.0, 130.0)]


def test_a_stuck_spell_is_remembered_and_forgotten() -> None:
    values = traffic(30, 10)
    values[1000:1100] = [values[1000]] * 100
    model = ContextModel()
    scores(values[:1100], model)
    quietest = min(symbol for symbol, _ in model.state["roughness_counts"] if symbol > 1)  # 1: before the second value
    scores(values[1100:], model)
    assert min(symbol for symbol, _ in model.state["roughness_counts"]) > quietest + 4


def test_flat_with_rare_spikes_knows_a_usual_spike_from_a_giant() -> None:
    model = ContextModel()
    scores([6.0 if t % 50 == 0 else 5.0 for t in range(4000)], model)
    unclipped = ContextModel({**model.state, "extremes": [32.0, 1e9]})
    assert unclipped.peek(5.0) < unclipped.peek(6.0) < unclipped.peek(8.0) < unclipped.peek(600.0) < 1


def test_a_usual_state_is_small() -> None:
    model = ContextModel()
    scores(traffic(20, 4), model)
    assert len(json.dumps(model.state, separators=(",", ":"))) < 6_000


@given(st.lists(st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0, 2.0]), min_size=1, max_size=60), st.integers(1, 700), st.randoms())
@settings(max_examples=20, deadline=None)
def test_a_stored_state_goes_on_to_the_last_bit(pattern: list[float], stop: int, source: random.Random) -> None:
    values = [source.choice(pattern) for _ in range(1400)]
    model = ContextModel()
    scores(values[:stop], model)
    text = json.dumps(model.state, allow_nan=False)
    again = ContextModel(json.loads(text))
    assert scores(values[stop:], again) == scores(values[stop:], model)
    assert again.state == model.state


@given(st.integers(-20, 20), st.integers(-(2**20), 2**20), st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_scale_and_shift_do_not_matter(exponent: int, shift: int, seed: int) -> None:
    """Powers of two and whole numbers, so that the arithmetic is exact and the scores must be equal."""
    source = random.Random(seed)
    values = [float(source.randint(0, 100) * (5 if source.random() < 0.01 else 1)) for _ in range(1000)]
    assert scores([2.0**exponent * (value + shift) for value in values]) == scores(values)


def test_another_scale_gives_nearly_the_same_scores() -> None:
    values = traffic(6, 8)
    pairs = zip(scores(values), scores([0.37 * value - 11 for value in values]), strict=True)
    assert sum(abs(one - other) > 1e-6 for one, other in pairs) < 5  # a value on the edge of two symbols may change sides


def share(counted: list[tuple[float, int]], symbol: int) -> float:
    """The smoothed share of a symbol among weighted ones: half on itself, a quarter on each neighbour."""
    return sum(weight * {0: 0.5, 1: 0.25}.get(abs(other - symbol), 0.0) for weight, other in counted)


def order_0(symbols: list[int], symbol: int) -> float:
    counted = [(1.0, other) for other in symbols]
    distance = max(min(abs(other - symbol) for other in symbols) - 1, 0)
    return (share(counted, symbol) + 2 ** -(5 + 0.7 * min(distance, 12))) / (len(symbols) + 1)


def test_scores_are_those_of_the_formula_counted_by_hand() -> None:
    """Whole numbers whose usual range is 0 to 8 throughout: the symbols are known, all else is counted from the list of values."""
    source = random.Random(7)
    values = [0, 8] * 10 + source.choices(range(9), weights=[4, 1, 2, 1, 1, 1, 1, 2, 4], k=LEARNING - 20)
    model = ContextModel()
    scores([float(value) for value in values], model)
    symbols = [31, 61] + [27 + value for value in values[2:]]  # the first two, before there is a range: centre, end
    roughness, levels = 0.0, [1, 61]
    for before, now in itertools.pairwise(values):
        roughness += (abs(now - before) - roughness) / 12
        levels.append(31 + math.floor(2 * math.log2(roughness / 4) + 0.5))
    del levels[2]  # the second is the end, not its number
    weights = {0: 1.0, 1: 0.5}
    followed = [(weights.get(abs(a - symbols[-1]), 0.0), b) for a, b in zip([31, *symbols], symbols, strict=False)]
    for value in (*range(9), 9, 12, -30):
        symbol = 27 + value
        if abs(value - 4) > 4:
            symbol = 31 + math.floor(4 * math.copysign(1 + math.log(abs(value - 4) / 4), value - 4) + 0.5)
        in_context = (share(followed, symbol) + order_0(symbols, symbol)) / (sum(weight for weight, _ in followed) + 1)
        changed = roughness + (abs(value - values[-1]) - roughness) / 12
        level = 31 + math.floor(2 * math.log2(changed / 4) + 0.5)
        value_bits, roughness_bits = -math.log2(in_context), -math.log2(order_0(levels, level))
        for extremes in ([8.0, 8.0], [32.0, 1e9], [1e9, 32.0]):  # as it is; the value alone; the roughness alone
            score = max(value_bits / extremes[0], roughness_bits / extremes[1]) / 2
            assert ContextModel({**model.state, "extremes": extremes}).peek(float(value)) == pytest.approx(min(score, 1), rel=1e-9)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_the_state_of_another_version_is_refused(version: object) -> None:
    with pytest.raises(ValueError, match=f"state has version {version!r}"):
        ContextModel({**ContextModel().state, "version": version})


def test_an_update_takes_microseconds() -> None:
    values = traffic(20, 6)
    model = ContextModel()
    best = math.inf
    for day in range(20):
        start = time.process_time()
        scores(values[day * DAY : (day + 1) * DAY], model)
        best = min(best, (time.process_time() - start) / DAY)
    assert best < 30e-6  # some 6 µs on an idle core
