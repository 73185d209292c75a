from __future__ import annotations

import itertools
import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from metamon_assets.statistics import anomaly
from metamon_assets.statistics.anomaly import (
    BLOCK_RECORDS,
    CONTEXT_USUAL,
    CONTEXT_WEIGHT,
    HOLD,
    MEMORY,
    NOTICE,
    RELEASE,
    WARNING,
    AnomalyScore,
    Detector,
    _Excursion,
    _Side,
    score,
)
from metamon_assets_tests.statistics import scorers

DAY = 288
START = datetime(2026, 3, 2, tzinfo=UTC)
TOLD = NOTICE / (NOTICE + WARNING)


def clock(n: int, minutes: float = 5) -> list[datetime]:
    return [START + timedelta(minutes=minutes * i) for i in range(n)]


def traffic(days: int, seed: int, per_day: int = DAY) -> list[float]:
    source = random.Random(seed)
    return [(200 - 100 * math.cos(2 * math.pi * t / per_day)) * math.exp(source.gauss(0, 0.05)) for t in range(days * per_day)]


def noise(days: int, seed: int) -> list[float]:
    source = random.Random(seed)
    return [50 + 5 * source.gauss(0, 1) for _ in range(days * DAY)]


def latency(days: int, seed: int) -> list[float]:
    source = random.Random(seed)
    return [1.2 * math.exp(source.gauss(0, 0.3)) for _ in range(days * DAY)]


def counts(days: int, seed: int) -> list[float]:
    source = random.Random(seed)
    return [float(sum(source.random() < 0.3 for _ in range(20))) for _ in range(days * DAY)]


def walk(days: int, seed: int) -> list[float]:
    source, values, level = random.Random(seed), [], 0.0
    for _ in range(days * DAY):
        level = 0.998 * level + source.gauss(0, 1)
        values.append(300 + level)
    return values


SERIES: dict[str, Callable[[int, int], list[float]]] = {f.__name__: f for f in (traffic, noise, latency, counts, walk)}


def verdicts(values: Sequence[float | None], detector: Detector | None = None, minutes: float = 5) -> list[AnomalyScore]:
    detector = detector or Detector()
    return [detector.update(t, v) for t, v in zip(clock(len(values), minutes), values, strict=True)]


def told(values: Sequence[float | None], minutes: float = 5) -> list[int]:
    return [i for i, verdict in enumerate(verdicts(values, minutes=minutes)) if verdict.score >= TOLD]


# What it is: causal, the same loop for all, one that can rest.


@pytest.mark.parametrize("name", SERIES)
def test_the_future_changes_nothing(name: str) -> None:
    values = SERIES[name](7, 1)
    scores = score(clock(len(values)), values)
    assert len(scores) == len(values)
    assert all(0 <= s <= 1 for s in scores)
    for cut in (700, 1111, 1700):
        assert score(clock(cut), values[:cut]) == scores[:cut]
        replaced = values[:cut] + [9999.0] * (len(values) - cut)
        assert score(clock(len(values)), replaced)[:cut] == scores[:cut]


def test_score_is_the_loop_over_update() -> None:
    values = traffic(6, 2)
    values[1500:1530] = [10.0] * 30
    assert score(clock(len(values)), values) == [verdict.score for verdict in verdicts(values)]


def test_score_refuses_different_lengths() -> None:
    with pytest.raises(ValueError, match="shorter"):
        score(clock(3), [1.0, 2.0])


@pytest.mark.parametrize("name", SERIES)
def test_it_goes_on_from_its_state_to_the_last_bit(name: str) -> None:
    values: list[float | None] = list(SERIES[name](6, 3))
    values[1200:1230] = [1.0] * 30  # the last cut lies within an excursion
    values[1300] = None
    whole, detector, resumed = verdicts(values), Detector(), []
    for i, (timestamp, value) in enumerate(zip(clock(len(values)), values, strict=True)):
        if i in {0, 1, 5, 13, 200, 777, 1215, 1600}:
            detector = Detector(json.loads(json.dumps(detector.state, allow_nan=False)))
        resumed.append(detector.update(timestamp, value))
    assert resumed == whole


