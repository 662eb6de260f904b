"""Systems against length, a panel for each family, with the transformer in every panel."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lra.results.schema import FAMILIES, LengthRow
from plots.length_entries import Kind, Series, View
from plots.length_notes import conditions, notes
from plots.length_panels import DASHED, draw
from plots.lines import End, Line, Panel, Point
from plots.style import LINE_COLOURS

COLUMNS = 2
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "h", "<", ">", "p")
REFERENCES: dict[Kind, tuple[str, Any, str]] = {
    "fused": ("#000000", "-", "transformer, fused attention (SDPA)"),
    "naive": ("#000000", ":", "transformer, naive softmax"),
}
END_MARKERS = {
    "oom": ("x", "out of memory, at the height expected"),
    "timeout": ("+", "over the time limit, at the height expected"),
}


@dataclass(frozen=True)
class Quantity:
    """What is drawn of a row, one measured value with its band, and one predicted.

    Attributes:
        unit: the label of the axis.
        doubt: why a row's value is not drawn, or is not to be trusted; None where it is.
    """

    unit: str
    measured: Callable[[LengthRow], tuple[float, float, float] | None]
    predicted: Callable[[LengthRow], float | None] = lambda row: None
    doubt: Callable[[LengthRow], str | None] = lambda row: None


def chart(view: View, shown: Sequence[Series], quantity: Quantity, title: str, said: str) -> Figure:
    """All series of one pass; families in two columns.

    Args:
        shown: series of the pass, the baselines among them.
        said: what the numbers are, such as how many samples.
    """
    looks = markers(view)
    references = reference_lines(view, shown, quantity)
    panels: list[Panel | None] = [
        Panel(family.replace("_", " "), [*references, *lines])
        for family in FAMILIES
        if (lines := family_lines(view, shown, quantity, family, looks))
    ]
    if not panels:
        panels = [Panel("baselines", references)]
    panels += [None] * (-len(panels) % COLUMNS)
    rows = [panels[i : i + COLUMNS] for i in range(0, len(panels), COLUMNS)]
    lines = [line for panel in panels if panel for line in panel.lines]
    return draw(
        title, conditions(view, said), rows, legend(lines),
        notes(view, shown, quantity.measured, quantity.doubt),
        unit=quantity.unit, share="all", labels=True,
    )  # fmt: skip


def markers(view: View) -> dict[str, str]:
    """A marker for each name, the same in all figures of a view, different in a family."""
    found: dict[str, str] = {}
    for family in FAMILIES:
        names = dict.fromkeys(one.name for one in view.series if one.first.family == family)
        found.update((name, MARKERS[i % len(MARKERS)]) for i, name in enumerate(names))
    return found


def family_lines(
    view: View,
    shown: Sequence[Series],
    quantity: Quantity,
    family: str,
    looks: dict[str, str],
) -> list[Line]:
    """The lines of a family, without the baselines."""
    members = [o for o in shown if o.first.family == family and not view.is_baseline(o)]
    found = [line(one, quantity, LINE_COLOURS[family], looks[one.name]) for one in members]
    return [one for one in found if one.values]


def reference_lines(view: View, shown: Sequence[Series], quantity: Quantity) -> list[Line]:
    """The transformer with fused and with naive attention, where they were measured."""
    if not shown:
        return []
    found = []
    for kind, (colour, dashes, _) in REFERENCES.items():
        one = view.baseline(kind, shown[0].first.pass_, view.causal)
        if one is not None:
            found.append(line(one, quantity, colour, "", reference=dashes, name=kind))
    return [one for one in found if one.values]


def line(
    one: Series,
    quantity: Quantity,
    colour: str,
    marker: str,
    *,
    reference: str | None = None,
    name: str | None = None,
) -> Line:
    """A series as a line; where it hit a limit first, a symbol."""
    points, dashed = [], []
    for row in one.rows:
        value, guess = quantity.measured(row), quantity.predicted(row)
        if value is not None:
            points.append(Point(row.length, *value, marker, hollow=bool(row.degenerate)))
        elif guess:
            hollow = bool(row.degenerate)
            dashed.append(Point(row.length, guess, guess, guess, marker, hollow))
    ends = []
    last = points[-1].length if points else 0
    failed = [row for row in one.rows if row.status in END_MARKERS and row.length > last]
    for row in failed[:1]:
        predicted = {point.length: point.value for point in dashed}
        guess = predicted.get(row.length) or extrapolated(points, row.length)
        if guess is not None:
            ends.append(End(row.length, guess, END_MARKERS[row.status][0]))
    return Line(name or one.name, colour, points, dashed, ends, reference)


def extrapolated(points: Sequence[Point], length: int) -> float | None:
    """The value that the power of the last two points leads to; of one point its own."""
    if len(points) < 2:
        return points[0].value if points else None
    before, last = points[-2:]
    power = math.log(last.value / before.value) / math.log(last.length / before.length)
    return float(last.value * (length / last.length) ** power)


def legend(lines: Sequence[Line]) -> list[Line2D]:
    """What is drawn in a way of its own."""
    names = {line.name for line in lines if line.reference}
    handles = [
        Line2D([], [], color=colour, linestyle=dashes, linewidth=2.0, label=label)
        for kind, (colour, dashes, label) in REFERENCES.items() if kind in names
    ]  # fmt: skip
    grey: dict[str, Any] = {"color": "#777777", "linestyle": ""}
    if any(point.hollow for line in lines for point in (*line.points, *line.dashed)):
        handles.append(Line2D([], [], marker="o", markerfacecolor="white",
                              label="dense at this length", **grey))  # fmt: skip
    if any(line.dashed for line in lines):
        handles.append(Line2D([], [], color="#777777", linestyle=DASHED, label="predicted"))
    used = {end.marker for line in lines for end in line.ends}
    for marker, label in END_MARKERS.values():
        if marker in used:
            handles.append(Line2D([], [], marker=marker, markeredgewidth=1.6, label=label, **grey))
    return handles
