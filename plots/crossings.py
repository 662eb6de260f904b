"""From which length each system beats the transformer: what the figure and the tables show."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lra.results.crossover import Crossover, memory_crossover, time_crossover
from plots.length_entries import Kind, Series, View
from plots.length_panels import short

MEASURES: dict[str, Callable[..., Crossover]] = {
    "time": time_crossover,
    "memory": memory_crossover,
}
KINDS: dict[Kind, str] = {"fused": "fused attention (SDPA)", "naive": "naive softmax attention"}


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


def crossings(view: View, kind: Kind) -> list[Crossing]:
    """All systems against the baseline that looks the same way, or the other if there is none."""
    found = []
    for one in view.series:
        base = view.baseline(kind, one.first.pass_, one.first.causal)
        if base is None or base.rows == one.rows or one.first.pass_ == "decode":
            continue
        for measure, compare in MEASURES.items():
            found.append(Crossing(one, base, kind, measure, compare(one.rows, base.rows)))
    return found


def said(answer: Crossover) -> str:
    """The answer in a cell: ``2.1K (1.9K to 2.4K)``."""
    assert answer.last is not None or answer.kind == "no common lengths"
    if answer.kind == "always":
        return f"from {short(answer.first or 0)} on"
    if answer.kind == "never":
        return f"never up to {short(answer.last or 0)}"
    if answer.kind == "crosses" and answer.length is not None:
        about = rounded(answer.length)
        if answer.low == answer.high:
            return about
        return f"{about} ({_ends(answer)})"
    if answer.kind == "not resolvable":
        return f"not resolvable ({_ends(answer)})"
    return answer.kind


def _ends(answer: Crossover) -> str:
    low = "below " + short(answer.first or 0) if answer.low is None else rounded(answer.low)
    high = "above " + short(answer.last or 0) if answer.high is None else rounded(answer.high)
    return f"{low} to {high}"


def rounded(length: float) -> str:
    """A length with two or three digits: 310, 2.1K, 15.9K."""
    if length < 1024:
        return f"{length:.0f}"
    return f"{length / 1024:.1f}".removesuffix(".0") + "K"


def directions(found: Sequence[Crossing]) -> list[str]:
    """Which systems had to be compared with a transformer that looks the other way."""
    notes = []
    for causal in (True, False):
        names = dict.fromkeys(
            one.system.name.replace("_", " ") for one in found
            if one.other_direction and one.system.first.causal == causal
        )  # fmt: skip
        if names:
            mine, other = ("Causal", "bidirectional") if causal else ("Bidirectional", "causal")
            notes.append(f"{mine}, but compared with the {other} transformer, the only one "
                         f"measured: {', '.join(names)}.")  # fmt: skip
    return notes
