"""Score tests of proportions and their intervals: the statistic has its variance where the null holds, not where the data are.

That keeps the size of a test with a small arm and a share near 0 or 1 (a 10 % canary with an error rate of 10 %), where
the unpooled test rejects far too often, and an interval that inverts the test agrees with its p-value. No continuity
correction. Three kinds: a difference of two shares (Mee: Biometrics 1984, 40, 1175), their ratio (Koopman: Biometrics 1984,
40, 513), both also over strata, and a difference of paired shares (Tango: Statistics in Medicine 1998, 17, 891). Here are
the numbers; what they are called and when they are undefined is told in ``significance``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# How closely the bounds of an interval are found; SciPy takes no smaller relative one.
TOLERANCE, RELATIVE_TOLERANCE = 1e-14, 4e-15
# From this many units on, the root of the cubic needs polishing.
LARGE, NEWTON_STEPS = 1e5, 20


@dataclass(frozen=True, slots=True)
class TwoShares:
    """Successes and units of control and treatment in each stratum, arrays of shape (strata,), and each stratum's weight."""

    control_successes: Floats
    control_n: Floats
    treatment_successes: Floats
    treatment_n: Floats
    weights: Floats

    @property
    def control(self) -> Floats:
        """The share in the control, by stratum."""
        return self.control_successes / self.control_n

    @property
    def treatment(self) -> Floats:
        """The share in the treatment, by stratum."""
        return self.treatment_successes / self.treatment_n

    @property
    def pooled_variance(self) -> float:
        """The variance of the weighted difference when both arms have the same share; 0 where all outcomes are the same."""
        successes, n = self.control_successes + self.treatment_successes, self.control_n + self.treatment_n
        share = successes / n
        variance = share * (1 - share) * (1 / self.control_n + 1 / self.treatment_n)
        return float(self.weights**2 @ (self._factor * variance))

    def difference_statistic(self, delta: float) -> float:
        """The score statistic of treatment − control = ``delta``, which every stratum shares; ``delta`` strictly within ±1."""
        control = self._control_given_difference(delta)
        control = np.clip(control, max(0.0, -delta), min(1.0, 1.0 - delta))
        return self._statistic(self.treatment - self.control - delta, control, control + delta, 1.0)

    def ratio_statistic(self, ratio: float) -> float:
        """The score statistic of treatment / control = ``ratio``, which every stratum shares; ``ratio`` above 0."""
        control = np.clip(self._control_given_ratio(ratio), 0.0, min(1.0, 1.0 / ratio))
        return self._statistic(self.treatment - ratio * self.control, control, ratio * control, ratio)

    def _statistic(self, distance: Floats, control: Floats, treatment: Floats, scale: float) -> float:
        variance = treatment * (1 - treatment) / self.treatment_n + scale**2 * control * (1 - control) / self.control_n
        return _ratio(float(self.weights @ distance), float(self.weights**2 @ (self._factor * variance)))

    @property
    def _factor(self) -> Floats:
        """N / (N − 1) where strata are combined (Mantel, Haenszel: JNCI 1959, 22, 719): in small ones it matters."""
        n = self.control_n + self.treatment_n
        return n / (n - 1) if n.size > 1 else np.ones(1)

    def _control_given_difference(self, delta: float) -> Floats:
        """The control's most likely share when the treatment's is larger by ``delta``: the root of a cubic.

        Its coefficients and the choice of the root are Miettinen's and Nurminen's (Statistics in Medicine 1985, 4, 213).
        """
        x_c, n_c, x_t, n_t = self.control_successes, self.control_n, self.treatment_successes, self.treatment_n
        n, x = n_c + n_t, x_c + x_t
        if delta == 0:
            return x / n
        b = (n_t + 2 * n_c) * delta - n - x
        c = (n_c * delta - n - 2 * x_c) * delta + x
        d = x_c * delta * (1 - delta)
        q = b**3 / (3 * n) ** 3 - b * c / (6 * n**2) + d / (2 * n)
        p = np.copysign(np.sqrt(np.maximum(b**2 / (3 * n) ** 2 - c / (3 * n), 0)), q)
        cosine = np.divide(q, p**3, out=np.zeros_like(q), where=p != 0)
        angle = (math.pi + np.arccos(np.clip(cosine, -1, 1))) / 3
        root = 2 * p * np.cos(angle) - b / (3 * n)
        return self._polished(root, delta) if n.max() > LARGE else root

    def _polished(self, share: Floats, delta: float) -> Floats:
        """The root of the score equation by a few Newton steps: the cubic's own loses all digits where events are rare in large n.

        (Without it, an error of 1e-6 of a bound with a million units, of some percent with a hundred million; with it, below 1e-6.)
        """
        x_c, n_c, x_t, n_t = self.control_successes, self.control_n, self.treatment_successes, self.treatment_n
        low, high = max(0.0, -delta), min(1.0, 1.0 - delta)
        share = np.clip(share, low + 1e-300, high)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            for _ in range(NEWTON_STEPS):
                terms = (x_c / share, (n_c - x_c) / (1 - share), x_t / (share + delta), (n_t - x_t) / (1 - share - delta))
                slope = terms[0] / share + terms[1] / (1 - share) + terms[2] / (share + delta) + terms[3] / (1 - share - delta)
                step = (terms[0] - terms[1] + terms[2] - terms[3]) / slope
                moved = np.where(np.isfinite(step), share + step, share)
                share = np.where(moved <= low, (share + low) / 2, np.where(moved >= high, (share + high) / 2, moved))
        return share

    def _control_given_ratio(self, ratio: float) -> Floats:
        """The control's most likely share when the treatment's is ``ratio`` times it: the smaller root of a quadratic."""
        x = self.control_successes + self.treatment_successes
        a = (self.control_n + self.treatment_n) * ratio
        b = self.treatment_n * ratio + self.treatment_successes + self.control_n + self.control_successes * ratio
        return 2 * x / (b + np.sqrt(np.maximum(b**2 - 4 * a * x, 0)))


