"""Means that rest on a judge: unbiased whatever the judge's bias, narrower the better it judges, honest with few labels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from metamon_assets.statistics.prediction_powered import Estimate, mean


def judged(rng: np.random.Generator, n: int, right: float, hit: float, wrong: float) -> tuple[np.ndarray, np.ndarray]:
    """Labels with the share ``right``, and a judge that passes ``hit`` of the right answers and ``wrong`` of the others."""
    labels = (rng.random(n) < right).astype(float)
    return labels, np.where(labels == 1, rng.random(n) < hit, rng.random(n) < wrong).astype(float)


@pytest.mark.parametrize(("labelled", "inside"), [(30, True), (30, False), (200, True)])
def test_the_interval_covers_the_truth_whatever_the_judges_bias(labelled: int, inside: bool) -> None:
    rng, covered, values, widths, alone = np.random.default_rng(1), 0, [], [], []
    for _ in range(1500):
        labels, scores = judged(rng, 3000, 0.7, 0.95, 0.4)  # the judge's own mean is .785
        result = mean(scores if inside else scores[labelled:], scores[:labelled], labels[:labelled])
        covered += result.ci_lower <= 0.7 <= result.ci_upper
        values.append(result.value)
        widths.append(result.standard_error)
        alone.append(labels[:labelled].std(ddof=1) / math.sqrt(labelled))
    assert covered / 1500 == pytest.approx(0.95, abs=0.025)
    assert np.mean(values) == pytest.approx(0.7, abs=0.012)
    assert np.mean(widths) < 0.85 * np.mean(alone)


def test_a_judge_that_guesses_costs_nothing() -> None:
    rng, ratios = np.random.default_rng(2), []
    for _ in range(300):
        labels, scores = judged(rng, 3000, 0.7, 0.5, 0.5)
        result = mean(scores, scores[:100], labels[:100])
        ratios.append(result.standard_error / (labels[:100].std(ddof=1) / 10))
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.02)


def test_a_judge_that_says_the_same_of_everything_leaves_the_labels() -> None:
    labels = np.array([1.0, 0.0] * 20)
    result = mean(np.ones(500), np.ones(40), labels)
    assert result.value == 0.5
    assert result.standard_error == pytest.approx(math.sqrt(labels.var() * 40 / 38 / 40))


def test_the_interval_is_students() -> None:
    labels, scores = judged(np.random.default_rng(5), 500, 0.6, 0.9, 0.3)
    result = mean(scores, scores[:20], labels[:20])
    assert result.ci_upper - result.value == pytest.approx(stats.t.ppf(0.975, 18) * result.standard_error)


def test_a_judge_that_was_never_wrong_in_a_few_is_not_taken_for_perfect() -> None:
    result = mean([1.0, 0.0] * 500, [1.0] * 27 + [0.0] * 3, [1.0] * 27 + [0.0] * 3)
    assert result.standard_error > 1 / 31


def test_scores_on_another_scale_change_nothing() -> None:
    labels, scores = judged(np.random.default_rng(3), 800, 0.6, 0.9, 0.2)
    here, there = mean(scores, scores[:60], labels[:60]), mean(10 * scores - 3, 10 * scores[:60] - 3, labels[:60])
    assert (here.value, here.standard_error) == pytest.approx((there.value, there.standard_error))


@pytest.mark.parametrize(
    ("judged_all", "sample", "labels", "status"),
    [
        ([], [1.0] * 20, [1.0, 0.0] * 10, "insufficient_data"),
        ([1.0, 0.0] * 9, [1.0] * 9, [1.0] * 9, "insufficient_data"),
        ([1.0, math.nan] * 9, [1.0, 0.0] * 9, [1.0, 0.0] * 9, "undefined"),
        ([2.0] * 30, [2.0] * 20, [2.0] * 20, "undefined"),
        ([1e308, -1e308] * 30, [1e308, -1e308] * 10, [1e308, -1e308] * 10, "undefined"),
    ],
)
def test_data_that_have_no_answer_say_so(judged_all: list[float], sample: list[float], labels: list[float], status: str) -> None:
    result = mean(judged_all, sample, labels)
    assert isinstance(result, Estimate)
    assert (result.status, math.isnan(result.value), math.isnan(result.ci_lower)) == (status, True, True)
    assert result.reason


def test_a_wrong_argument_is_named() -> None:
    with pytest.raises(ValueError, match="judged_labelled"):
        mean([1.0], [1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="alpha"):
        mean([1.0], [1.0], [1.0], alpha=0)
