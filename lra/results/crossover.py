"""Cross-over lengths: from which length one curve lies below another, with an interval at 95 %."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import stats

from lra.results.curves import Curve, curve, memory_curve, time_curve
from lra.results.schema import LengthRow
from lra.results.statistics import CONFIDENCE

DRAWS = 4000
# a cross-over whose interval spans more than this factor of lengths is no answer
WIDEST = 4.0
Z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))

SHORTER = "below also at"

Kind = Literal["crosses", "always", "never", "not resolvable", "no common lengths"]


@dataclass(frozen=True)
class Crossover:
    """From which length a system is below its baseline, and at all greater lengths compared.

    Attributes:
        kind: ``always``: from the shortest length on; ``never``: not up to the longest; ``not
            resolvable``: the noise is greater than what separates the curves.
        length: of a crossing, else None.
        low: of its interval; None: below the shortest length.
        high: of its interval; None: above the longest length.
        first: shortest length compared.
        last: longest length compared.
        notes: what else must be known to read it.
    """

    kind: Kind
    length: float | None = None
    low: float | None = None
    high: float | None = None
    first: int | None = None
    last: int | None = None
    notes: tuple[str, ...] = ()


def time_crossover(system: Sequence[LengthRow], baseline: Sequence[LengthRow]) -> Crossover:
    """From which length a system is faster than a baseline, in one pass."""
    return crossover(time_curve(system), time_curve(baseline))


def memory_crossover(system: Sequence[LengthRow], baseline: Sequence[LengthRow]) -> Crossover:
    """From which length a system's peak is smaller than a baseline's, in one pass.

    Measured is compared with measured; where one of the two was not, predicted with predicted.
    """
    measured = [memory_curve(rows) for rows in (system, baseline)]
    predicted = [memory_curve(rows, predicted=True) for rows in (system, baseline)]
    both = {*measured[0].lengths} & {*measured[1].lengths}
    instead = {*predicted[0].lengths} & {*predicted[1].lengths} - both
    mixed = [_mixed(*pair, instead) for pair in zip(measured, predicted, strict=True)]
    found = crossover(*mixed)
    if not instead:
        return found
    note = f"predicted at {', '.join(f'N={n}' for n in sorted(instead))}"
    return replace(found, notes=(*found.notes, note))


def _mixed(measured: Curve, predicted: Curve, instead: set[int]) -> Curve:
    """The measured curve with predicted values at some lengths."""
    known = {
        **{n: v for n, v in zip(measured.lengths, measured.values, strict=True)},
        **{n: v for n, v in zip(predicted.lengths, predicted.values, strict=True) if n in instead},
    }  # fmt: skip
    return curve(((n, value, 0.0) for n, value in known.items()), measured.exceeded)


def crossover(system: Curve, baseline: Curve) -> Crossover:
    """The smallest length from which a system is below a baseline at all greater lengths compared.

    Between two measured lengths it is interpolated in the logarithms. A baseline that hits the
    limit where the system does not is above it there, and the other way round. The interval comes
    from drawing every median anew, normal in its logarithm, with a fixed seed.
    """
    lengths, ratios, errors = _ratios(system, baseline)
    if not lengths:
        return Crossover("no common lengths")
    first, last = lengths[0], lengths[-1]
    notes = _notes(system, baseline, lengths, ratios, errors)
    noise = np.random.default_rng(0).standard_normal((DRAWS, len(lengths))) * errors
    drawn = _crossings(lengths, ratios + noise)
    length = float(_crossings(lengths, ratios[None])[0])
    tail = (1 - CONFIDENCE) / 2
    ends = np.quantile(drawn, [tail, 1 - tail], method="closest_observation")
    low = float(ends[0]) if ends[0] > 0 else None
    high = float(ends[1]) if math.isfinite(ends[1]) else None
    if ends[1] == 0:
        return Crossover("always", None, None, None, first, last, notes)
    if ends[0] == math.inf:
        return Crossover("never", None, None, None, first, last, notes)
    if (high or last) > WIDEST * (low or first):
        kept = tuple(note for note in notes if not note.startswith(SHORTER))
        return Crossover("not resolvable", None, low, high, first, last, kept)
    return Crossover("crosses", min(max(length, first), last), low, high, first, last, notes)


def _ratios(system: Curve, baseline: Curve) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Common lengths, logarithms of system over baseline, and their standard errors."""
    lengths, ratios, errors = [], [], []
    known = {*system.lengths, *system.exceeded} & {*baseline.lengths, *baseline.exceeded}
    for length in sorted(known):
        mine, theirs = system.at(length), baseline.at(length)
        assert mine is not None and theirs is not None
        # where neither runs there is nothing to compare
        if math.isinf(mine) and math.isinf(theirs):
            continue
        lengths.append(length)
        infinite = math.inf if math.isinf(mine) else -math.inf
        finite = math.isfinite(mine) and math.isfinite(theirs)
        ratios.append(math.log(mine / theirs) if finite else infinite)
        errors.append(math.hypot(system.error(length), baseline.error(length)) if finite else 0.0)
    return lengths, np.array(ratios), np.array(errors)


def _crossings(lengths: list[int], ratios: np.ndarray) -> np.ndarray:
    """The cross-over of each row of ratios: 0 where it is always below, infinite where never."""
    n = len(lengths)
    above = ratios >= 0
    last = n - 1 - np.argmax(above[:, ::-1], axis=1)
    found = np.where(above.any(axis=1), math.inf, 0.0)
    rows = np.flatnonzero(above.any(axis=1) & (last < n - 1))
    i = last[rows]
    before, after = ratios[rows, i], ratios[rows, i + 1]
    n_before, n_after = np.array(lengths, float)[i], np.array(lengths, float)[i + 1]
    # one of the two has no value: it is below from the next length on, as far as is known
    share = np.ones(len(rows))
    finite = np.isfinite(before) & np.isfinite(after)
    share[finite] = before[finite] / (before[finite] - after[finite])
    found[rows] = n_before * (n_after / n_before) ** share
    return found


def _notes(
    system: Curve, baseline: Curve, lengths: list[int], ratios: np.ndarray, errors: np.ndarray
) -> tuple[str, ...]:
    found = []
    for who, of in (("baseline", baseline), ("system", system)):
        hit = [n for n in lengths if n in of.exceeded]
        if hit:
            found.append(f"{who} {' or '.join(dict.fromkeys(of.exceeded[n] for n in hit))} "
                         f"from N={hit[0]}")  # fmt: skip
    above = np.flatnonzero(ratios >= 0)
    # what lies below by more than its noise
    surely = ratios < -Z * errors
    shorter = [n for i, n in enumerate(lengths) if surely[i] and i < max(above, default=0)]
    if shorter:
        found.append(f"{SHORTER} {', '.join(f'N={n}' for n in shorter)}, not in between")
    unknown = any(
        error is None for of in (system, baseline)
        for n, error in zip(of.lengths, of.errors, strict=True) if n in lengths
    )  # fmt: skip
    return (*found, "noise of some medians unknown") if unknown else tuple(found)
