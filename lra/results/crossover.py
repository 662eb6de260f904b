"""Cross-over lengths: from which length one curve lies below another, with an interval at 95 %."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lra.results.curves import Curve, curve, memory_curve, time_curve
from lra.results.schema import LengthRow
from lra.results.statistics import CONFIDENCE

DRAWS = 4000
# a cross-over whose interval spans more than this factor of lengths is no answer
WIDEST = 4.0
TAIL = (1 - CONFIDENCE) / 2
# Student's t of so many degrees of freedom is normal
MANY = 10**9

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
        longest: that the baseline has, and at which one of the two runs.
        notes: what else must be known to read it.
    """

    kind: Kind
    length: float | None = None
    low: float | None = None
    high: float | None = None
    first: int | None = None
    last: int | None = None
    longest: int | None = None
    notes: tuple[str, ...] = ()


def time_crossover(
    system: Sequence[LengthRow], baseline: Sequence[LengthRow], *, drift: float = 0.0
) -> Crossover:
    """From which length a system is faster than a baseline, in one pass.

    Lengths at which the system is dense attention in disguise are left out.

    Args:
        drift: between two cells, see ``drift_of``.
    """
    mine, theirs, notes = _undisguised(system, baseline)
    found = crossover(time_curve(mine), time_curve(theirs), drift=drift)
    return replace(found, notes=(*found.notes, *notes))


def drift_of(same: Iterable[tuple[Sequence[LengthRow], Sequence[LengthRow]]]) -> float | None:
    """How far the times of two cells that compute the same lie apart: the root mean square of the
    logarithm of their ratio. None where nothing was measured twice."""
    ratios = [
        ratio
        for one, other in same
        for ratio in _ratios(time_curve(one), time_curve(other))[1]
        if math.isfinite(ratio)
    ]
    return float(np.sqrt(np.mean(np.square(ratios)))) if ratios else None


def memory_crossover(system: Sequence[LengthRow], baseline: Sequence[LengthRow]) -> Crossover:
    """From which length a system's peak is smaller than a baseline's, in one pass.

    Measured is compared with measured; where one of the two was not, predicted with predicted.
    Lengths at which the system is dense attention in disguise are left out.
    """
    mine, theirs, notes = _undisguised(system, baseline)
    measured = [memory_curve(rows) for rows in (mine, theirs)]
    predicted = [memory_curve(rows, predicted=True) for rows in (mine, theirs)]
    both = {*measured[0].lengths} & {*measured[1].lengths}
    instead = {*predicted[0].lengths} & {*predicted[1].lengths} - both
    mixed = [_mixed(*pair, instead) for pair in zip(measured, predicted, strict=True)]
    found = crossover(*mixed)
    if instead:
        notes = (f"predicted at {_listed(instead)}", *notes)
    return replace(found, notes=(*found.notes, *notes))


def _undisguised(
    system: Sequence[LengthRow], baseline: Sequence[LengthRow]
) -> tuple[list[LengthRow], list[LengthRow], tuple[str, ...]]:
    """Both without the lengths at which the system is dense itself, and a note of them."""
    dense = {row.length for row in system if row.degenerate}
    mine, theirs = ([r for r in rows if r.length not in dense] for rows in (system, baseline))
    note = (f"dense attention itself at {_listed(dense)}, left out",) if dense else ()
    return mine, theirs, note


def _mixed(measured: Curve, predicted: Curve, instead: set[int]) -> Curve:
    """The measured curve with predicted values at some lengths."""
    known = {
        **{n: v for n, v in zip(measured.lengths, measured.values, strict=True)},
        **{n: v for n, v in zip(predicted.lengths, predicted.values, strict=True) if n in instead},
    }  # fmt: skip
    points = ((n, value, 0.0) for n, value in known.items())
    return curve(points, measured.exceeded, measured.failed)


def crossover(system: Curve, baseline: Curve, *, drift: float = 0.0) -> Crossover:
    """The smallest length from which a system is below a baseline at all greater lengths compared.

    Between two measured lengths it is interpolated in the logarithms. A baseline that hits the
    limit where the system does not is above it there, and the other way round. The interval comes
    from drawing every median anew, its logarithm by Student's t of its samples, with a fixed seed;
    ``drift`` shifts all ratios of a draw together, as a slower minute of the machine would.
    """
    gaps = (*_gaps("baseline", baseline, system), *_gaps("system", system, baseline))
    lengths, ratios = _ratios(system, baseline)
    if not lengths:
        return Crossover("no common lengths", notes=gaps)
    drawn_ratios = _drawn(system, baseline, lengths, ratios, drift)
    notes = (*_notes(system, baseline, lengths, ratios, drawn_ratios), *gaps)
    neither = {*baseline.exceeded} & {*system.exceeded}
    longest = max(baseline.known - neither)
    never = Crossover("never", None, None, None, lengths[0], lengths[-1], longest, notes)
    drawn = _crossings(lengths, drawn_ratios)
    ends = np.quantile(drawn, [TAIL, 1 - TAIL], method="closest_observation")
    return _answer(never, float(_crossings(lengths, ratios[None])[0]), *map(float, ends))


