"""A mixture of t distributions: what is believed of a number when the model around it is not known for certain.

``causal`` and ``trend`` fit one model for each kind of noise, weigh the models, and read estimate, interval and p-value
from the mixture of their t distributions. How models are fitted and weighed is told there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class TMixture:
    """Arrays of shape (models,): weights that add up to 1, locations and scales; the degrees of freedom are common to all.

    >>> mixture = TMixture(np.array([0.5, 0.5]), np.array([-1.0, 1.0]), np.array([1.0, 1.0]), 30)
    >>> mixture.mean, mixture.below(0.0), round(mixture.quantile(0.5), 6) + 0.0
    (0.0, 0.5, 0.0)
    """

    weights: NDArray[np.float64]
    locations: NDArray[np.float64]
    scales: NDArray[np.float64]
    degrees: int

    @property
    def mean(self) -> float:
        """The mean of the mixture."""
        return float(self.weights @ self.locations)

    @property
    def standard_deviation(self) -> float:
        """Within the models and between them; needs more than two degrees of freedom."""
        within = self.scales**2 * self.degrees / (self.degrees - 2)
        return float(np.sqrt(self.weights @ (within + (self.locations - self.mean) ** 2)))

    def below(self, value: float) -> float:
        """The probability of a number below ``value``."""
        from scipy.special import stdtr

        return float(self.weights @ stdtr(self.degrees, (value - self.locations) / self.scales))

    def above(self, value: float) -> float:
        """The probability of a number above ``value``, exact also where it is tiny."""
        from scipy.special import stdtr

        return float(self.weights @ stdtr(self.degrees, (self.locations - value) / self.scales))

    def p_value(self, null: float = 0.0) -> float:
        """Twice the smaller tail at ``null``: below alpha exactly when the central 1 − alpha interval leaves it out."""
        return 2 * min(self.below(null), self.above(null), 0.5)

    def quantile(self, probability: float) -> float:
        """The number that has ``probability`` below it, between the smallest and the largest of the models' own quantiles."""
        from scipy.optimize import brentq
        from scipy.special import stdtrit

        ends = self.locations + self.scales * stdtrit(self.degrees, probability)
        margin = 1e-6 * float(self.scales.max())  # so that the signs differ also where all models agree
        low, high = float(ends.min()) - margin, float(ends.max()) + margin
        return float(brentq(lambda value: self.below(value) - probability, low, high, xtol=1e-6 * margin))
