"""Exact binomial tails and the one-sided bounds that follow from them, with the standard library only.

What decides within a tick whether a share is above a limit for sure belongs here; whoever compares two samples wants ``significance``,
which needs SciPy. The bounds are those of Clopper and Pearson (Biometrika 26, 1934): a share of k in n is above p with
confidence 1 − α exactly when P(X ≥ k | n, p) ≤ α, so that a decision needs one tail and no inversion.
"""

from __future__ import annotations

import math

_NEGLIGIBLE = 1e-18  # of the sum so far
_STEPS = 60  # of a bisection: beyond the precision of a float


def at_least(successes: int, n: int, p: float) -> float:
    """P(X ≥ successes) of X ~ Binomial(n, p). Raises ValueError for successes outside of 0 to n, or p outside of [0, 1].

    >>> round(at_least(3, 10, 0.1), 6)
    0.070191
    """
    if not 0 <= successes <= n or not 0 <= p <= 1:
        raise ValueError(f"of n events 0 to n are successes and p lies in [0, 1], not {successes} of {n} at {p}")
    if successes == 0 or p == 1:
        return 1.0
    if p == 0:
        return 0.0
    if successes > n * p:
        return min(_sum(successes, n, p), 1.0)
    return max(1.0 - _sum(n - successes + 1, n, 1 - p), 0.0)  # the failures: at least so many


def at_most(successes: int, n: int, p: float) -> float:
    """P(X ≤ successes) of X ~ Binomial(n, p). Raises ValueError as ``at_least`` does.

    >>> round(at_most(2, 10, 0.5), 6)
    0.054688
    """
    return at_least(n - successes, n, 1 - p)


def lower_bound(successes: int, n: int, confidence: float = 0.975) -> float:
    """The one-sided exact lower bound of a share; 0 without events.

    >>> round(lower_bound(8, 10), 4)
    0.4439
    """
    alpha = 1 - confidence
    if n == 0 or successes == 0:
        return 0.0
    low, high = 0.0, successes / n
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if at_least(successes, n, middle) <= alpha else (low, middle)
    return low


def upper_bound(successes: int, n: int, confidence: float = 0.975) -> float:
    """The one-sided exact upper bound of a share; 1 without events.

    >>> round(upper_bound(2, 10), 4)
    0.5561
    """
    return 1 - lower_bound(n - successes, n, confidence)


def _sum(first: int, n: int, p: float) -> float:
    """The probabilities of ``first`` and more successes, where each is smaller than the one before."""
    log = math.lgamma(n + 1) - math.lgamma(first + 1) - math.lgamma(n - first + 1) + first * math.log(p) + (n - first) * math.log1p(-p)
    term = total = math.exp(log)
    odds = p / (1 - p)
    for k in range(first, n):
        term *= (n - k) / (k + 1) * odds
        total += term
        if term <= total * _NEGLIGIBLE:
            break
    return total
