"""Names at the ends of lines, moved apart where lines end close together."""

import math
from collections.abc import Sequence
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from scipy.optimize import isotonic_regression

from plots.lines import Line

SIZE = 8.0  # points
LETTERS = 17  # of a line of a long name
DARK = "#333333"


def label_width(lines: Sequence[Line]) -> float:
    """Inches on the right of each panel that the longest name needs."""
    names = [_name(line) for line in lines if not line.reference]
    longest = max((len(part) for name in names for part in name.splitlines()), default=0)
    return (0.5 * SIZE * longest + 22) / 72


def draw_labels(panels: Sequence[tuple[Axes, Sequence[Line]]]) -> None:
    """Names every line but references on the right of its axes."""
    for axes, lines in panels:
        # axes that share their limits settle them only when asked
        axes.autoscale_view()
        bottom, top = (math.log(end) for end in axes.get_ylim())
        named = [line for line in lines if line.values and not line.reference]
        last = [max(line.values) for line in named]
        ends = [
            (math.log(line.values[n]) - bottom) / (top - bottom)
            for line, n in zip(named, last, strict=True)
        ]
        # a figure drawn here has 72 dots an inch
        row = 1.17 * SIZE / axes.bbox.height
        heights = [row * (1 + _name(line).count("\n")) for line in named]
        for line, n, y in zip(named, last, apart(ends, heights), strict=True):
            _label(axes, line, n, y)


def _name(line: Line) -> str:
    return fill(line.name.replace("_", " "), LETTERS, break_long_words=False)


def _label(axes: Axes, line: Line, length: int, y: float) -> None:
    """A thin line from the curve's end to its marker and name."""
    axes.annotate(
        "", (length, line.values[length]), xytext=(1.03, y), textcoords="axes fraction",
        annotation_clip=False, zorder=1,
        arrowprops={"arrowstyle": "-", "color": line.colour, "linewidth": 0.5, "alpha": 0.8,
                    "shrinkA": 0, "shrinkB": 2},
    )  # fmt: skip
    marker = line.points[-1].marker if line.points else ""
    axes.plot(
        1.045, y, transform=axes.transAxes, clip_on=False, linestyle="", marker=marker,
        color=line.colour, markersize=4.5, gid=f"{line.name} label",
    )  # fmt: skip
    axes.text(
        1.085, y, _name(line), transform=axes.transAxes, fontsize=SIZE, color=DARK,
        va="center_baseline" if "\n" not in _name(line) else "center", linespacing=1.0,
    )  # fmt: skip


def apart(wanted: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Centres of labels that do not overlap, in the order wanted, inside [0, 1] if they fit, and
    as near to the wanted ones as least squares can."""
    if not wanted:
        return []
    order = np.argsort(wanted, kind="stable")
    sizes = np.asarray(heights)[order]
    # stacked labels have centres so far from the first; what is left must not fall
    stacked = np.cumsum(sizes) - sizes / 2
    free = isotonic_regression(np.asarray(wanted)[order] - stacked).x
    free = np.clip(free, 0.0, max(0.0, 1 - float(sizes.sum())))
    found = np.empty(len(order))
    found[order] = free + stacked
    return [float(place) for place in found]