def test_a_state_of_another_version_is_refused() -> None:
    state = Detector().state
    with pytest.raises(ValueError, match="state"):
        Detector(state | {"version": 99})
    with pytest.raises(ValueError, match="state"):
        Detector({})


def test_a_state_is_a_copy() -> None:
    detector = Detector()
    verdicts(noise(2, 1), detector)
    before = detector.state
    kept = json.dumps(before)
    detector.update(START + timedelta(days=3), 5.0)
    assert json.dumps(before) == kept
    Detector(before).update(START + timedelta(days=3), 5.0)
    assert json.dumps(before) == kept


def test_peek_says_what_update_will_and_leaves_no_trace() -> None:
    values = traffic(5, 4)
    values[1000:1100] = [450.0] * 100
    detector = Detector()
    for i, (timestamp, value) in enumerate(zip(clock(len(values)), values, strict=True)):
        if i % 7 == 0 or 995 < i < 1105:
            before = json.dumps(detector.state)
            detector.peek(timestamp, 1e9)
            verdict = detector.peek(timestamp, value)
            assert json.dumps(detector.state) == before
            assert detector.update(timestamp, value) == verdict
        else:
            detector.update(timestamp, value)


def test_the_state_stays_small() -> None:
    source, detector, sizes = random.Random(5), Detector(), []
    for i in range(50_000):
        detector.update(START + timedelta(minutes=5 * i), source.gauss(100, 30) * (1 + i % 3))
        if i % 10_000 == 9_999:
            sizes.append(len(json.dumps(detector.state)))
    assert max(sizes) < 32_000
    assert sizes[-1] < 1.1 * sizes[1]


def test_an_update_is_fast_enough() -> None:
    values, times = traffic(7, 6), clock(7 * DAY)
    best = math.inf
    for _ in range(3):
        detector, start = Detector(), time.process_time()
        for timestamp, value in zip(times, values, strict=True):
            detector.update(timestamp, value)
        best = min(best, time.process_time() - start)
    assert best / len(values) < 150e-6


def test_it_loads_the_standard_library_only() -> None:
    code = "import sys, metamon_assets.statistics.anomaly; print({'numpy', 'scipy', 'pandas', 'statsmodels'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# How rare: the severity against the closed form.


def test_the_severity_is_the_return_period() -> None:
    """Blocks of exponential values: the level that one block in a thousand exceeds is known."""
    source, per_block, severities = random.Random(7), 12, []
    level = -math.log(1 - (1 - 1e-3) ** (1 / per_block))
    for _ in range(300):
        side = _Side()
        for _ in range(MEMORY):
            side.append(max(source.expovariate(1) for _ in range(per_block)))
        side.fit(1e-9)
        severities.append(side.severity(level))
    assert sum(severities) / len(severities) == pytest.approx(3.0, abs=0.15)


def test_the_severity_of_what_was_seen_before_is_its_rank() -> None:
    side = _Side()
    for extreme in range(1, 101):
        side.append(float((37 * extreme) % 101))  # 1 to 100 in some order
    side.fit(1e-9)
    for reached in (1, 5, 20):
        assert side.severity(100.5 - reached) == pytest.approx(-math.log10((reached + 0.5) / 101))
    assert side.near == pytest.approx(75)


def test_the_records_of_a_trend_are_not_rare() -> None:
    steady, trend = _Side(), _Side()
    for i in range(100):
        steady.append(float((37 * i) % 101))
        trend.append(float(i))
    steady.fit(1e-9)
    trend.fit(1e-9)
    assert steady.severity(100.5) > 2.2
    assert trend.severity(100.0) < 0.5


def test_the_limit_is_where_a_warning_starts() -> None:
    source, side = random.Random(8), _Side()
    for _ in range(100):
        side.append(source.gauss(0, 1))
    side.fit(1e-9)
    assert side.severity(side.limit * (1 + 1e-9)) == pytest.approx(WARNING, abs=1e-6)


