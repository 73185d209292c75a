"""The effect of a change: against statsmodels and brute force, as properties, on simulated noise, and where it must refuse."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import linalg, optimize, stats

from metamon_assets.statistics import causal
from metamon_assets.statistics.causal import Impact, impact

Array = NDArray[np.float64]

BEFORE, AFTER = 56, 14
DAYS = BEFORE + AFTER
WEEK = np.array([0.0, 1.0, 2.0, 1.0, 0.0, -3.0, -4.0])[np.arange(DAYS) % 7]


def autoregressive(rng: np.random.Generator, phi: float, deviation: float = 1.0) -> Array:
    series = deviation * rng.normal(0, 1, DAYS)
    series[0] /= np.sqrt(1 - phi**2)
    for day in range(1, DAYS):
        series[day] += phi * series[day - 1]
    return series


def example(seed: int = 5) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    control = 40 + WEEK + autoregressive(rng, 0.5, 2)
    return 100 + 1.5 * control + WEEK + autoregressive(rng, 0.6), control


def saturated(days: NDArray[np.int64], control: Array | None) -> Array:
    """Weekday means, the control, and one column for each day after the change, which takes that day out of the fit."""
    weekdays = (days[:, np.newaxis] % 7 == np.arange(7)).astype(np.float64)
    after = days[days >= BEFORE]
    taken_out = (days[:, np.newaxis] == after).astype(np.float64)
    columns = [weekdays, taken_out] if control is None else [weekdays, control[days, np.newaxis], taken_out]
    return np.column_stack(columns)


def by_statsmodels(values: Array, control: Array | None, covariance: Array) -> tuple[float, float, float]:
    """Mean lift, its standard error and the degrees of freedom of a GLS fit with this covariance of all days."""
    days = np.flatnonzero(np.isfinite(values))
    design = saturated(days, control)
    fit = sm.GLS(values[days], design, sigma=covariance[np.ix_(days, days)]).fit()
    after = int((days >= BEFORE).sum())
    contrast = np.zeros(design.shape[1])
    contrast[-after:] = 1 / after
    test = fit.t_test(contrast)
    return float(np.squeeze(test.effect)), float(np.squeeze(test.sd)), float(fit.df_resid)


def noise_models() -> list[tuple[float, Array]]:
    """The covariances of all days with their prior odds, beside those of the module: from autocovariances, and by summing steps."""
    stationary = [(1 / 20, linalg.toeplitz(phi ** np.arange(DAYS) / (1 - phi**2))) for phi in np.linspace(0.025, 0.975, 20)]
    summed = np.tril(np.ones((DAYS, DAYS)))
    levels = [(1 / 10, (1 - w) * np.eye(DAYS) + w**2 * summed @ summed.T) for w in np.linspace(0.1, 1, 10)]
    trend = summed @ np.ones((DAYS, DAYS)) @ summed.T
    return stationary + levels + [(odds, level + trend) for odds, level in levels]


def log_likelihood_of_contrasts(values: Array, control: Array | None, covariance: Array) -> float:
    """The restricted likelihood from its definition: that of contrasts free of the coefficients, its variance integrated out."""
    days = np.flatnonzero(np.isfinite(values[:BEFORE]))
    contrasts = linalg.null_space(saturated(days, control).T).T
    inner = contrasts @ covariance[np.ix_(days, days)] @ contrasts.T
    errors = contrasts @ values[days]
    return float(-0.5 * np.linalg.slogdet(inner)[1] - len(errors) / 2 * np.log(errors @ np.linalg.solve(inner, errors)))


def fixed_noise(monkeypatch: pytest.MonkeyPatch, phi: float) -> None:
    monkeypatch.setattr(causal, "AUTOCORRELATIONS", np.array([phi]))
    monkeypatch.setattr(causal, "PRIOR_ALONE", (1.0, 0.0, 0.0))
    monkeypatch.setattr(causal, "PRIOR_BESIDE_CONTROLS", (1.0, 0.0, 0.0))


def test_without_autocorrelation_it_is_least_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed_noise(monkeypatch, 0.0)
    values = np.random.default_rng(0).normal(10, 2, DAYS)
    result = impact(values, BEFORE, season=1)
    pooled = stats.ttest_1samp(values[:BEFORE], 0)  # one mean, so one sample's t: a prediction of the mean of later days
    error = values[:BEFORE].std(ddof=1) * np.sqrt(1 / BEFORE + 1 / AFTER)
    reach = stats.t.ppf(0.975, pooled.df) * error
    effect = values[BEFORE:].mean() - values[:BEFORE].mean()
    assert result.effect == pytest.approx(effect)
    assert (result.ci_lower, result.ci_upper) == pytest.approx((effect - reach, effect + reach))
    assert result.p_value == pytest.approx(2 * stats.t.sf(abs(effect / error), pooled.df))
    assert result.counterfactual == pytest.approx(np.full(AFTER, values[:BEFORE].mean()))


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("with_control", [False, True])
def test_with_known_autocorrelation_it_is_gls_of_statsmodels(monkeypatch: pytest.MonkeyPatch, phi: float, with_control: bool) -> None:
    fixed_noise(monkeypatch, phi)
    values, control = example()
    values[[3, 20, 21, 60]] = np.nan
    controls = control if with_control else None
    effect, error, degrees = by_statsmodels(values, controls, linalg.toeplitz(phi ** np.arange(DAYS)))
    result = impact(values, BEFORE, controls=controls, alpha=0.1)
    assert result.effect == pytest.approx(effect)
    assert result.ci_upper - result.effect == pytest.approx(stats.t.ppf(0.95, degrees) * error)
    assert result.standard_error == pytest.approx(error * np.sqrt(degrees / (degrees - 2)))


@pytest.mark.parametrize("with_control", [False, True])
def test_the_mixture_over_the_noise_agrees_with_brute_force(with_control: bool) -> None:
    values, control = example(8)
    values[[10, 11, 33]] = np.nan
    controls = control if with_control else None
    prior = causal.PRIOR_BESIDE_CONTROLS if with_control else causal.PRIOR_ALONE
    kinds = np.repeat(prior, [20, 10, 10])
    logs, parts = [], []
    for kind, (odds, covariance) in zip(kinds, noise_models(), strict=True):
        logs.append(np.log(kind * odds) + log_likelihood_of_contrasts(values, controls, covariance))
        parts.append(by_statsmodels(values, controls, covariance))
    weights = np.exp(np.array(logs) - max(logs))
    weights /= weights.sum()
    effects, errors, degrees = np.array(parts).T

    def below(value: float) -> float:
        return float(weights @ stats.t.cdf((value - effects) / errors, degrees))

    result = impact(values, BEFORE, controls=controls)
    assert result.effect == pytest.approx(float(weights @ effects), rel=1e-6)
    assert result.ci_lower == pytest.approx(optimize.brentq(lambda x: below(x) - 0.025, -100, 100), rel=1e-6)
    assert result.ci_upper == pytest.approx(optimize.brentq(lambda x: below(x) - 0.975, -100, 100), rel=1e-6)
    assert result.p_value == pytest.approx(2 * min(below(0), 1 - below(0)), rel=1e-6)
    second_moment = weights @ (effects**2 + errors**2 * degrees / (degrees - 2))
    assert result.standard_error == pytest.approx(np.sqrt(second_moment - (weights @ effects) ** 2), rel=1e-5)


def numbers(result: Impact) -> Array:
    return np.array([result.effect, result.ci_lower, result.ci_upper])


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    shift=st.floats(-1e4, 1e4),
    scale=st.floats(1e-3, 1e3),
    with_control=st.booleans(),
)
def test_a_shift_leaves_and_a_scale_scales_the_effect(seed: int, shift: float, scale: float, with_control: bool) -> None:
    values, control = example(seed)
    plain = impact(values, BEFORE, controls=control if with_control else None)
    moved = impact(shift + scale * values, BEFORE, controls=shift - scale * control if with_control else None)
    mirrored = impact(-values, BEFORE, controls=control if with_control else None)
    assert numbers(moved) == pytest.approx(scale * numbers(plain), rel=1e-5, abs=1e-6 * scale)
    assert moved.p_value == pytest.approx(plain.p_value, rel=1e-5)
    assert moved.counterfactual == pytest.approx(shift + scale * plain.counterfactual, rel=1e-6, abs=1e-6 * scale)
    assert numbers(mirrored)[[0, 2, 1]] == pytest.approx(-numbers(plain), rel=1e-6)
    assert mirrored.p_value == pytest.approx(plain.p_value, rel=1e-6)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), alphas=st.lists(st.floats(0.001, 0.5), min_size=2, max_size=2, unique=True))
def test_the_interval_grows_as_alpha_falls_and_agrees_with_the_p_value(seed: int, alphas: list[float]) -> None:
    values, _ = example(seed)
    wide, narrow = (impact(values, BEFORE, alpha=alpha) for alpha in sorted(alphas))
    assert wide.ci_lower < narrow.ci_lower < narrow.effect < narrow.ci_upper < wide.ci_upper
    for alpha, result in zip(sorted(alphas), (wide, narrow), strict=True):
        assert (result.p_value < alpha) == (not result.ci_lower < 0 < result.ci_upper)


def test_a_lift_of_any_shape_moves_the_effect_by_its_mean() -> None:
    values, control = example()
    lift = np.linspace(0, 10, AFTER)
    plain = impact(values, BEFORE, controls=control)
    values[BEFORE:] += lift
    lifted = impact(values, BEFORE, controls=control)
    assert numbers(lifted) == pytest.approx(numbers(plain) + 5)
    assert lifted.counterfactual == pytest.approx(plain.counterfactual)


def test_the_sum_and_the_counterfactual_agree_with_the_effect() -> None:
    values, control = example()
    values[BEFORE + 3] = np.nan
    result = impact(values, BEFORE, controls=np.column_stack([control, control**2]))
    assert (result.n_before, result.n_after, result.status) == (BEFORE, AFTER - 1, "ok")
    assert np.isfinite(result.counterfactual).all()  # also on the day without a value
    assert np.nanmean(values[BEFORE:] - result.counterfactual) == pytest.approx(result.effect)
    assert result.cumulative == pytest.approx(13 * result.effect)
    assert result.cumulative_ci == pytest.approx((13 * result.ci_lower, 13 * result.ci_upper))


@pytest.mark.parametrize(
    ("noise", "with_control", "widest"),
    [
        ("AR .5", True, 4.5),
        ("AR .8", False, 17),
        ("AR .8, fading in", True, 9),
        ("AR .8, growing", False, 24),
        ("random walk", True, 3.5),
        ("random walk", False, 11),
    ],
)
def test_intervals_cover_the_lift_and_are_not_wider_than_needed(noise: str, with_control: bool, widest: float) -> None:
    """Of 100 intervals 95 % cover, with a standard error of 2.2 %; Welch intervals would cover 35 to 50 % in all but the first."""
    rng = np.random.default_rng(20261126)
    lift = np.linspace(0, 10, AFTER) if "fading" in noise else np.full(AFTER, 5.0)
    covered, widths = [], []
    for _ in range(100):
        if noise == "random walk":
            shared = np.cumsum(rng.normal(0, 0.7, DAYS)) + rng.normal(0, 2, DAYS)
            own, other = rng.normal(0, 1, (2, DAYS))
        else:
            phi = 0.5 if noise == "AR .5" else 0.8
            shared, own, other = autoregressive(rng, phi, 2), autoregressive(rng, phi), autoregressive(rng, phi)
        values = 100 + WEEK + shared + own + (np.arange(DAYS) if "growing" in noise else 0)
        values[BEFORE:] += lift
        result = impact(values, BEFORE, controls=50 + WEEK + shared + other if with_control else None)
        covered.append(result.ci_lower <= 5 <= result.ci_upper)
        widths.append(result.ci_upper - result.ci_lower)
    assert 0.87 <= np.mean(covered) <= 0.995
    assert np.mean(widths) <= widest


@pytest.mark.parametrize("slope", [1.0, -5.0])
def test_steady_growth_is_no_effect_of_the_change(slope: float) -> None:
    growth = slope * np.arange(DAYS)
    result = impact(growth, BEFORE)
    assert result.ci_lower < 0 < result.ci_upper
    assert result.counterfactual == pytest.approx(growth[BEFORE:], abs=0.2 * abs(slope))


def test_a_control_that_shares_the_noise_narrows_the_interval() -> None:
    values, control = example()
    alone, beside = impact(values, BEFORE), impact(values, BEFORE, controls=control)
    assert beside.standard_error < 0.7 * alone.standard_error


def test_a_control_that_adds_nothing_is_left_out_and_named() -> None:
    values, control = example()
    several = np.column_stack([np.full(DAYS, 3.0), control, 2 * control - 7, WEEK])
    result = impact(values, BEFORE, controls=several)
    assert numbers(result) == pytest.approx(numbers(impact(values, BEFORE, controls=control)), rel=1e-6)
    assert result.method.endswith("1 of 4 controls (constant or implied by the others: 0, 2, 3)")
    only_constant = impact(values, BEFORE, controls=np.full(DAYS, 3.0))
    assert numbers(only_constant) == pytest.approx(numbers(impact(values, BEFORE)))


def test_days_without_a_control_are_left_out_as_days_without_a_value() -> None:
    values, control = example()
    holes = [4, 30, 31, BEFORE + 2]
    gaps_in_control, gaps_in_values = control.copy(), values.copy()
    gaps_in_control[holes] = np.nan
    gaps_in_values[holes] = np.nan
    result = impact(values, BEFORE, controls=gaps_in_control)
    assert numbers(result) == pytest.approx(numbers(impact(gaps_in_values, BEFORE, controls=control)))
    assert np.flatnonzero(np.isnan(result.counterfactual)).tolist() == [2]


def test_weekdays_never_seen_before_the_change_are_not_compared() -> None:
    values, _ = example()
    weekend = np.arange(DAYS) % 7 >= 5
    values[weekend & (np.arange(DAYS) < BEFORE)] = np.nan
    result = impact(values, BEFORE)
    assert (result.status, result.n_before, result.n_after) == ("ok", 40, 10)
    assert np.isnan(result.counterfactual).tolist() == weekend[BEFORE:].tolist()


@pytest.mark.parametrize("after", [1, 3])
@pytest.mark.parametrize("season", [1, 7])
def test_a_short_time_after_the_change_is_enough(after: int, season: int) -> None:
    values, _ = example()
    result = impact(values[: BEFORE + after], BEFORE, season=season)
    assert result.status == "ok"
    assert result.ci_lower < result.effect < result.ci_upper
    assert result.counterfactual.shape == (after,)


def assert_nothing_claimed(result: Impact, status: str, reason: str) -> None:
    assert result.status == status
    assert result.reason is not None
    assert reason in result.reason
    assert np.isnan([result.effect, result.ci_lower, result.ci_upper, result.p_value, result.cumulative, *result.cumulative_ci]).all()
    assert np.isnan(result.counterfactual).all()


@pytest.mark.parametrize(("season", "controls", "needed"), [(7, 0, 17), (1, 0, 11), (7, 2, 19)])
def test_too_few_days_before_the_change(season: int, controls: int, needed: int) -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(0, 1, needed + 4)
    others = rng.normal(0, 1, (needed + 4, controls)) if controls else None
    assert impact(values, needed, controls=others, season=season).status == "ok"
    values[2] = np.nan
    result = impact(values, needed, controls=others, season=season)
    assert_nothing_claimed(result, "insufficient_data", f"{needed - 1} complete days before the change, at least {needed}")


def test_no_day_after_the_change() -> None:
    values, control = example()
    assert_nothing_claimed(impact(values, DAYS), "insufficient_data", "no complete day after")
    control[BEFORE:] = np.nan
    assert_nothing_claimed(impact(values, BEFORE, controls=control), "insufficient_data", "no complete day after")
    assert_nothing_claimed(impact([], 0), "insufficient_data", "0 complete days")
    assert_nothing_claimed(impact(np.full(DAYS, np.nan), BEFORE), "insufficient_data", "0 complete days")


def test_no_noise_before_the_change() -> None:
    after = np.arange(DAYS) >= BEFORE
    for values in (np.zeros(DAYS), np.full(DAYS, 0.1), 1e9 + 0.3 * WEEK, 0.1 + 5.0 * after):
        assert_nothing_claimed(impact(values, BEFORE), "undefined", "no noise")
    values, _ = example()
    assert_nothing_claimed(impact(values, BEFORE, controls=3 * values + 1), "undefined", "no noise")


def test_infinite_numbers() -> None:
    values, control = example()
    values[5] = np.inf
    assert_nothing_claimed(impact(values, BEFORE), "undefined", "infinite")
    values[5], control[BEFORE] = 0, -np.inf
    assert_nothing_claimed(impact(values, BEFORE, controls=control), "undefined", "infinite")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("values", {"values": np.zeros((3, 3))}),
        ("values", {"values": ["a"]}),
        ("intervention", {"intervention": -1}),
        ("intervention", {"intervention": DAYS + 1}),
        ("intervention", {"intervention": 1.5}),
        ("controls", {"controls": np.zeros(DAYS - 1)}),
        ("controls", {"controls": np.zeros((1, DAYS))}),
        ("controls", {"controls": np.zeros((DAYS, 1, 1))}),
        ("controls", {"controls": ["a"] * DAYS}),
        ("season", {"season": 0}),
        ("alpha", {"alpha": 0.0}),
        ("alpha", {"alpha": 1.0}),
    ],
)
def test_wrong_arguments_are_named(name: str, arguments: dict[str, object]) -> None:
    right: dict[str, object] = {"values": np.zeros(DAYS), "intervention": BEFORE}
    with pytest.raises(ValueError, match=f"^{name} must"):
        impact(**(right | arguments))  # type: ignore[arg-type]
