"""Uncertainty of accuracies: over seeds, of one run, and of a difference. All from scipy.stats.

Intervals are two-sided at 95 %. Accuracies are shares in [0, 1].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
# below this many seeds a bootstrap has too few values to draw from and is far too narrow
BOOTSTRAP_FROM = 10
RANK_DRAWS = 4000

Verdict = Literal["resolved", "not resolved", "n too small"]


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` seeds and its interval; without one (n = 1) both ends are None."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def half_width(self) -> float | None:
        """Half the interval: the figure after the plus-minus sign."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


@dataclass(frozen=True)
class Ranks:
    """The rank of a system by its mean, 1 is best, and how sure it is.

    Attributes:
        low: best rank of the interval.
        high: worst rank of the interval.
        shares: how often it has each rank when seeds are drawn anew.
    """

    rank: int
    low: int
    high: int
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Difference:
    """Mean of a minus mean of b with Welch's interval and p-value (None where n is too small)."""

    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    verdict: Verdict


def mean_interval(values: Sequence[float]) -> Estimate:
    """Mean over seeds: Student's t interval below ten seeds, BCa bootstrap from ten on.

    With the three seeds of a common table t assumes normal seeds but is honest about n: 4.3
    standard errors, where a bootstrap of three values would claim less than two.

    Raises:
        ValueError: no value.
    """
    if not values:
        raise ValueError("no values: the mean of nothing is missing, not 0")
    mean, n = float(np.mean(values)), len(values)
    if n == 1:
        return Estimate(mean, None, None, 1)
    if min(values) == max(values):
        return Estimate(mean, mean, mean, n)
    if n < BOOTSTRAP_FROM:
        low, high = stats.t.interval(CONFIDENCE, n - 1, loc=mean, scale=stats.sem(values))
    else:
        sample = (np.asarray(values),)
        low, high = stats.bootstrap(
            sample, np.mean, confidence_level=CONFIDENCE, rng=np.random.default_rng(0)
        ).confidence_interval
    return Estimate(mean, float(low), float(high), n)


def interquartile_mean(values: Sequence[float]) -> Estimate:
    """Mean of the middle half, which one lucky or stuck seed does not move, with its interval.

    The interval is a bootstrap from ten values on; of fewer there is none to draw from honestly.

    Raises:
        ValueError: no value.
    """
    if not values:
        raise ValueError("no values: the mean of nothing is missing, not 0")
    mean, n = float(stats.trim_mean(values, 0.25)), len(values)
    if n < BOOTSTRAP_FROM:
        return Estimate(mean, None, None, n)
    if min(values) == max(values):
        return Estimate(mean, mean, mean, n)

    def middle(sample: np.ndarray, axis: int) -> np.ndarray:
        return np.asarray(stats.trim_mean(sample, 0.25, axis=axis))

    low, high = stats.bootstrap(
        (np.asarray(values),), middle, confidence_level=CONFIDENCE, method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return Estimate(mean, float(low), float(high), n)


def binomial_interval(accuracy: float, n_test: int) -> tuple[float, float]:
    """Clopper-Pearson interval of one run's accuracy on ``n_test`` independent examples.

    Raises:
        ValueError: an accuracy outside [0, 1] or no example.
    """
    if not 0 <= accuracy <= 1 or n_test < 1:
        raise ValueError(f"accuracy {accuracy} on {n_test} examples: give a share and a count")
    outcome = stats.binomtest(round(accuracy * n_test), n_test)
    low, high = outcome.proportion_ci(CONFIDENCE, method="exact")
    return float(low), float(high)


def left_chance(accuracy: float, n_test: int, *floors: float | None) -> bool:
    """Whether a run is above every trivial rule: its lower binomial bound above all floors.

    Args:
        floors: accuracies of chance and of trivial rules; None where unknown.
    """
    return binomial_interval(accuracy, n_test)[0] > max(f for f in (0.0, *floors) if f is not None)


def compare(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Whether two models' mean accuracies differ by more than their seeds do (Welch's t-test).

    ``resolved``: p < 0.05; a pair is tested alone, so of twenty equal pairs one will be resolved.

    Raises:
        ValueError: no value on one side.
    """
    if not a or not b:
        raise ValueError("no values: nothing to compare")
    difference = float(np.mean(a) - np.mean(b))
    if min(len(a), len(b)) < 2:
        return Difference(difference, None, None, None, "n too small")
    if min(a) == max(a) and min(b) == max(b):
        # no seed spread at all: any difference exceeds it, and t is undefined
        p_value = 0.0 if difference else 1.0
        low = high = difference
    else:
        test = stats.ttest_ind(a, b, equal_var=False)
        p_value = float(test.pvalue)
        low, high = (float(end) for end in test.confidence_interval(CONFIDENCE))
    verdict: Verdict = "resolved" if p_value < 1 - CONFIDENCE else "not resolved"
    return Difference(difference, low, high, p_value, verdict)


def rank_stability(values: Mapping[str, Sequence[float]]) -> dict[str, Ranks]:
    """Ranks by mean over seeds, and how they change when every system's seeds are drawn anew.

    Each system's mean is drawn from Student's t of its seeds: with three of them drawing the seeds
    themselves would claim too much. One seed has no spread, and its system none of its own. Equal
    means share the best of their ranks.

    Args:
        values: accuracies of each system, one a seed.

    Raises:
        ValueError: a system without a value.
    """
    if not all(len(seeds) for seeds in values.values()):
        raise ValueError("a system without a value has no rank: leave it out")
    rng, drawn = np.random.default_rng(0), []
    for seeds in values.values():
        n = len(seeds)
        error = float(stats.sem(seeds)) if n > 1 else 0.0
        drawn.append(np.mean(seeds) + error * rng.standard_t(max(n - 1, 1), RANK_DRAWS))
    means = [float(np.mean(seeds)) for seeds in values.values()]
    ranks = stats.rankdata(-np.array(drawn), method="min", axis=0).astype(int)
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    found = {}
    for name, rank, of in zip(
        values, stats.rankdata(np.negative(means), "min"), ranks, strict=True
    ):
        low, high = np.quantile(of, tails, method="closest_observation")
        shares = np.bincount(of, minlength=len(values) + 1)[1:] / RANK_DRAWS
        found[name] = Ranks(int(rank), int(low), int(high), tuple(shares.tolist()))
    return found