def test_values_within_the_band_give_no_warning_by_level_or_season() -> None:
    detector = Detector()
    values = traffic(10, 9)
    verdicts(values, detector)
    now = START + timedelta(days=10)
    verdict = detector.peek(now, values[-1])
    assert verdict.lower is not None and verdict.upper is not None and verdict.expected is not None
    assert verdict.expected == pytest.approx(100, rel=0.15)  # it is midnight; at noon, 300 ± 5 % are usual
    assert 30 < verdict.lower < 70
    assert 130 < verdict.upper < 200
    assert detector.peek(now, verdict.upper + 60).level == "warning"
    assert detector.peek(now, verdict.lower - 60).level == "warning"


# What it finds.


def _planted(kind: str, values: list[float], at: int, source: random.Random) -> int:
    """Plant an anomaly; gives how long it lasts."""
    if kind == "spike":
        values[at : at + 2] = [2.2 * value for value in values[at : at + 2]]
        return 2
    if kind == "dip":
        values[at : at + 3] = [0.2 * value for value in values[at : at + 3]]
        return 3
    if kind == "missing cycle":
        values[at : at + DAY] = [100 * math.exp(source.gauss(0, 0.05)) for _ in range(DAY)]
        return DAY
    length = 100
    part = values[at : at + length]
    changed = {
        "level shift": lambda i: 1.5 * part[i],
        "spread": lambda i: part[i] * math.exp(source.gauss(0, 0.25)),
        "flat middle": lambda i: part[0],
        "ramp": lambda i: part[i] * (1 + 0.012 * i),
        "burst": lambda i: part[i] + 80 * source.random(),
        "denser spikes": lambda i: part[i] * (1.6 if source.random() < 0.2 else 1),
        "outage": lambda i: 0.0,
    }[kind]
    values[at : at + length] = [changed(i) for i in range(length)]
    return length


KINDS = ("spike", "dip", "missing cycle", "level shift", "spread", "flat middle", "ramp", "burst", "denser spikes", "outage")


@pytest.mark.parametrize("kind", KINDS)
def test_it_finds_what_is_planted(kind: str) -> None:
    found = 0
    for seed in range(4):
        values = traffic(9, seed)
        at = 7 * DAY + 100 + 20 * seed
        length = _planted(kind, values, at, random.Random(seed))
        found += any(at <= i <= at + length + 12 for i in told(values))
    assert found >= 3


def test_it_names_the_channel() -> None:
    values = noise(5, 1)
    values[1000] = 150.0
    spike = verdicts(values)[1000]
    assert {"level", "jump", "season"} <= set(spike.reasons)
    values = noise(5, 1)
    values[1000:1060] = [values[1000]] * 60
    assert any("spread" in verdict.reasons for verdict in verdicts(values)[1000:1060])


def test_healthy_series_are_quiet() -> None:
    days = warnings = critical = news = 0
    for generate in SERIES.values():
        for seed in range(3):
            levels = [(verdict.level, verdict.score) for verdict in verdicts(generate(14, 100 + seed))]
            days += 14
            news += sum(s >= TOLD for _, s in levels)
            warnings += sum(now == "warning" != before for (before, _), (now, _) in itertools.pairwise(levels))
            critical += sum(level == "critical" for level, _ in levels)
    assert 0.02 < news / days < 0.4  # a thousandth of 24 blocks a day and ten sides, which are not independent
    assert warnings / days < 0.1
    assert critical == 0


def test_an_excursion_is_told_once() -> None:
    values = noise(8, 2)
    values[1500:1700] = [value + 60 for value in values[1500:1700]]
    alerts = [i for i in told(values) if i >= 1500]
    assert alerts[0] == 1500
    assert sum(i < 1700 for i in alerts) <= 2  # once, and at most once more as the mean of the day escalates
    levels = [verdict.level for verdict in verdicts(values)]
    assert levels[1500] == "warning"
    assert "critical" in levels[1502:1520]  # it lasts, and the context agrees


def test_it_is_told_again_when_it_escalates() -> None:
    values = noise(8, 3)
    values[1500:1520] = [value + 25 for value in values[1500:1520]]
    values[1520:1540] = [value + 400 for value in values[1520:1540]]
    alerts = [i for i in told(values) if 1500 <= i < 1540]
    assert 1520 in alerts
    assert min(alerts) < 1505


def test_a_single_spike_is_never_critical() -> None:
    for seed in range(3):
        values = latency(6, seed)
        values[1400] = 500.0
        after = verdicts(values)
        assert after[1400].level == "warning"
        assert {verdict.level for verdict in after[1401:]} <= {"warning", "normal"}
        assert after[-1].level == "normal"


