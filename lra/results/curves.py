"""Curves against length, and how fast they grow.

A curve is a quantity of one system, of one sequence: time, memory or operations.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from lra.results.expression import degree, most
from lra.results.schema import LengthRow
from lra.results.statistics import CONFIDENCE

# an exponent needs them: two points lie on every line
POINTS = 3
# the standard error of a median of normal samples, over that of their mean
MEDIAN = math.sqrt(math.pi / 2)
# rows that ended so show that the system needs more than it may at that length
EXCEEDED = ("oom", "timeout")
# how the reason of a time that no device can reach begins
TOO_FAST = "too fast to be true"


@dataclass(frozen=True)
class Curve:
    """Values above 0 at rising lengths.

    Attributes:
        errors: relative standard errors, 0 where there is no noise; None where it is unknown.
        exceeded: lengths without a value because the limit of memory or time was hit, and which.
        failed: lengths without a value for another reason, and which.
        degrees: of freedom, of errors that were found from few samples.
    """

    lengths: tuple[int, ...]
    values: tuple[float, ...]
    errors: tuple[float | None, ...]
    exceeded: Mapping[int, str] = field(default_factory=dict)
    failed: Mapping[int, str] = field(default_factory=dict)
    degrees: Mapping[int, int] = field(default_factory=dict)

    @property
    def known(self) -> set[int]:
        """Lengths with a value, or at which a limit was hit."""
        return {*self.lengths, *self.exceeded}

    def at(self, length: int) -> float | None:
        """The value at a length, infinite where the limit was hit; None where nothing is known."""
        if length in self.lengths:
            return self.values[self.lengths.index(length)]
        return math.inf if length in self.exceeded else None

    def error(self, length: int) -> float:
        """The relative standard error at a length; what is unknown adds nothing."""
        known = self.errors[self.lengths.index(length)] if length in self.lengths else None
        return known or 0.0


@dataclass(frozen=True)
class Fit:
    """The power of N that a curve grows as, from ``first`` to ``last``, and its interval."""

    exponent: float
    low: float
    high: float
    first: int
    last: int


def curve(
    points: Iterable[tuple[int, float | None, float | None]],
    exceeded: Mapping[int, str] | None = None,
    failed: Mapping[int, str] | None = None,
    degrees: Mapping[int, int] | None = None,
) -> Curve:
    """The curve of (length, value, relative standard error), in any order.

    Values that are None, no number or not above 0 are missing.

    Raises:
        ValueError: two values at one length.
    """
    known = [
        (length, float(value), error) for length, value, error in points
        if value is not None and math.isfinite(value) and value > 0
    ]  # fmt: skip
    known.sort(key=lambda point: point[0])
    lengths = tuple(length for length, *_ in known)
    if len(set(lengths)) < len(lengths):
        raise ValueError(f"two values at one of the lengths {lengths}: which one counts?")
    exceeded = {n: why for n, why in sorted((exceeded or {}).items()) if n not in lengths}
    failed = {
        n: why for n, why in sorted((failed or {}).items()) if n not in {*lengths, *exceeded}
    }  # fmt: skip
    values, errors = tuple(v for _, v, _ in known), tuple(e for *_, e in known)
    return Curve(lengths, values, errors, exceeded, failed, degrees or {})


def time_curve(rows: Iterable[LengthRow]) -> Curve:
    """Milliseconds a sequence; a time too fast to be true is missing."""
    rows = list(rows)
    points = [
        (row.length, row.median_ms / row.batch, median_error(row)) for row in rows
        if row.status == "ok" and row.median_ms is not None and row.batch and not doubtful(row)
    ]  # fmt: skip
    return curve(
        points,
        {row.length: row.status for row in rows if row.status in EXCEEDED},
        {row.length: TOO_FAST if doubtful(row) else row.status for row in rows},
        {row.length: row.n_samples - 1 for row in rows if row.n_samples and row.n_samples > 1},
    )


def memory_curve(rows: Iterable[LengthRow], *, predicted: bool = False) -> Curve:
    """Peak MiB a sequence, measured or predicted; a time limit says nothing of memory."""
    rows = list(rows)
    points = [
        (row.length, value / row.batch, 0.0) for row in rows
        if (value := row.pred_mem_mib if predicted else row.peak_mem_mib) is not None and row.batch
    ]  # fmt: skip
    return curve(
        points,
        {row.length: row.status for row in rows if row.status == "oom"},
        {row.length: "not tracked" if row.status == "ok" else row.status for row in rows},
    )


def flop_curve(rows: Iterable[LengthRow]) -> Curve:
    """Billions of operations a sequence; where some are not counted the value is missing."""
    return curve(
        (row.length, row.gflop / row.batch, 0.0) for row in rows
        if row.gflop is not None and row.batch and row.flop_coverage in (None, 1.0)
    )  # fmt: skip


def median_error(row: LengthRow) -> float | None:
    """The relative standard error of a median time: of many samples sqrt(pi / 2) times the mean's.

    None where spread or number of samples is not known; a single sample has no spread.
    """
    if row.cv is None or row.n_samples is None or row.n_samples < 2:
        return None
    return MEDIAN * row.cv / math.sqrt(row.n_samples)


def doubtful(row: LengthRow) -> bool:
    """Whether a time is flagged as faster than the device can be."""
    return TOO_FAST in (row.reason or "")


def fit(of: Curve) -> Fit | None:
    """The exponent in N by least squares of the logarithms; None with fewer than three points.

    The longer half of the lengths is fitted, four at least where there are four: terms of lower
    degree, and the cost of a call whatever its length, bend the curve at the short ones. The
    interval is Student's, from how far the points lie off the line.
    """
    if len(of.lengths) < POINTS:
        return None
    used = max(min(len(of.lengths), POINTS + 1), math.ceil(len(of.lengths) / 2))
    x, y = np.log(of.lengths[-used:]), np.log(of.values[-used:])
    line = stats.linregress(x, y)
    # of a level line scipy divides by its spread of 0
    error = line.stderr if np.ptp(y) else 0.0
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, used - 2) * error)
    slope = float(line.slope)
    return Fit(slope, slope - half, slope + half, of.lengths[-used], of.lengths[-1])


def exceeds(fitted: Fit, claim: str) -> bool:
    """Whether a curve surely grows faster than a card's complexity says; slower is no fault.

    Raises:
        ValueError: the claim cannot be read.
    """
    return fitted.low > most(degree(claim))