def _answer(never: Crossover, length: float, low: float, high: float) -> Crossover:
    """What a cross-over length and its interval say: 0 is always, infinite is never.

    Args:
        never: the answer to which all others are changes.
    """
    assert never.first is not None and never.last is not None
    if low == math.inf:
        return never
    if high == 0:
        return replace(never, kind="always")
    open_low, open_high = low == 0, high == math.inf
    wide = (never.last if open_high else high) > WIDEST * (never.first if open_low else low)
    ranged = replace(never, low=None if open_low else low, high=None if open_high else high)
    if wide or (open_low and open_high):
        kept = tuple(note for note in never.notes if not note.startswith(SHORTER))
        return replace(ranged, kind="not resolvable", notes=kept)
    if 0 < length < math.inf:
        return replace(ranged, kind="crosses", length=length)
    # the draws disagree with what was measured, but on little more than where it crosses
    reach = (
        f"its 95 % interval reaches from {'below ' if open_low else ''}"
        f"N={never.first if open_low else low:.0f} to {'above ' if open_high else ''}"
        f"N={never.last if open_high else high:.0f}"
    )
    return replace(never, kind="never" if length else "always", notes=(*never.notes, reach))


def _ratios(system: Curve, baseline: Curve) -> tuple[list[int], np.ndarray]:
    """Common lengths, and logarithms of system over baseline."""
    lengths, ratios = [], []
    for length in sorted(system.known & baseline.known):
        mine, theirs = system.at(length), baseline.at(length)
        assert mine is not None and theirs is not None
        # where neither runs there is nothing to compare
        if math.isinf(mine) and math.isinf(theirs):
            continue
        lengths.append(length)
        infinite = math.inf if math.isinf(mine) else -math.inf
        finite = math.isfinite(mine) and math.isfinite(theirs)
        ratios.append(math.log(mine / theirs) if finite else infinite)
    return lengths, np.array(ratios)


def _drawn(
    system: Curve, baseline: Curve, lengths: Sequence[int], ratios: np.ndarray, drift: float
) -> np.ndarray:
    """The ratios drawn anew from the errors of both; what is infinite stays so."""
    rng, drawn = np.random.default_rng(0), np.tile(ratios, (DRAWS, 1))
    for of in (system, baseline):
        errors = np.array([of.error(n) for n in lengths])
        degrees = np.array([of.degrees.get(n, MANY) for n in lengths])
        drawn += errors * rng.standard_t(degrees, drawn.shape)
    return drawn + drift * rng.standard_normal((DRAWS, 1))


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
    system: Curve,
    baseline: Curve,
    lengths: list[int],
    ratios: np.ndarray,
    drawn: np.ndarray,
) -> tuple[str, ...]:
    found = []
    for who, of in (("baseline", baseline), ("system", system)):
        hit = [n for n in lengths if n in of.exceeded]
        if hit:
            found.append(f"{who} {' or '.join(dict.fromkeys(of.exceeded[n] for n in hit))} "
                         f"from N={hit[0]}")  # fmt: skip
    above = np.flatnonzero(ratios >= 0)
    # what lies below by more than its noise
    surely = np.quantile(drawn, 1 - TAIL, axis=0, method="closest_observation") < 0
    shorter = [n for i, n in enumerate(lengths) if surely[i] and i < max(above, default=0)]
    if shorter:
        found.append(f"{SHORTER} {_listed(shorter)}, not in between")
    unknown = any(
        error is None for of in (system, baseline)
        for n, error in zip(of.lengths, of.errors, strict=True) if n in lengths
    )  # fmt: skip
    return (*found, "noise of some medians unknown") if unknown else tuple(found)


def _gaps(who: str, of: Curve, other: Curve) -> tuple[str, ...]:
    """Lengths that only the other knows, and why."""
    by_why: dict[str, list[int]] = {}
    for n in sorted(other.known - of.known):
        by_why.setdefault(of.failed.get(n, "not measured"), []).append(n)
    last = max(of.known, default=0)
    return tuple(
        # nothing of it comes after
        f"{who} {why} from N={at[0]}" if at[0] > last and len(by_why) == 1
        else f"{who} {why} at {_listed(at)}"
        for why, at in by_why.items()
    )  # fmt: skip


def _listed(lengths: Iterable[int]) -> str:
    return ", ".join(f"N={n}" for n in sorted(lengths))
