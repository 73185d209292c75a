"""Comparisons: equal to SciPy and statsmodels where they have them, to published figures where not, and honest where data are not."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import StratifiedTable, mcnemar

from metamon_assets.statistics import proportions, raw_values, welch
from metamon_assets.statistics.significance import (
    AdjustedMean,
    Comparison,
    NormalPrior,
    QuantileSummary,
    SampleMean,
    SampleProportion,
    SampleRatio,
    adjust_p_values,
    bayesian,
    compare,
    compare_heavy_tailed,
    compare_many,
    compare_paired,
    compare_quantile,
    non_inferiority,
    sample_ratio_mismatch,
    stratified,
    sums_by_segment,
)

finite = st.floats(-1e3, 1e3)
arrays = st.lists(finite, min_size=3, max_size=40)
shares = (
    st.tuples(st.integers(5, 400), st.integers(0, 400)).filter(lambda pair: pair[1] <= pair[0]).map(lambda pair: SampleProportion(*pair))
)


def means(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(5, 2, 40), rng.normal(6, 3, 25)


def rejections(draw: Callable[[], Comparison], replicates: int, alpha: float = 0.05) -> float:
    return sum(draw().p_value <= alpha for _ in range(replicates)) / replicates


# Means ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_means_are_welchs_t_test(alternative: Any) -> None:
    control, treatment = means(np.random.default_rng(1))
    theirs = stats.ttest_ind(treatment, control, equal_var=False, alternative=alternative)
    ours = compare(SampleMean.from_values(control), SampleMean.from_values(treatment), alternative=alternative)
    interval = theirs.confidence_interval()
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-10)
    assert (ours.ci_lower, ours.ci_upper) == pytest.approx((interval.low, interval.high), rel=1e-10)
    assert (ours.control_estimate, ours.treatment_estimate) == pytest.approx((control.mean(), treatment.mean()))
    assert (ours.n_control, ours.n_treatment, ours.status) == (40, 25, "ok")


def test_the_relative_standard_error_is_what_repetition_shows() -> None:
    rng = np.random.default_rng(2)
    drawn = [
        compare(SampleMean.from_values(rng.normal(10, 3, 200)), SampleMean.from_values(rng.normal(13, 4, 100)), difference="relative")
        for _ in range(2000)
    ]
    assert np.std([result.effect for result in drawn]) == pytest.approx(np.mean([result.standard_error for result in drawn]), rel=0.05)
    assert np.mean([result.ci_lower <= 0.3 <= result.ci_upper for result in drawn]) == pytest.approx(0.95, abs=0.015)


def test_relative_differences_keep_their_sign_below_zero() -> None:
    result = compare(SampleMean(100, -1000.0, 12000.0), SampleMean(100, -500.0, 4000.0), difference="relative")
    assert result.effect == 0.5


def test_cuped_removes_what_the_earlier_value_explains() -> None:
    rng = np.random.default_rng(3)
    before = rng.normal(10, 4, 4000)
    after = before + rng.normal(0, 1, 4000)
    after[2000:] += 0.2
    adjusted = [AdjustedMean.from_values(after[part], before[part]) for part in (slice(2000), slice(2000, None))]
    result = compare(*adjusted)
    plain = compare(SampleMean.from_values(after[:2000]), SampleMean.from_values(after[2000:]))
    theta = np.cov(after, before)[0, 1] / np.var(before, ddof=1)
    residual = after - theta * before
    assert (adjusted[0] + adjusted[1]).theta == pytest.approx(theta)
    assert result.p_value == pytest.approx(stats.ttest_ind(residual[2000:], residual[:2000], equal_var=False).pvalue, rel=1e-6)
    assert result.standard_error < 0.35 * plain.standard_error


def test_the_relative_standard_error_of_cuped_is_what_repetition_shows() -> None:
    rng, drawn = np.random.default_rng(4), []
    for _ in range(1500):
        before = rng.normal(10, 3, 300)
        after = before + rng.normal(0, 2, 300)
        after[200:] *= 1.1
        drawn.append(
            compare(*(AdjustedMean.from_values(after[s], before[s]) for s in (slice(200), slice(200, None))), difference="relative")
        )
    assert np.std([result.effect for result in drawn]) == pytest.approx(np.mean([result.standard_error for result in drawn]), rel=0.06)


def test_relative_standard_errors_follow_the_gradient() -> None:
    rng = np.random.default_rng(28)
    before, after = rng.normal(10, 3, (2, 60)), rng.normal(12, 2, (2, 60))
    before -= before.mean(axis=1, keepdims=True) - 10  # alike, as assignment at random makes them on average
    after += before
    arms = [AdjustedMean.from_values(after[arm], before[arm]) for arm in (0, 1)]
    theta = (arms[0] + arms[1]).theta
    mean_c, mean_t = after.mean(axis=1)
    # d/d(post_c, pre_c, post_t, pre_t) of (post_t − post_c − θ (pre_t − pre_c)) / post_c
    gradients = np.array([[-mean_t / mean_c**2, theta / mean_c], [1 / mean_c, -theta / mean_c]])
    variance = sum(g @ np.cov(after[arm], before[arm]) @ g / 60 for arm, g in enumerate(gradients))
    assert compare(arms[0], arms[1], difference="relative").standard_error == pytest.approx(math.sqrt(variance))
    split = ((after[0, :20], after[1, :50]), (after[0, 20:], after[1, 50:]))
    strata = [(SampleMean.from_values(early), SampleMean.from_values(late)) for early, late in split]
    weights = np.array([c.n * t.n / (c.n + t.n) for c, t in strata])
    base, other = (float(weights @ [pair[arm].estimate for pair in strata]) for arm in (0, 1))
    parts = [w**2 * (t.variance / t.n + (other / base) ** 2 * c.variance / c.n) for w, (c, t) in zip(weights, strata, strict=True)]
    result = stratified(strata, difference="relative")
    assert (result.effect, result.standard_error) == pytest.approx((other / base - 1, math.sqrt(sum(parts)) / base))


def test_a_ratio_over_users_keeps_its_size_where_requests_do_not() -> None:
    rng = np.random.default_rng(5)

    def arm() -> tuple[np.ndarray, np.ndarray]:
        requests = 1 + rng.poisson(4, 20)
        return rng.binomial(requests, 1 / (1 + np.exp(-1 - 1.3 * rng.standard_normal(20)))), requests

    def clustered() -> Comparison:
        return compare(SampleRatio.from_values(*arm()), SampleRatio.from_values(*arm()))

    def naive() -> Comparison:
        return compare(*(SampleProportion(requests.sum(), good.sum()) for good, requests in (arm(), arm())))

    assert 0.035 <= rejections(clustered, 3000) <= 0.065
    assert rejections(naive, 500) > 0.1


# Proportions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("treatment", "control", "interval"),
    # Newcombe, Statistics in Medicine 1998, 17, 873, table II, method 5 (Mee).
    [((56, 70), (48, 80), (0.0533, 0.3377)), ((9, 10), (3, 10), (0.1821, 0.8370)), ((10, 10), (0, 20), (0.7225, 1.0))],
)
def test_the_score_interval_is_mees(treatment: tuple[int, int], control: tuple[int, int], interval: tuple[float, float]) -> None:
    result = compare(SampleProportion(control[1], control[0]), SampleProportion(treatment[1], treatment[0]))
    assert (result.ci_lower, result.ci_upper) == pytest.approx(interval, abs=6e-5)


def test_the_proportions_is_the_pooled_z_test() -> None:
    result = compare(SampleProportion(900, 810), SampleProportion(100, 84))
    table = [[810, 90], [84, 16]]
    assert result.p_value == pytest.approx(stats.chi2_contingency(table, correction=False).pvalue, rel=1e-9)


@given(shares, shares, st.sampled_from([0.01, 0.05, 0.2]))
def test_score_interval_and_p_value_agree(control: SampleProportion, treatment: SampleProportion, alpha: float) -> None:
    assume(0 < control.successes + treatment.successes < control.n + treatment.n)
    for difference in ("absolute", "relative"):
        if difference == "relative" and control.successes == 0:
            continue
        result = compare(control, treatment, difference=difference, alpha=alpha)
        assume(abs(result.p_value - alpha) > 1e-9)
        assert (result.p_value < alpha) == (result.ci_lower > 0 or result.ci_upper < 0)
        assert result.ci_lower <= result.effect <= result.ci_upper


@given(shares, shares)
def test_swapped_arms_swap_the_interval(control: SampleProportion, treatment: SampleProportion) -> None:
    assume(0 < control.successes + treatment.successes < control.n + treatment.n)
    there, back = compare(control, treatment), compare(treatment, control)
    assert (there.ci_lower, there.ci_upper) == pytest.approx((-back.ci_upper, -back.ci_lower), abs=1e-8)
    assert there.p_value == pytest.approx(back.p_value, rel=1e-9)


@given(shares, shares)
def test_counting_failures_turns_the_difference_around(control: SampleProportion, treatment: SampleProportion) -> None:
    assume(0 < control.successes + treatment.successes < control.n + treatment.n)
    failures = [SampleProportion(arm.n, arm.n - arm.successes) for arm in (control, treatment)]
    there, back = compare(control, treatment), compare(*failures)
    assert (there.ci_lower, there.ci_upper) == pytest.approx((-back.ci_upper, -back.ci_lower), abs=1e-8)


@pytest.mark.parametrize("sizes", [(900, 100), (270, 30)])
def test_a_small_canary_keeps_its_size_with_the_proportions_only(sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(6)

    @functools.cache
    def compared(control: int, treatment: int, method: Any) -> Comparison:
        return compare(SampleProportion(sizes[0], control), SampleProportion(sizes[1], treatment), method=method)

    def draw(method: str) -> Callable[[], Comparison]:
        return lambda: compared(rng.binomial(sizes[0], 0.9), rng.binomial(sizes[1], 0.9), method)

    assert 0.03 <= rejections(draw("score"), 2500) <= 0.062
    assert rejections(draw("wald"), 2500) > (0.052 if sizes[1] == 100 else 0.075)


def test_the_score_interval_covers_a_relative_difference() -> None:
    rng = np.random.default_rng(7)
    drawn = [
        compare(SampleProportion(400, rng.binomial(400, 0.1)), SampleProportion(60, rng.binomial(60, 0.15)), difference="relative")
        for _ in range(1500)
    ]
    assert np.mean([result.ci_lower <= 0.5 <= result.ci_upper for result in drawn]) == pytest.approx(0.95, abs=0.02)


def log_likelihood(x: float, n: float, share: float) -> float:
    return x * math.log(share) + (n - x) * math.log1p(-share)


@pytest.mark.parametrize(("x_c", "x_t"), [(30, 12), (55, 40), (3, 9)])
def test_the_relative_score_statistic_has_the_variance_where_the_null_holds(x_c: int, x_t: int) -> None:
    n_c, n_t, ratio = 120, 60, 1.3

    def worse(share: float) -> float:
        return -log_likelihood(x_c, n_c, share) - log_likelihood(x_t, n_t, ratio * share)

    share = float(optimize.minimize_scalar(worse, bounds=(1e-9, 1 / ratio - 1e-9), method="bounded", options={"xatol": 1e-12}).x)
    variance = ratio * share * (1 - ratio * share) / n_t + ratio**2 * share * (1 - share) / n_c
    z = (x_t / n_t - ratio * x_c / n_c) / math.sqrt(variance)
    result = compare(SampleProportion(n_c, x_c), SampleProportion(n_t, x_t), difference="relative", null=ratio - 1)
    assert result.p_value == pytest.approx(2 * stats.norm.sf(abs(z)), rel=1e-5)


def test_rare_events_among_very_many_units_keep_their_digits() -> None:
    few, many = (compare(SampleProportion(n, 5), SampleProportion(n, 9)) for n in (1e6, 1e8))  # both are Poisson's limit
    assert many.p_value == pytest.approx(few.p_value, rel=1e-4)
    assert (100 * many.ci_lower, 100 * many.ci_upper) == pytest.approx((few.ci_lower, few.ci_upper), rel=1e-4)
    turned = compare(SampleProportion(1e8, 1e8 - 5), SampleProportion(1e8, 1e8 - 9))
    assert (turned.ci_lower, turned.ci_upper) == pytest.approx((-many.ci_upper, -many.ci_lower), rel=1e-5)


# Agreement of p-values and intervals, merging, scaling --------------------------------------------------------


@given(arrays, arrays, st.sampled_from(["two-sided", "greater", "less"]), st.floats(-5, 5))
def test_interval_and_p_value_agree(left: list[float], right: list[float], alternative: Any, null: float) -> None:
    for difference in ("absolute", "relative"):
        result = compare(
            SampleMean.from_values(left),
            SampleMean.from_values(right),
            difference=difference,
            alternative=alternative,
            null=null,
        )
        assume(result.status == "ok" and abs(result.p_value - 0.05) > 1e-6)
        assert (result.p_value < 0.05) == (not result.ci_lower <= null <= result.ci_upper)


@given(arrays, arrays, st.floats(0.01, 100), st.floats(-100, 100))
def test_scale_and_shift(left: list[float], right: list[float], scale: float, shift: float) -> None:
    assume(np.std(left) > 1 and np.std(right) > 1)
    here = compare(SampleMean.from_values(left), SampleMean.from_values(right))
    there = compare(*(SampleMean.from_values(scale * np.array(values) + shift) for values in (left, right)))
    assert there.effect == pytest.approx(scale * here.effect, rel=1e-5, abs=1e-6)
    assert there.p_value == pytest.approx(here.p_value, rel=1e-4, abs=1e-9)
    assert there.ci_upper - there.ci_lower == pytest.approx(scale * (here.ci_upper - here.ci_lower), rel=1e-5)


@given(st.lists(arrays, min_size=3, max_size=3))
def test_sums_merge_in_any_order(parts: list[list[float]]) -> None:
    a, b, c = (SampleMean.from_values(part) for part in parts)
    whole = SampleMean.from_values([value for part in parts for value in part])
    for merged in ((a + b) + c, a + (b + c), c + a + b):
        assert merged.n == whole.n
        assert merged.sum == pytest.approx(whole.sum, abs=1e-6)
        assert merged.sum_squares == pytest.approx(whole.sum_squares)


def test_arms_of_different_kinds_do_not_merge() -> None:
    with pytest.raises(TypeError):
        SampleMean(1, 1.0, 1.0) + SampleProportion(1, 1)  # type: ignore[operator]


@given(arrays, arrays, arrays, arrays)
def test_every_kind_merges(a: list[float], b: list[float], c: list[float], d: list[float]) -> None:
    kinds: list[Any] = [SampleRatio, AdjustedMean]
    for kind in kinds:
        n, m = min(len(a), len(b)), min(len(c), len(d))
        merged = kind.from_values(a[:n], b[:n]) + kind.from_values(c[:m], d[:m])
        whole = kind.from_values(a[:n] + c[:m], b[:n] + d[:m])
        assert merged.n == whole.n
        assert merged.cross_product == pytest.approx(whole.cross_product, abs=1e-6)


# Pairs ------------------------------------------------------------------------------------------------------


def test_pairs_of_numbers_are_the_paired_t_test() -> None:
    rng = np.random.default_rng(8)
    control = rng.normal(5, 2, 30)
    treatment = control + rng.normal(0.3, 1, 30)
    theirs = stats.ttest_rel(treatment, control)
    ours = compare_paired(control, treatment)
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-10)
    assert (ours.ci_lower, ours.ci_upper) == pytest.approx(tuple(theirs.confidence_interval()), rel=1e-10)


def test_binary_pairs_are_mcnemars_test_with_tangos_interval() -> None:
    control, treatment = [1] * 70 + [0] * 30, [1] * 65 + [0] * 5 + [1] * 18 + [0] * 12
    ours = compare_paired(control, treatment)
    theirs = mcnemar([[65, 5], [18, 12]], exact=False, correction=False)
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-10)
    assert compare_paired(control, treatment, binary=False).method == "paired t"


@pytest.mark.parametrize(("gained", "lost", "delta"), [(12, 5, 0.2), (12, 5, -0.1), (0, 4, 0.05)])
def test_tangos_statistic_has_the_variance_where_the_null_holds(gained: int, lost: int, delta: float) -> None:
    n = 60

    def worse(share: float) -> float:  # of pairs that are lost; those gained are delta more
        return -(gained * math.log(share + delta) + lost * math.log(share) + (n - gained - lost) * math.log(1 - 2 * share - delta))

    bounds = (max(1e-12, -delta + 1e-12), (1 - delta) / 2 - 1e-12)
    share = float(optimize.minimize_scalar(worse, bounds=bounds, method="bounded", options={"xatol": 1e-13}).x)
    expected = (gained - lost - n * delta) / math.sqrt(n * (2 * share + delta - delta**2))
    assert proportions.paired_statistic(gained, lost, n, delta) == pytest.approx(expected, rel=1e-5)


def test_mcnemars_standard_error_is_that_of_the_paired_difference() -> None:
    control, treatment = [1] * 70 + [0] * 30, [1] * 65 + [0] * 5 + [1] * 18 + [0] * 12
    difference = np.array(treatment) - np.array(control)
    assert compare_paired(control, treatment).standard_error == pytest.approx(difference.std() / 10)
    assert compare_paired([0] * 20, [1] * 20).standard_error > 0


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 60))
def test_paired_interval_and_p_value_agree(gained: int, lost: int, same: int) -> None:
    assume(gained + lost > 0 and gained + lost + same > 1)
    result = compare_paired([0] * gained + [1] * lost + [1] * same, [1] * gained + [0] * lost + [1] * same)
    assume(abs(result.p_value - 0.05) > 1e-9)
    assert (result.p_value < 0.05) == (result.ci_lower > 0 or result.ci_upper < 0)
    assert result.ci_lower <= result.effect <= result.ci_upper


def test_repeated_trials_of_a_task_count_for_what_they_are_worth() -> None:
    rng = np.random.default_rng(9)

    def draw(clusters: list[int] | None) -> Callable[[], Comparison]:
        def compared() -> Comparison:
            taste = np.repeat(rng.normal(0, 1, 20), 4)
            return compare_paired(rng.normal(0, 0.5, 80), taste + rng.normal(0, 0.5, 80), clusters=clusters)

        return compared

    assert 0.035 <= rejections(draw(np.repeat(np.arange(20), 4).tolist()), 2500) <= 0.066
    assert rejections(draw(None), 500) > 0.2


def test_equal_clusters_are_the_t_test_of_their_means() -> None:
    values = np.random.default_rng(22).normal(0.3, 1, (12, 5))
    theirs = stats.ttest_1samp(values.mean(axis=1), 0)
    ours = compare_paired(np.zeros(60), values.ravel(), clusters=np.repeat(np.arange(12), 5))
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-9)
    assert (ours.ci_lower, ours.ci_upper) == pytest.approx(tuple(theirs.confidence_interval()), rel=1e-9)


def test_unequal_clusters_have_bells_and_mccaffreys_degrees_of_freedom() -> None:
    sizes = np.array([1, 2, 3, 4, 10])
    groups = np.repeat(np.arange(5), sizes)
    deviations = np.random.default_rng(23).normal(size=20)
    deviations -= deviations.mean()
    shares = sizes / 20
    away = np.eye(5) - np.outer(np.ones(5), shares)  # from the clusters' means to their deviations from the whole
    means = np.array([deviations[groups == group].mean() for group in range(5)])
    scale = np.diag(shares**2 / np.diag(away @ away.T))
    form = away.T @ scale @ away
    error, dof = raw_values._clustered_error(deviations, groups)
    assert error == pytest.approx(math.sqrt(means @ scale @ means))
    assert dof == pytest.approx(np.trace(form) ** 2 / np.trace(form @ form))


def test_a_few_large_clusters_do_not_pass_for_many() -> None:
    rng = np.random.default_rng(24)
    labels = np.repeat(np.arange(20), np.where(np.arange(20) < 16, 2, 20))

    def draw() -> Comparison:
        return compare_paired(np.zeros(labels.size), rng.normal(size=20)[labels] + rng.normal(0, 0.5, labels.size), clusters=labels)

    assert rejections(draw, 1500) <= 0.06
    assert compare_paired(np.zeros(100), rng.normal(size=100), clusters=[0] * 96 + [1, 2, 3, 4]).status == "insufficient_data"


def test_clusters_may_be_a_column_of_a_frame() -> None:
    frame = pd.DataFrame({"task": list("aabbccddeeff"), "before": range(12), "after": np.random.default_rng(32).normal(size=12)})
    ours = compare_paired(frame["before"], frame["after"], clusters=frame["task"])
    assert ours == compare_paired(frame["before"], frame["after"], clusters=frame["task"].astype("category"))
    assert ours == compare_paired(frame["before"].tolist(), frame["after"].tolist(), clusters=frame["task"].tolist())


def test_clusters_of_one_pair_are_no_clusters() -> None:
    rng = np.random.default_rng(10)
    control, treatment = rng.normal(size=30), rng.normal(0.4, 1, 30)
    labels = [f"task {number}" for number in range(30)]
    assert compare_paired(control, treatment, clusters=labels).p_value == pytest.approx(compare_paired(control, treatment).p_value)


# Quantiles and heavy tails ------------------------------------------------------------------------------------


def test_the_95th_percentile_keeps_its_size_and_asks_for_300_units() -> None:
    rng = np.random.default_rng(11)
    assert 0.01 <= rejections(lambda: compare_quantile(rng.lognormal(size=500), rng.lognormal(size=500), 0.95), 2000) <= 0.055
    assert compare_quantile(rng.lognormal(size=299), rng.lognormal(size=1000), 0.95).status == "insufficient_data"
    assert compare_quantile(rng.lognormal(size=300), rng.lognormal(size=1000), 0.95).status == "ok"


def test_a_quantiles_interval_covers_it() -> None:
    rng = np.random.default_rng(12)
    truth = math.exp(stats.norm.ppf(0.9))
    summaries = [QuantileSummary.from_values(rng.lognormal(size=800), 0.9) for _ in range(1500)]
    assert np.mean([summary.ci95_lower <= truth <= summary.ci95_upper for summary in summaries]) == pytest.approx(0.955, abs=0.02)
    assert np.mean([summary.estimate for summary in summaries]) == pytest.approx(truth, rel=0.01)


def test_a_slower_tail_is_found_in_its_own_unit_and_relatively() -> None:
    rng = np.random.default_rng(13)
    control, treatment = rng.lognormal(size=4000), 1.3 * rng.lognormal(size=4000)
    absolute, relative = (compare_quantile(control, treatment, 0.95, difference=kind) for kind in ("absolute", "relative"))
    assert absolute.effect == pytest.approx(np.quantile(treatment, 0.95) - np.quantile(control, 0.95))
    assert relative.effect == pytest.approx(absolute.effect / np.quantile(control, 0.95))
    assert relative.ci_lower < 0.3 < relative.ci_upper
    assert relative.p_value < 0.001


def test_relative_standard_errors_are_the_delta_methods() -> None:
    control, treatment = QuantileSummary(500, 0.9, 4.0, 3.0, 5.0), QuantileSummary(500, 0.9, 6.0, 5.5, 6.5)
    result = compare_quantile(control, treatment, 0.9, difference="relative")
    expected = math.hypot(treatment.standard_error / 4, control.standard_error * 6 / 16)
    assert (result.effect, result.standard_error) == pytest.approx((0.5, expected))
    before, after = np.exp([0.0, 1.0, 2.0]), np.exp([1.0, 2.0, 4.0])
    ratio = compare_heavy_tailed(before, after)
    assert ratio.standard_error == pytest.approx(ratio.effect * math.sqrt((1 + 7 / 3) / 3))
    zero = compare_heavy_tailed([0.0, 4.0], [4.0, 16.0])  # the zero counts as 2
    assert (zero.control_estimate, zero.treatment_estimate) == pytest.approx((math.sqrt(8), 8))


def test_rounded_values_do_not_pretend_to_be_exact() -> None:
    rng = np.random.default_rng(25)
    draw = lambda: compare_quantile(rng.poisson(20, 500), rng.poisson(20, 500), 0.5)  # noqa: E731
    assert rejections(draw, 400) <= 0.05


@pytest.mark.parametrize("zeros", [0.2, 0.95])
def test_few_zeros_in_a_small_canary_keep_the_size(zeros: float) -> None:
    rng = np.random.default_rng(26)

    def draw() -> Comparison:
        return compare_heavy_tailed(*(np.where(rng.random(n) < zeros, 0.0, rng.lognormal(size=n)) for n in (200, 22)))

    assert 0.03 <= rejections(draw, 1500) <= 0.068


@pytest.mark.parametrize(("sigma", "sizes"), [(1.0, (200, 22)), (2.0, (200, 22)), (2.0, (1000, 111))])
def test_the_log_scale_keeps_its_size_where_raw_means_do_not(sigma: float, sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(14)
    logs = rejections(lambda: compare_heavy_tailed(*(rng.lognormal(0, sigma, n) for n in sizes)), 2500)
    raw = rejections(lambda: compare(*(SampleMean.from_values(rng.lognormal(0, sigma, n)) for n in sizes)), 1500)
    assert 0.037 <= logs <= 0.063
    assert raw > 0.07


def test_the_geometric_ratio_is_covered_with_and_without_zeros() -> None:
    rng = np.random.default_rng(15)
    drawn = [compare_heavy_tailed(rng.lognormal(0, 1, 200), 1.5 * rng.lognormal(0, 1, 100)) for _ in range(1000)]
    assert np.mean([result.ci_lower <= 1.5 <= result.ci_upper for result in drawn]) == pytest.approx(0.95, abs=0.025)

    def with_zeros() -> Comparison:
        return compare_heavy_tailed(*(np.where(rng.random(n) < 0.2, 0.0, rng.lognormal(0, 1, n)) for n in (200, 60)))

    assert 0.033 <= rejections(with_zeros, 2000) <= 0.067
    assert "counted as half the smallest positive value" in with_zeros().method


# Non-inferiority, strata, Bayes, sample ratio ------------------------------------------------------------------


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_non_inferiority_at_its_margin_is_found_at_alpha(higher_is_better: bool) -> None:
    rng, sign = np.random.default_rng(16), 1 if higher_is_better else -1

    def draw(loss: float) -> Callable[[], Comparison]:
        def compared() -> Comparison:
            control, treatment = rng.normal(10, 3, 400), rng.normal(10 - sign * loss, 3, 100)
            arms = SampleMean.from_values(control), SampleMean.from_values(treatment)
            return non_inferiority(*arms, margin=0.05, higher_is_better=higher_is_better)

        return compared

    assert 0.035 <= rejections(draw(0.5), 2500) <= 0.065
    assert rejections(draw(-0.5), 500) > 0.8
    result = draw(0.2)()
    bound = result.ci_lower > -0.05 if higher_is_better else result.ci_upper < 0.05
    assert bound == (result.p_value < 0.05)


def test_a_canary_at_the_margin_of_rare_errors_does_not_pass() -> None:
    rng = np.random.default_rng(27)

    @functools.cache
    def compared(control: int, treatment: int) -> Comparison:
        arms = SampleProportion(450, control), SampleProportion(50, treatment)
        return non_inferiority(*arms, margin=0.05, relative=False, higher_is_better=False)

    assert rejections(lambda: compared(rng.binomial(450, 0.05), rng.binomial(50, 0.10)), 1500) <= 0.062
    assert compared(20, 2).method == "non-inferiority, score"


def test_stages_of_a_rollout_do_not_mix() -> None:
    stages = [(SampleProportion(900, 828), SampleProportion(100, 92)), (SampleProportion(500, 425), SampleProportion(500, 425))]
    pooled = compare(stages[0][0] + stages[1][0], stages[0][1] + stages[1][1])
    for method in ("score", "t", "wald"):
        assert stratified(stages, method=method).effect == pytest.approx(0.0, abs=1e-12)
    assert pooled.effect < -0.03
    assert pooled.p_value < 0.05
    assert stratified(stages[:1]) == compare(*stages[0])


def test_strata_combine_to_mantel_and_haenszel() -> None:
    strata = [(SampleProportion(120, 30), SampleProportion(80, 28)), (SampleProportion(60, 40), SampleProportion(90, 66))]
    weights = np.array([c.n * t.n / (c.n + t.n) for c, t in strata])
    tables = [[[t.successes, t.n - t.successes], [c.successes, c.n - c.successes]] for c, t in strata]
    result = stratified(strata)
    assert result.effect == pytest.approx(float(weights @ [t.estimate - c.estimate for c, t in strata] / weights.sum()))
    theirs = StratifiedTable([np.array(table, dtype=float) for table in tables]).test_null_odds(correction=False)
    assert result.p_value == pytest.approx(theirs.pvalue, rel=1e-10)
    assert (result.p_value < 0.05) == (result.ci_lower > 0 or result.ci_upper < 0)


def test_many_small_strata_keep_their_size() -> None:
    pairs = [(SampleProportion(1, 0), SampleProportion(1, 1))] * 8 + [(SampleProportion(1, 1), SampleProportion(1, 0))] * 2
    assert stratified(pairs).p_value == pytest.approx(compare_paired([0] * 8 + [1] * 2, [1] * 8 + [0] * 2).p_value)


def test_strata_with_too_few_units_are_left_out_and_named() -> None:
    full = (SampleProportion(5000, 4500), SampleProportion(500, 430))
    result = stratified([full, (SampleProportion(90, 80), SampleProportion(1, 1))], method="t")
    assert result.effect == compare(*full, method="t").effect
    assert "1 of 2 strata left out" in result.reason


def test_a_stratified_mean_covers_its_effect() -> None:
    rng = np.random.default_rng(17)

    def stage(n: int, m: int, level: float) -> tuple[SampleMean, SampleMean]:
        return SampleMean.from_values(rng.normal(level, 2, n)), SampleMean.from_values(rng.normal(level + 0.5, 3, m))

    drawn = [stratified([stage(90, 10, 5), stage(60, 60, 9), stage(5, 100, 7)]) for _ in range(1500)]
    assert np.mean([result.ci_lower <= 0.5 <= result.ci_upper for result in drawn]) == pytest.approx(0.95, abs=0.02)
    assert np.mean([result.effect for result in drawn]) == pytest.approx(0.5, abs=0.04)


def test_strata_without_units_in_an_arm_say_nothing() -> None:
    full = (SampleMean(50, 100.0, 300.0), SampleMean(50, 110.0, 340.0))
    assert stratified([full, (SampleMean(50, 100.0, 300.0), SampleMean(0, 0.0, 0.0))]).effect == compare(*full).effect


def test_the_posterior_is_what_drawing_from_it_gives() -> None:
    control, treatment = SampleMean(100, 500.0, 2900.0), SampleMean(80, 420.0, 2600.0)
    result = bayesian(control, treatment, prior=NormalPrior(0.1, 0.04))
    drawn = np.random.default_rng(18).normal(result.effect, result.standard_deviation, 400_000)
    assert result.chance_to_win == pytest.approx((drawn > 0).mean(), abs=0.004)
    assert result.expected_loss_control == pytest.approx(np.maximum(drawn, 0).mean(), rel=0.02)
    assert result.expected_loss_treatment == pytest.approx(np.maximum(-drawn, 0).mean(), rel=0.02)
    assert (result.ci_lower, result.ci_upper) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.005)
    flat = bayesian(control, treatment)
    assert 0.1 < result.effect < flat.effect
    assert bayesian(control, treatment, prior={"mean": 0.1, "variance": 0.04}) == result


def test_sample_ratio_mismatch_is_pearsons_test() -> None:
    observed = [905, 95]
    assert sample_ratio_mismatch(observed, [9, 1]) == pytest.approx(stats.chisquare(observed, [900, 100]).pvalue, rel=1e-10)
    assert math.isnan(sample_ratio_mismatch([0, 0], [1, 1]))


def test_adjusted_p_values_leave_unknown_ones_alone() -> None:
    adjusted = adjust_p_values([0.01, math.nan, 0.04], "bonferroni")
    assert adjusted[[0, 2]] == pytest.approx([0.02, 0.08])
    assert math.isnan(adjusted[1])
    assert adjust_p_values([]).size == 0


# Many at once ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("difference", ["absolute", "relative"])
@pytest.mark.parametrize("alternative", ["two-sided", "less"])
def test_many_comparisons_are_each_of_them(difference: Any, alternative: Any) -> None:
    rng = np.random.default_rng(19)
    values = pd.DataFrame({"cost": rng.lognormal(size=3000), "flat": 2.0, "score": rng.normal(size=3000)})
    values.loc[rng.random(3000) < 0.1, "score"] = math.nan
    segments = rng.choice(["eu", "us", "tiny"], 3000, p=[0.5, 0.4993, 0.0007])
    arm = rng.random(3000) < 0.3
    control, treatment = sums_by_segment(values[~arm], segments[~arm]), sums_by_segment(values[arm], segments[arm])
    table = compare_many(control, treatment, difference=difference, alternative=alternative)
    assert set(table.index) == set(control.index) | set(treatment.index)
    seen = set()
    key: Any
    for key, row in table.iterrows():
        if key not in control.index or key not in treatment.index:
            assert row["status"] == "insufficient_data"
            continue
        arms = (SampleMean(*(float(value) for value in sums.loc[key])) for sums in (control, treatment))
        one = compare(*arms, difference=difference, alternative=alternative)
        seen.add(one.status)
        assert row["status"] == one.status
        for name in ("effect", "ci_lower", "ci_upper", "p_value", "standard_error"):
            if name == "effect" and one.status != "ok":
                continue
            assert row[name] == pytest.approx(getattr(one, name), rel=1e-10, nan_ok=True), name
    assert {"ok", "undefined"} <= seen


def test_many_p_values_equal_scipys() -> None:
    rng = np.random.default_rng(20)
    values, segments = pd.DataFrame({"a": rng.lognormal(size=4000)}), rng.integers(0, 20, 4000)
    arm = rng.random(4000) < 0.5
    table = compare_many(sums_by_segment(values[~arm], segments[~arm]), sums_by_segment(values[arm], segments[arm]))
    theirs = [
        stats.ttest_ind(*(values["a"].to_numpy()[(segments == segment) & side] for side in (arm, ~arm)), equal_var=False).pvalue
        for segment in range(20)
    ]
    assert np.abs(table["p_value"].to_numpy() - np.array(theirs)).max() < 1e-10


def test_shares_with_few_outcomes_are_sent_to_the_score_test() -> None:
    index = pd.MultiIndex.from_tuples([("passed", "eu"), ("cost", "eu")])
    control = pd.DataFrame({"n": [500, 500], "sum": [490, 500], "sum_squares": [490, 700]}, index)
    table = compare_many(control, pd.DataFrame({"n": [50, 50], "sum": [49, 55], "sum_squares": [49, 90]}, index))
    assert table["status"].tolist() == ["ok", "ok"]
    assert [bool(reason) for reason in table["reason"]] == [True, False]


def test_keys_that_never_meet_are_an_error() -> None:
    frame = pd.DataFrame({"n": [50], "sum": [100], "sum_squares": [300]}, pd.MultiIndex.from_tuples([("cost", 1)]))
    with pytest.raises(ValueError, match="no key in common"):
        compare_many(frame, frame.set_axis(pd.MultiIndex.from_tuples([("cost", "1")])))


def test_z_is_what_the_p_value_stands_for() -> None:
    score = compare(SampleProportion(2700, 2430), SampleProportion(300, 255))
    assert score.z == pytest.approx(-stats.norm.isf(score.p_value / 2))
    assert abs(score.z - score.effect / score.standard_error) > 0.2
    greater, less = (compare(SampleMean(50, 100, 300), SampleMean(50, 110, 340), alternative=side) for side in ("greater", "less"))
    assert greater.z == pytest.approx(less.z) == pytest.approx(stats.norm.isf(greater.p_value))


def test_rows_that_only_one_arm_has_are_too_little_data() -> None:
    index = pd.MultiIndex.from_tuples([("cost", "eu"), ("cost", "us")])
    control = pd.DataFrame({"n": [50.0, 50.0], "sum": [100.0, 100.0], "sum_squares": [300.0, 300.0]}, index)
    table = compare_many(control, control.iloc[:1])
    assert table["status"].tolist() == ["ok", "insufficient_data"]
    assert math.isnan(table["p_value"].iloc[1])


# Sums as databases and NumPy give them ----------------------------------------------------------------------------


def test_integers_of_any_kind_do_not_overflow() -> None:
    values = np.random.default_rng(29).integers(0, 100_000, 50_000)
    theirs = stats.ttest_ind(values + 400, values, equal_var=False)
    kinds: list[Any] = [int, np.int64, Decimal]
    for kind in kinds:
        arms = [SampleMean(kind(v.size), kind(int(v.sum())), kind(int((v.astype(object) ** 2).sum()))) for v in (values, values + 400)]
        assert compare(*arms).p_value == pytest.approx(theirs.pvalue, rel=1e-9)
    small: Any = np.int32(2_000_000_000)
    assert (SampleMean(small, 1, 1) + SampleMean(small, 1, 1)).n == 4e9


@pytest.mark.parametrize("value", [0.7, 3.3, 0.1, 123.456])
def test_constants_are_recognised_however_many(value: float) -> None:
    constant = sums_by_segment(pd.DataFrame({"a": np.full(100_000, value)}), ["x"] * 100_000)
    fewer = sums_by_segment(pd.DataFrame({"a": np.full(11_111, value)}), ["x"] * 11_111)
    assert compare_many(constant, fewer)["status"].tolist() == ["undefined"]
    assert compare(*(SampleMean(*(float(x) for x in sums.iloc[0])) for sums in (constant, fewer))).status == "undefined"


def test_a_spread_that_is_small_beside_the_mean_is_kept_or_refused() -> None:
    rng = np.random.default_rng(30)

    def draw(mean: float) -> Comparison:
        return compare(*(SampleMean.from_values(rng.normal(mean, 1, 100)) for _ in range(2)))

    assert 0.03 <= rejections(lambda: draw(1e5), 1500) <= 0.07
    assert {draw(1e8).status for _ in range(50)} == {"undefined"}


def test_a_segment_without_one_event_is_not_certain() -> None:
    index = pd.MultiIndex.from_tuples([("a", "b")])
    control, treatment = (pd.DataFrame({"n": [50.0], "sum": [s], "sum_squares": [q]}, index) for s, q in ((100.0, 300.0), (0.0, 0.0)))
    assert compare_many(control, treatment, difference="relative")["status"].tolist() == ["undefined"]
    assert compare(SampleMean(50, 100, 300), SampleMean(50, 0, 0), difference="relative").reason == welch.ZERO_TREATMENT
    assert compare(SampleMean(50, 100, 300), SampleMean(50, 0, 0)).p_value < 1e-9


@pytest.mark.parametrize("tiny", [4.4e-163, 1e-200, 1e-300, 1e300])
def test_numbers_at_the_ends_of_what_floats_hold_raise_nothing(tiny: float) -> None:
    for difference in ("absolute", "relative"):
        result = compare(SampleMean.from_values([0, 0, tiny]), SampleMean.from_values([0, 0, 1]), difference=difference)
        assert result.status == "undefined" or result.p_value < 1


# Honest failure ---------------------------------------------------------------------------------------------------

nan, inf = math.nan, math.inf
BROKEN: list[tuple[Any, Any, str]] = [
    (SampleMean(0, 0.0, 0.0), SampleMean(50, 100.0, 300.0), "insufficient_data"),
    (SampleMean(1, 2.0, 4.0), SampleMean(50, 100.0, 300.0), "insufficient_data"),
    (SampleMean(50, 100.0, 200.0), SampleMean(50, 100.0, 200.0), "undefined"),  # constant
    (SampleMean(50, 100.0, 200.0 - 1e-12), SampleMean(50, 100.0, 200.0), "undefined"),  # negative by rounding
    (SampleMean(50, 100.0, 100.0), SampleMean(50, 100.0, 300.0), "undefined"),  # no data have such sums
    (SampleMean(50, nan, 300.0), SampleMean(50, 100.0, 300.0), "undefined"),
    (SampleMean(50, inf, inf), SampleMean(50, 100.0, 300.0), "undefined"),
    (SampleProportion(0, 0), SampleProportion(10, 3), "insufficient_data"),
    (SampleProportion(10, 0), SampleProportion(10, 0), "undefined"),
    (SampleProportion(10, 10), SampleProportion(20, 20), "undefined"),
    (SampleRatio(10, 5.0, 5.0, 0.0, 0.0, 0.0), SampleRatio(10, 5.0, 5.0, 9.0, 9.0, 5.0), "undefined"),
    (AdjustedMean(10, 20.0, 40.0, 5.0, 5.0, 10.0), AdjustedMean(10, 20.0, 40.0, 5.0, 5.0, 10.0), "undefined"),
]


@pytest.mark.parametrize(("control", "treatment", "status"), BROKEN)
def test_data_that_have_no_answer_say_so(control: Any, treatment: Any, status: str) -> None:
    for difference in ("absolute", "relative"):
        result = compare(control, treatment, difference=difference)
        assert result.status == status
        assert result.reason
        assert math.isnan(result.p_value)
        assert not result.ci_upper - result.ci_lower <= 0
    assert bayesian(control, treatment).status == status or isinstance(control, SampleProportion)


def test_nothing_is_relative_to_zero() -> None:
    zero = compare(SampleMean(50, 0.0, 100.0), SampleMean(50, 10.0, 100.0), difference="relative")
    assert (zero.status, zero.reason) == ("undefined", "the control is zero: nothing is relative to it")
    assert compare(SampleProportion(50, 0), SampleProportion(50, 5), difference="relative").status == "undefined"
    index = pd.MultiIndex.from_tuples([("a", "b")])
    frame = pd.DataFrame({"n": [50.0], "sum": [0.0], "sum_squares": [100.0]}, index)
    assert compare_many(frame, frame, difference="relative")["reason"].tolist() == [zero.reason]


def test_shares_without_one_failure_have_an_interval() -> None:
    result = compare(SampleProportion(1000, 0), SampleProportion(1000, 0))
    assert (result.status, result.effect) == ("undefined", 0.0)
    assert -0.004 < result.ci_lower < 0 < result.ci_upper < 0.004


@pytest.mark.parametrize(
    ("control", "treatment", "status"),
    [
        ([], [], "insufficient_data"),
        ([1.0], [2.0], "insufficient_data"),
        ([1.0, nan, 2.0], [1.0, 2.0, 3.0], "undefined"),
        ([1.0, 2.0, 3.0], [2.0, 3.0, 4.0], "undefined"),
        ([1.0, 1.0, 0.0], [1.0, 1.0, 0.0], "undefined"),
    ],
)
def test_pairs_that_have_no_answer_say_so(control: list[float], treatment: list[float], status: str) -> None:
    result = compare_paired(control, treatment)
    assert (result.status, math.isnan(result.p_value)) == (status, True)
    assert result.reason


@pytest.mark.parametrize(
    ("control", "treatment", "status"),
    [
        ([], [1.0], "insufficient_data"),
        ([1.0], [1.0, 2.0], "insufficient_data"),
        ([0.0, 0.0], [0.0, 0.0], "undefined"),
        ([1.0, -1.0], [1.0, 2.0], "undefined"),
        ([1.0, inf], [1.0, 2.0], "undefined"),
        ([3.0, 3.0], [3.0, 3.0], "undefined"),
    ],
)
def test_heavy_tails_that_have_no_answer_say_so(control: list[float], treatment: list[float], status: str) -> None:
    result = compare_heavy_tailed(control, treatment)
    assert (result.status, math.isnan(result.p_value)) == (status, True)
    assert result.reason


def test_quantiles_that_have_no_answer_say_so() -> None:
    values = np.random.default_rng(21).lognormal(size=500)
    assert compare_quantile(np.ones(500), np.ones(500), 0.9).status == "undefined"
    assert compare_quantile(np.append(values, nan), values, 0.9).status == "undefined"
    assert compare_quantile([], values, 0.9).status == "insufficient_data"
    zero = QuantileSummary(500, 0.9, 0.0, -1.0, 1.0)
    assert compare_quantile(zero, values, 0.9, difference="relative").status == "undefined"


MEAN = SampleMean(10, 20.0, 50.0)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: compare(MEAN, MEAN, alpha=0), "alpha"),
        (lambda: compare(MEAN, MEAN, alpha=nan), "alpha"),
        (lambda: compare(MEAN, MEAN, difference="percent"), "difference"),  # type: ignore[arg-type]
        (lambda: compare(MEAN, MEAN, alternative="larger"), "alternative"),  # type: ignore[arg-type]
        (lambda: compare(MEAN, MEAN, null=inf), "null"),
        (lambda: compare(MEAN, MEAN, alpha="0.05"), "alpha"),  # type: ignore[arg-type]
        (lambda: compare(MEAN, MEAN, alpha=10**400), "alpha"),
        (lambda: compare(MEAN, MEAN, alpha=0.6, alternative="less"), "alpha"),
        (lambda: compare(MEAN, MEAN, method=""), "method"),  # type: ignore[arg-type]
        (lambda: compare(MEAN, MEAN, difference=np.array(["relative"])), "difference"),  # type: ignore[arg-type]
        (lambda: SampleMean(None, 1.0, 1.0), "n must"),  # type: ignore[arg-type]
        (lambda: SampleMean(3, "6", 14.0), "sum must"),  # type: ignore[arg-type]
        (lambda: stratified([]), "control and treatment"),
        (lambda: stratified(None), "control and treatment"),  # type: ignore[arg-type]
        (lambda: stratified([(MEAN,)]), "control and treatment"),  # type: ignore[list-item]
        (lambda: non_inferiority(None, MEAN, margin=0.1, method="z"), "control"),  # type: ignore[arg-type]
        (lambda: compare_paired([1, 2], [1, 2], clusters=5), "clusters"),  # type: ignore[arg-type]
        (lambda: compare_paired([1, 2], [1, 2], clusters=[[1], [2]]), "clusters"),
        (lambda: QuantileSummary.from_values([1.0], 1.5), "q must"),
        (lambda: compare_quantile(QuantileSummary(500, 0.5, 5, 0, 2), [1.0], 0.5), "control"),
        (lambda: SampleMean.from_values(pd.to_datetime(["2026-01-01"])), "values"),
        (lambda: SampleMean.from_values(pd.to_timedelta([1], unit="s")), "divide durations"),
        (lambda: SampleMean.from_values(np.array([1j])), "values"),
        (lambda: compare_paired(pd.Series([1.0, 2.0]), pd.Series([1.0, 2.0], index=[1, 0])), "treatment"),
        (lambda: compare_paired([1, 2], [1, 2], clusters=[math.nan, "b"]), "clusters has 1 missing"),
        (lambda: compare_paired([1, 0], [1, 0], binary="no"), "binary"),  # type: ignore[arg-type]
        (lambda: non_inferiority(MEAN, MEAN, margin=2), "margin"),
        (lambda: non_inferiority(MEAN, MEAN, margin=0.1, higher_is_better="false"), "higher_is_better"),  # type: ignore[arg-type]
        (lambda: sums_by_segment(pd.DataFrame({"a": ["fast"]}), ["x"]), "values"),
        (lambda: sums_by_segment(pd.DataFrame({"a": [1.0]}), "a"), "segments"),
        (lambda: sums_by_segment(pd.DataFrame([[1.0, 2.0]], columns=["a", "a"]), ["x"]), "values"),
        (lambda: stratified([(MEAN, MEAN), 5]), "control and treatment"),  # type: ignore[list-item]
        (lambda: stratified([MEAN, MEAN]), "control and treatment"),  # type: ignore[list-item]
        (lambda: bayesian(MEAN, MEAN, prior=5), "prior"),  # type: ignore[arg-type]
        (lambda: bayesian(MEAN, MEAN, prior={"mean": 0.0}), "prior"),
        (lambda: compare_many(None, None), "control"),  # type: ignore[arg-type]
        (lambda: sums_by_segment(pd.DataFrame({"a": [1.0, 2.0]}), pd.Series(["x", "y"], index=[1, 0])), "segments"),
        (lambda: compare(MEAN, MEAN, method="score"), "method"),
        (lambda: compare(SampleProportion(10, 5), SampleProportion(10, 5), null=1.5), "null"),
        (lambda: compare(MEAN, SampleProportion(10, 5)), "SampleMean"),
        (lambda: compare(3.0, 4.0), "control"),  # type: ignore[arg-type]
        (lambda: compare(SampleMean(-1, 0.0, 0.0), MEAN), "n must"),
        (lambda: compare(SampleProportion(10, 12), SampleProportion(10, 5)), "successes"),
        (lambda: SampleProportion.from_values([0, 1, 2]), "values"),
        (lambda: SampleRatio.from_values([1.0], [1.0, 2.0]), "denominators"),
        (lambda: compare_paired([1, 2], [1, 2, 3]), "treatment"),
        (lambda: compare_paired([1, 2], [1, 2], binary=True), "binary"),
        (lambda: compare_paired([1, 2], [1, 2], clusters=[1]), "clusters"),
        (lambda: compare_paired([[1, 2]], [[1, 2]]), "control"),
        (lambda: compare_paired(["a"], ["b"]), "control"),
        (lambda: compare_quantile([1.0], [1.0], 1.0), "q"),
        (lambda: compare_quantile(QuantileSummary(500, 0.5, 1, 0, 2), [1.0], 0.9), "control"),
        (lambda: compare_heavy_tailed([1.0], [1.0], alpha=2), "alpha"),
        (lambda: non_inferiority(MEAN, MEAN, margin=-0.1), "margin"),
        (lambda: non_inferiority(MEAN, MEAN, margin=0.1, method="F"), "method"),  # type: ignore[arg-type]
        (lambda: bayesian(MEAN, MEAN, prior=(0.0, 0.0)), "prior variance"),
        (lambda: sample_ratio_mismatch([1], [1]), "observed"),
        (lambda: sample_ratio_mismatch([1, -2], [1, 1]), "observed"),
        (lambda: sample_ratio_mismatch([1, 2], [1, 0]), "expected_weights"),
        (lambda: sample_ratio_mismatch([1, 2], [1, 1, 1]), "expected_weights"),
        (lambda: adjust_p_values([0.1], "magic"), "method"),
        (lambda: adjust_p_values([1.1]), "p_values"),
        (lambda: compare_many(pd.DataFrame({"n": [1]}), pd.DataFrame({"n": [1]})), "sum"),
        (lambda: sums_by_segment(pd.DataFrame({"a": [1.0]}), ["x", "y"]), "segments"),
    ],
)
def test_a_wrong_argument_is_named(call: Callable[[], object], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        call()