def test_the_context_corroborates_and_finds_nothing_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    values = traffic(9, 14)
    at = 7 * DAY + DAY // 2
    values[at : at + 6] = [170.0] * 6  # usual in the morning, not at noon
    with_context = verdicts(values)[at]
    monkeypatch.setattr(anomaly, "CONTEXT_WEIGHT", 0.0)
    without = verdicts(values)[at]
    assert "context" in with_context.reasons
    assert with_context.score > without.score > 0
    assert (1 - CONTEXT_USUAL) * CONTEXT_WEIGHT < NOTICE


def test_critical_needs_all_three() -> None:
    """Severity, persistence, and the context."""

    def level(severity: float, records: int, *, own: bool = True, agreed: bool = True) -> str:
        excursion = _Excursion()
        for _ in range(records):
            _, excursion = excursion.follow(severity, own=own, agreed=agreed)
        return excursion.level

    assert level(6.5, 3) == "critical"
    assert level(5.5, 3) == level(6.5, 2) == level(6.5, 3, own=False) == level(6.5, 3, agreed=False) == "warning"
    assert level(3.9, 3) == "normal"


def test_the_level_ends_soon_and_the_excursion_later() -> None:
    _, excursion = _Excursion().follow(5.0, own=True, agreed=True)
    levels = []
    for _ in range(HOLD - 1):
        news, excursion = excursion.follow(1.0, own=False, agreed=False)
        assert news == 0
        levels.append(excursion.level)
    assert levels == ["warning"] * (RELEASE - 1) + ["normal"] * (HOLD - RELEASE)
    assert excursion.follow(5.0, own=True, agreed=True)[0] == 0  # the same excursion
    _, over = excursion.follow(1.0, own=False, agreed=False)
    assert over.follow(5.0, own=True, agreed=True)[0] > 0.5


# What it bears.


def test_nothing_is_said_while_it_learns() -> None:
    values = [1.0, 1e6, -1e6] * 60
    for verdict in verdicts(values):
        assert (verdict.score, verdict.level, verdict.expected, verdict.lower, verdict.upper) == (0.0, "normal", None, None, None)
        assert verdict.reasons == ("learning",)


@pytest.mark.parametrize("missing", [None, math.nan, math.inf, -math.inf, 2e300])
def test_missing_values_change_nothing(missing: float | None) -> None:
    detector = Detector()
    verdicts(noise(3, 4), detector)
    before = json.dumps(detector.state)
    verdict = detector.update(START + timedelta(days=3), missing)
    assert (verdict.score, verdict.level, verdict.reasons) == (0.0, "normal", ("missing",))
    assert detector.peek(START + timedelta(days=3), missing) == verdict
    assert json.dumps(detector.state) == before


@pytest.mark.parametrize("back", [timedelta(0), timedelta(minutes=5), timedelta(hours=24)])
def test_duplicate_and_late_timestamps_change_nothing(back: timedelta) -> None:
    detector = Detector()
    verdicts(noise(3, 5), detector)
    before, last = json.dumps(detector.state), clock(3 * DAY)[-1]
    verdict = detector.update(last - back, 1e9)
    assert (verdict.score, verdict.reasons) == (0.0, ("late",))
    assert json.dumps(detector.state) == before


def test_a_clock_that_was_set_back_does_not_make_it_deaf() -> None:
    detector = Detector()
    verdicts(noise(4, 6), detector)
    values = noise(1, 7)
    again = [detector.update(START - timedelta(days=30) + timedelta(minutes=5 * i), value) for i, value in enumerate(values)]
    assert "gap" in again[0].reasons
    assert sum(verdict.score >= TOLD for verdict in again) <= 1
    assert detector.update(START - timedelta(days=29), 200.0).level == "warning"


