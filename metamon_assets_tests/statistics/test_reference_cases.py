"""Figures that other libraries, tables and papers give, at the tolerances of the reference cases beside the repository.

Which kind of case tests which call is told by the README of the cases; a kind that it marks as outside is skipped with
its reason, and a kind that nobody knows fails.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from metamon_assets.statistics import power, sequential, significance
from metamon_assets.statistics.significance import AdjustedMean, SampleMean, SampleProportion, SampleRatio

CASES = Path(os.environ.get("METAMON_SHARED_CASES", Path(__file__).resolve().parents[3] / "shared" / "cases")) / "statistics"
OUTSIDE = {
    "bernoulli_confidence_sequence": "another boundary than the interface offers",
    "classical_obrien_fleming": "classical bounds; ours spend as Lan and DeMets",
    "normal_log_mixture": "a boundary, not a comparison",
    "ratio_metric_cuped_sequential": "CUPED of ratios is not offered",
    "two_proportions_boschloo": "exact tests are not offered",
    "wald_ci": "an interval of one share is not offered",
}
# Two cases give the sample size of a power of .85, 4 (1.960 + 1.036)² variance / effect², and name a power of .8.
MISSTATED = {"spc_ss_cont": {"power": 0.85}, "spc_ss_bin_small": {"power": 0.85}}
P_ADJUST = {
    "bh": "fdr_bh",
    "by": "fdr_by",
    "holm_bonferroni": "holm",
    "holm_sidak": "holm-sidak",
    "hochberg_bonferroni": "simes-hochberg",
}
Case = dict[str, Any]
Figures = dict[str, Any]


def sample(arm: Case) -> SampleMean | SampleProportion:
    if "successes" in arm:
        return SampleProportion(arm["n"], arm["successes"])
    return SampleMean(arm["n"], arm["sum"], arm["sum_squares"]) if "sum_squares" in arm else SampleProportion(arm["n"], arm["sum"])


def from_moments(arm: Case, metric: str) -> SampleMean:
    n, mean, variance = arm["n"], arm["mean"][metric], arm["var_ddof1"][metric]
    return SampleMean(n, n * mean, (n - 1) * variance + n * mean**2)


def question(inputs: Case) -> Figures:
    return {name: inputs[name] for name in ("difference", "alternative", "alpha") if name in inputs}


def figures(result: object) -> Figures:
    return {name: getattr(result, name) for name in ("effect", "ci_lower", "ci_upper", "p_value", "standard_error")}


def bayesian_ab(inputs: Case) -> Figures:
    asked = {name: inputs[name] for name in ("difference", "prior", "alpha")}
    result = significance.bayesian(sample(inputs["control"]), sample(inputs["treatment"]), **asked)
    return {
        "effect": result.effect,
        "ci_lower": result.ci[0],
        "ci_upper": result.ci[1],
        "chance_to_win": result.chance_to_win,
        "posterior_sd": result.standard_deviation,
        "expected_loss_if_choose_control": result.expected_loss_control,
        "expected_loss_if_choose_treatment": result.expected_loss_treatment,
    }


def bonferroni_ci(inputs: Case) -> Figures:
    treatments = [sample(arm) for arm in inputs["treatments"]]
    # The case's effect is control − treatment, so its control stands where ours has the treatment.
    wide = inputs["alpha"] / inputs["comparisons"]
    results = [significance.compare(arm, sample(inputs["control"]), method="wald", alpha=wide) for arm in treatments]
    p_values = [result.p_value for result in results]
    return {
        "difference": [result.effect for result in results],
        "p_value": p_values,
        "adjusted_p": significance.adjust_p_values(p_values, "bonferroni").tolist(),
        "adjusted_ci_lower": [result.ci_lower for result in results],
        "adjusted_ci_upper": [result.ci_upper for result in results],
    }


def cuped(inputs: Case) -> Figures:
    if "metric" in inputs:
        pytest.skip("tea-tasting's relative effect uses re-centred means: outside")
    arms = [
        AdjustedMean(
            arm["n"],
            arm["post"]["sum"],
            arm["post"]["sum_squares"],
            arm["pre"]["sum"],
            arm["pre"]["sum_squares"],
            arm["post_pre_sum_of_products"],
        )
        for arm in (inputs["control"], inputs["treatment"])
    ]
    return {**figures(significance.compare(arms[0], arms[1], **question(inputs))), "theta": (arms[0] + arms[1]).theta}


def group_sequential(spending: str) -> Callable[[Case], Figures]:
    def compute(inputs: Case) -> Figures:
        fractions, alpha, two_sided = inputs["information_fractions"], inputs["alpha"], inputs["two_sided"]
        return {"z": sequential.group_sequential_bounds(fractions, alpha=alpha, spending=spending, two_sided=two_sided).tolist()}

    return compute


def non_inferiority_z(inputs: Case) -> Figures:
    result = significance.non_inferiority(
        sample(inputs["control"]),
        sample(inputs["treatment"]),
        margin=inputs["relative_margin"],
        higher_is_better=inputs["preferred_direction"] == "increase",
        alpha=inputs["alpha"],
        method="z",
    )
    return figures(result)


def p_adjust(inputs: Case) -> Figures:
    if inputs["method"] not in P_ADJUST:
        pytest.skip(f"{inputs['method']}: outside")
    adjusted = significance.adjust_p_values(inputs["p_values"], P_ADJUST[inputs["method"]])
    return {"adjusted": adjusted.tolist(), "reject_at_0_05": (adjusted <= 0.05).tolist()}


def power_case(inputs: Case) -> Figures:
    mean = inputs["mean"]
    relative = inputs.get("rel_effect", inputs["effect"] / mean if "effect" in inputs else None)
    known: dict[str, Any] = {"relative_effect": relative, "n_total": inputs.get("n_total"), "power": inputs.get("power")}
    common: dict[str, Any] = {name: inputs[name] for name in ("alpha", "ratio", "alternative")}
    found = power.solve(baseline_mean=mean, baseline_variance=inputs["var_ddof1"], **known, **common)
    return (
        {inputs["solve"]: found, "rel_effect": found, "effect": found * mean} if inputs["solve"] == "effect" else {inputs["solve"]: found}
    )


def sample_size(inputs: Case) -> Figures:
    if "baseline_proportion" in inputs:
        mean, effect = inputs["baseline_proportion"], inputs["absolute_percentage_mde"]
        variance = mean * (1 - mean)
    else:
        mean, variance, effect = 1.0, inputs["baseline_variance"], inputs["average_absolute_mde"]
    asked = {"relative_effect": effect / mean, "power": inputs["power"], "alpha": inputs["alpha"]}
    return {"n_total": power.solve(baseline_mean=mean, baseline_variance=variance, **asked)}


def quantile(inputs: Case) -> Figures:
    if inputs["prior"] is not None:
        pytest.skip("a prior on a quantile's effect: outside")
    arms = [significance.QuantileSummary(**inputs[arm]) for arm in ("control", "treatment")]
    return figures(significance.compare_quantile(arms[0], arms[1], arms[0].q, difference=inputs["difference"], alpha=inputs["alpha"]))


def ratio_metric(inputs: Case) -> Figures:
    arms = [
        SampleRatio(
            arm["n"],
            arm["numerator"]["sum"],
            arm["numerator"]["sum_squares"],
            arm["denominator"]["sum"],
            arm["denominator"]["sum_squares"],
            arm["num_den_sum_of_products"],
        )
        for arm in (inputs["control"], inputs["treatment"])
    ]
    result = significance.compare(arms[0], arms[1], **question(inputs))
    return {**figures(result), "control_ratio": result.control_estimate, "treatment_ratio": result.treatment_estimate}


def repeated_testing(inputs: Case) -> Figures:
    looks = inputs["looks"]
    z = [sequential.group_sequential_bounds([1.0], alpha=inputs["nominal_alpha_per_look"], two_sided=inputs["two_sided"])[0]] * looks
    fractions = [(look + 1) / looks for look in range(looks)]
    return {"overall_type1": float(sequential.crossing_probabilities(z, fractions, two_sided=inputs["two_sided"])[-1])}


def sequential_cs(inputs: Case) -> Figures:
    arms = sample(inputs["control"]), sample(inputs["treatment"])
    return figures(sequential.confidence_sequence(*arms, **question(inputs), tuning_n=inputs["tuning_n"]))


def srm(inputs: Case) -> Figures:
    if inputs.get("correction"):
        pytest.skip("a continuity correction: outside")
    observed = inputs["observed"]
    p_value = significance.sample_ratio_mismatch(observed, inputs["expected_weights"])
    return {"p_value": p_value, "dof": len(observed) - 1, "srm_at_0_001": p_value < 0.001}


def two_proportions_z(inputs: Case) -> Figures:
    if inputs.get("correction"):
        pytest.skip("a continuity correction: outside")
    arms = sample(inputs["control"]), sample(inputs["treatment"])
    asked = {"alternative": inputs["alternative"], "alpha": inputs.get("alpha", 1 - inputs.get("confidence", 0.95))}
    score, wald = (significance.compare(*arms, method=method, **asked) for method in ("score", "wald"))
    unpooled = not inputs.get("pooled", True)
    sequence = sequential.confidence_sequence(*arms, tuning_n=arms[0].n + arms[1].n)
    return {
        "effect": wald.effect,
        "p_value": wald.p_value if unpooled else score.p_value,
        "p_value_pooled": score.p_value,
        "ci_lower_unpooled": wald.ci_lower,
        "ci_upper_unpooled": wald.ci_upper,
        "always_valid_p_tuned_at_N": sequence.p_value,
        **({"effect_ci_lower": wald.ci_lower, "effect_ci_upper": wald.ci_upper} if unpooled else {}),
    }


def two_sample_mean(inputs: Case) -> Figures:
    if "metric" not in inputs:
        arms = sample(inputs["control"]), sample(inputs["treatment"])
        return figures(significance.compare(*arms, **question(inputs), null=inputs.get("null_value", 0.0)))
    if inputs["equal_var"]:
        pytest.skip("equal variances: outside")
    means = [from_moments(inputs[arm], inputs["metric"]) for arm in ("control", "treatment")]
    asked = {"alternative": inputs["alternative"], "alpha": 1 - inputs["confidence"], "method": "t" if inputs["use_t"] else "wald"}
    result = significance.compare(means[0], means[1], **asked)
    return {
        "control": result.control_estimate,
        "treatment": result.treatment_estimate,
        "effect": result.effect,
        "effect_ci_lower": result.ci_lower,
        "effect_ci_upper": result.ci_upper,
        "p_value": result.p_value,
        "statistic": result.effect / result.standard_error,
    }


def two_sample_proportion_t(inputs: Case) -> Figures:
    arms = sample(inputs["control"]), sample(inputs["treatment"])
    return figures(significance.compare(*arms, **question(inputs), method="t"))


COMPUTE: dict[str, Callable[[Case], Figures]] = {
    "bayesian_ab": bayesian_ab,
    "bonferroni_ci": bonferroni_ci,
    "cuped": cuped,
    "lan_demets_obf": group_sequential("obrien_fleming"),
    "lan_demets_pocock": group_sequential("pocock"),
    "non_inferiority_z": non_inferiority_z,
    "p_adjust": p_adjust,
    "power": power_case,
    "power_spending": group_sequential("power:2"),
    "quantile_bayesian": quantile,
    "ratio_metric": ratio_metric,
    "repeated_testing_type1": repeated_testing,
    "sample_size": sample_size,
    "sequential_cs": sequential_cs,
    "srm": srm,
    "two_proportions_z": two_proportions_z,
    "two_sample_mean": two_sample_mean,
    "two_sample_proportion_t": two_sample_proportion_t,
}
# What a case expects beside what the README maps to our definitions.
NOT_COMPARED = {
    "two_sample_mean": {"rel_effect", "rel_ci_lower", "rel_ci_upper"},  # tea-tasting's, log-based
    "two_proportions_z": {"rel_effect", "rel_ci_lower", "rel_ci_upper", "effect_ci_lower", "effect_ci_upper"},
}


def cases() -> Iterator[Any]:
    found = sorted(CASES.glob("*.json"))
    if not found:
        yield pytest.param(None, id="none", marks=pytest.mark.skip(f"no reference cases in {CASES}"))
    for path in found:
        for case in json.loads(path.read_text(encoding="utf-8")):
            yield pytest.param(case, id=case["id"])


@pytest.mark.parametrize("case", list(cases()))
def test_a_reference_case(case: Case) -> None:
    kind = case["kind"]
    if kind in OUTSIDE:
        pytest.skip(OUTSIDE[kind])
    computed = COMPUTE[kind](case["inputs"] | MISSTATED.get(case["id"], {}))
    tolerance, compared = case["tolerance"], 0
    for name, expected in case["expected"].items():
        if name not in computed:
            assert name in NOT_COMPARED.get(kind, set()), f"nothing computes {name}"
            continue
        wanted = [float(value) for value in expected] if isinstance(expected, list) else float(expected)
        assert computed[name] == pytest.approx(wanted, rel=tolerance.get("rel", 0.0), abs=tolerance.get("abs", 0.0)), name
        compared += 1
    assert compared
    assert not any(isinstance(value, float) and math.isnan(value) for value in computed.values())
