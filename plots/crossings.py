"""From which length each system beats the transformer: what the figure and the tables show."""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from lra.results.crossover import Crossover, drift_of, memory_crossover, time_crossover
from plots.length_entries import Kind, Series, View
from plots.length_panels import short

# it runs the very ops of the transformer: how far its times lie from its is the machine's drift
CONTROL = "flash_attention"
BASELINE_TITLES: dict[Kind, str] = {
    "fused": "fused attention (SDPA)",
    "naive": "naive softmax attention",
}
DENSE = "† dense softmax attention at some lengths, which count for no answer."


@dataclass(frozen=True)
class Crossing:
    """One system against one baseline, in time or memory of one pass.

    Attributes:
        baseline: what it was compared with.
    """

    system: Series
    baseline: Series
    kind: Kind
    measure: str
    answer: Crossover

    @property
    def pass_(self) -> str:
        return self.system.first.pass_

    @property
    def other_direction(self) -> bool:
        """Whether one of the two is causal and the other is not."""
        return self.system.first.causal != self.baseline.first.causal

    @property
    def other_variant(self) -> bool:
        """Whether the two depart from the recipe in other ways."""
        return self.system.first.variant != self.baseline.first.variant


def crossings(view: View, kind: Kind) -> list[Crossing]:
    """All systems against the baseline that looks the same way, or the other if there is none."""
    found, drift = [], drift_in(view) or 0.0
    for one in view.series:
        row = one.first
        base = view.baseline(kind, row.pass_, row.causal, row.variant)
        if base is None or base.rows == one.rows or row.pass_ == "decode":
            continue
        time = time_crossover(one.rows, base.rows, drift=drift)
        found.append(Crossing(one, base, kind, "time", time))
        found.append(Crossing(one, base, kind, "memory", memory_crossover(one.rows, base.rows)))
    return found


def drift_in(view: View) -> float | None:
    """How far the control lies from the transformer with fused attention, all passes together."""
    same = []
    for one in view.series:
        row = one.first
        base = view.baseline("fused", row.pass_, row.causal, row.variant)
        if row.model != CONTROL or row.pass_ == "decode" or base is None:
            continue
        if base.first.causal == row.causal and base.first.variant == row.variant:
            same.append((one.rows, base.rows))
    return drift_of(same)


def noise(view: View) -> str:
    """What the intervals hold."""
    within = "Intervals hold the noise within a cell, by Student's t of its samples"
    drift = drift_in(view)
    if drift is None:
        return f"{within}; drift from one cell to the next is not in them."
    return (
        f"{within}, and the drift from one cell to the next: {100 * math.expm1(drift):.0f} % of a "
        f"time, the distance of {CONTROL.replace('_', ' ')} from the transformer, which runs the "
        "same ops."
    )


def dense(found: Sequence[Crossing]) -> set[str]:
    """Names of the systems that are dense attention in disguise at some length."""
    return {one.system.name for one in found if any(row.degenerate for row in one.system.rows)}


def said(answer: Crossover) -> str:
    """The answer in a cell: ``2.1K (1.9K to 2.4K)``; how far it holds where that is less far than
    the baseline goes."""
    if answer.kind == "no common lengths":
        return answer.kind
    assert answer.first is not None and answer.last is not None
    if answer.kind == "never":
        return f"never up to {short(answer.last)}"
    text = f"from {short(answer.first)} on"
    if answer.kind == "not resolvable":
        text = f"not resolvable ({_ends(answer)})"
    elif answer.length is not None:
        text = rounded(answer.length)
        if answer.low is None or answer.low != answer.high:
            text += f" ({_ends(answer)})"
    end = f", up to {short(answer.last)}"
    return text + end * (answer.longest is not None and answer.last < answer.longest)


def _ends(answer: Crossover) -> str:
    low = "below " + short(answer.first or 0) if answer.low is None else rounded(answer.low)
    high = "above " + short(answer.last or 0) if answer.high is None else rounded(answer.high)
    return f"{low} to {high}"


def rounded(length: float) -> str:
    """A length with two or three digits: 310, 2.1K, 15.9K."""
    if length < 1024:
        return f"{length:.0f}"
    return f"{length / 1024:.1f}".removesuffix(".0") + "K"


def differences(found: Sequence[Crossing]) -> list[str]:
    """Which systems had to be compared with a transformer that looks the other way, or of another
    recipe."""
    notes = []
    for causal in (True, False):
        names = _names(
            one for one in found if one.other_direction and one.system.first.causal == causal
        )
        if names:
            mine, other = ("Causal", "bidirectional") if causal else ("Bidirectional", "causal")
            notes.append(f"{mine}, but compared with the {other} transformer, the only one "
                         f"measured: {names}.")  # fmt: skip
    if names := _names(one for one in found if one.other_variant):
        notes.append(f"Compared with a transformer of another recipe, the only one measured: "
                     f"{names}.")  # fmt: skip
    return notes


def who(of: Collection[str], among: Collection[str]) -> str:
    """Names of systems, or that they are most of all."""
    return "most systems" if len(of) > max(len(among) // 2, 3) else ", ".join(of)


def _names(found: Iterable[Crossing]) -> str:
    return ", ".join(dict.fromkeys(one.system.name.replace("_", " ") for one in found))