def test_a_gap_is_no_jump() -> None:
    detector = Detector()
    values = [300 - 100 * math.cos(2 * math.pi * t / (7 * DAY)) for t in range(10 * DAY)]  # moves by a hundredth of its range in an hour
    verdicts(values, detector)
    last = clock(10 * DAY)[-1]
    assert "jump" in detector.peek(last + timedelta(minutes=5), 210.0).reasons
    verdict = detector.update(last + timedelta(minutes=90), 210.0)
    assert "gap" in verdict.reasons and "jump" not in verdict.reasons
    after = detector.update(last + timedelta(minutes=95), 211.0)
    assert "gap" not in after.reasons and "jump" not in after.reasons


def test_a_first_value_that_is_missing() -> None:
    assert Detector().update(START, None).reasons == ("missing",)
    assert Detector().peek(START, 1.0).reasons == ("learning",)


@pytest.mark.parametrize("value", [0.0, 7.25, -1e-9, 1e299])
def test_a_constant_series_is_quiet_and_its_change_is_not(value: float) -> None:
    assert told([value] * 3000) == []
    assert told([value] * 1500 + [value + (abs(value) or 1.0)] * 50)[:1] == [1500]


def test_tiny_changes_of_a_constant_are_of_no_interest() -> None:
    source = random.Random(9)
    values = [1000.0] * 1000 + [1000 + 0.01 * source.random() for _ in range(1000)]
    assert told(values) == []


def test_a_counter_that_resets_is_learnt() -> None:
    """Resets every 13 hours: the first may be news, later ones are not, and the records that it sets are none at any time."""
    values = [float(100 * (i % 157)) for i in range(14 * DAY)]
    alerts = told(values)
    assert len(alerts) <= 4
    assert [i for i in alerts if i > 7 * DAY] == []


def test_a_counter_without_end_is_quiet() -> None:
    source, total, values = random.Random(10), 0.0, []
    for _ in range(14 * DAY):
        total += source.randint(50, 150)
        values.append(total)
    assert len(told(values)) <= 3


@pytest.mark.parametrize(("minutes", "per_day"), [(1, 1440), (15, 96), (30, 48), (60, 24), (360, 4)])
def test_any_step_will_do(minutes: float, per_day: int) -> None:
    days = max(8, 1500 // per_day)
    values = traffic(days, 11, per_day)
    at = len(values) - 40
    values[at : at + 10] = [900.0] * 10
    alerts = told(values, minutes)
    assert at in alerts
    assert sum(i < at for i in alerts) <= 4


def test_irregular_steps_and_gaps() -> None:
    source, now, times = random.Random(12), START, []
    for i in range(3000):
        now += timedelta(minutes=source.uniform(2, 9) * (100 if i % 500 == 499 else 1))
        times.append(now)
    values = noise(11, 12)[:3000]
    values[2500] = 150.0
    scores = score(times, values)
    assert scores[2500] > 0.5
    assert sum(s >= TOLD for s in scores) <= 5


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_unit_does_not_matter(factor: float) -> None:
    values = latency(7, 13)
    values[1300:1310] = [9.0] * 10
    assert told(values) == told([factor * value for value in values])


def test_the_largest_floats_do_not_break_it() -> None:
    detector = Detector()
    for verdict in verdicts([1e300, -1e300] * 400 + [1e300, 5e-324] * 100 + [0.0, -0.0] * 50, detector):
        assert 0 <= verdict.score <= 1
    json.dumps(detector.state, allow_nan=False)


def test_timestamps_with_and_without_a_zone_do_not_mix() -> None:
    detector = Detector()
    detector.update(START, 1.0)
    with pytest.raises(ValueError, match="timestamp"):
        detector.update(START.replace(tzinfo=None) + timedelta(hours=1), 1.0)


def test_block_records_fill_the_memory() -> None:
    assert BLOCK_RECORDS * MEMORY == 7 * DAY  # what the docstring calls a week


# The reference cases: figures of detectors that were told nothing of them, see benchmarks/anomaly.py.


def test_reference_cases(shared_cases: Path) -> None:
    scorer = scorers.load(shared_cases / "anomaly")
    series = scorer.load("dev")
    assert series
    scores = [anomaly.score(one.times, one.values) for one in series]
    assert all(0 <= value <= 1 for one in scores for value in one)
    assert scorer.sweep(series, scores, "standard")["score"] >= 65
    assert scorer.sweep(series, scores, "reward_low_FP_rate")["score"] >= 55
    assert not scorer.causality(anomaly.score, series[:4])