def difference_interval(shares: TwoShares, estimate: float, z: float) -> tuple[float, float]:
    """The differences that a score test at ±``z`` does not reject, around their ``estimate``."""
    edge = 1 - 1e-12
    return (
        _crossing(lambda delta: shares.difference_statistic(delta) - z, -edge, estimate, -1.0),
        _crossing(lambda delta: shares.difference_statistic(delta) + z, edge, estimate, 1.0),
    )


def ratio_interval(shares: TwoShares, estimate: float, z: float) -> tuple[float, float]:
    """The ratios that a score test at ±``z`` does not reject, around their ``estimate``; from 0 to infinity."""
    smallest, largest = 1e-12, 1e12
    return (
        0.0 if estimate <= smallest else _crossing(lambda ratio: shares.ratio_statistic(ratio) - z, smallest, estimate, 0.0),
        _crossing(lambda ratio: shares.ratio_statistic(ratio) + z, largest, max(estimate, smallest), math.inf),
    )


def paired_statistic(gained: float, lost: float, n: float, delta: float) -> float:
    """Tango's statistic of a paired difference ``delta``; at 0 it is McNemar's (gained − lost) / √(gained + lost).

    ``gained``: pairs in which only the treatment succeeds; ``lost``: only the control; ``n``: all pairs.
    """
    b = (2 * n - gained + lost) * delta - gained - lost
    c = -lost * delta * (1 - delta)
    discordant = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
    return _ratio(gained - lost - n * delta, n * (2 * discordant + delta * (1 - delta)))


def paired_interval(gained: float, lost: float, n: float, z: float) -> tuple[float, float]:
    """The paired differences that Tango's test at ±``z`` does not reject."""
    estimate, edge = (gained - lost) / n, 1 - 1e-12
    return (
        _crossing(lambda delta: paired_statistic(gained, lost, n, delta) - z, -edge, estimate, -1.0),
        _crossing(lambda delta: paired_statistic(gained, lost, n, delta) + z, edge, estimate, 1.0),
    )


def _ratio(distance: float, variance: float) -> float:
    """Distance over its standard deviation; 0 where both are zero, which happens at the estimate itself only."""
    if variance > 0:
        return distance / math.sqrt(variance)
    return math.copysign(math.inf, distance) if distance else 0.0


def _crossing(function: Callable[[float], float], far: float, near: float, beyond: float) -> float:
    """Where a falling function crosses zero between the edge (``far``) and an estimate (``near``); ``beyond`` if nowhere."""
    from scipy import optimize

    if function(far) * function(near) > 0 or far == near:
        return beyond
    return float(optimize.brentq(function, far, near, xtol=TOLERANCE, rtol=RELATIVE_TOLERANCE, maxiter=200))


def share_interval(successes: float, n: float, z: float = 1.959963984540054) -> tuple[float, float]:
    """The interval of one share by the score test (Wilson: JASA 1927); (NaN, NaN) where there are no units.

    >>> low, high = share_interval(8, 10)
    >>> round(low, 4), round(high, 4)
    (0.4902, 0.9433)
    >>> share_interval(0, 0)
    (nan, nan)
    """
    if n <= 0:
        return math.nan, math.nan
    share, penalty = successes / n, z * z / n
    middle = (share + penalty / 2) / (1 + penalty)
    width = z * math.sqrt(share * (1 - share) / n + penalty / (4 * n)) / (1 + penalty)
    return max(middle - width, 0.0), min(middle + width, 1.0)
