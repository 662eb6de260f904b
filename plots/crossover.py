"""From which length each system beats fused attention: a dot with its interval, by model."""

import math
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill, wrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from lra.results.packs import device_slug
from lra.results.schema import FAMILIES
from plots.crossings import (
    BASELINE_TITLES,
    DENSE,
    Crossing,
    crossings,
    dense,
    differences,
    noise,
    who,
)
from plots.length_entries import PASSES, View
from plots.length_notes import conditions, samples
from plots.length_panels import DARK, LINE, TOP, WIDTH, add_foot, short
from plots.style import LINE_COLOURS, save, style

ROW = 0.165  # inches for a model
COLUMNS = 3  # of the legend
PALE = "#9a9a9a"


def write(views: Sequence[View], out: Path) -> list[Path]:
    """``crossover_<level>_<dtype>`` as .png and .svg in the folder of each device; against naive
    attention in passes in which fused was not measured."""
    written = []
    for view in views:
        found = compared(view)
        if found:
            with style():
                path = out / device_slug(view.device) / f"crossover_{view.suffix}"
                written += save(chart(view, found), path)
    return written


def compared(view: View) -> list[Crossing]:
    """The cross-overs against fused attention; in passes without it against naive."""
    fused = crossings(view, "fused")
    there = {one.pass_ for one in fused}
    return [*fused, *(one for one in crossings(view, "naive") if one.pass_ not in there)]


def columns(found: Sequence[Crossing]) -> list[tuple[str, str]]:
    """(measure, pass) of the panels: time of each pass, memory of the most complete one."""
    passes = [p for p in PASSES if any(one.pass_ == p for one in found)]
    return [*(("time", pass_) for pass_ in passes), ("memory", passes[-1])]


def chart(view: View, found: Sequence[Crossing]) -> Figure:
    """Models down, measures across."""
    names = list(dict.fromkeys(one.system.name for one in found))
    shown = columns(found)
    below = [line for note in _notes(view, found, shown) for line in wrap(note, 96)]
    head = wrap(
        conditions(view, f"medians of {samples(view.series)} calls, 95 % intervals"),
        90,
    )
    legend = _legend(found, shown)
    top = TOP + LINE * len(head)
    bottom = 0.55 + 0.2 * -(-len(legend) // COLUMNS) + LINE * len(below)
    height = top + bottom + ROW * len(names)
    figure = Figure(figsize=(WIDTH, height), dpi=72)
    axes = figure.subplots(
        1, len(shown), sharex=True, sharey=True, squeeze=False,
        gridspec_kw={"left": (4.4 * max(map(len, names)) + 22) / 72 / WIDTH, "right": 0.985,
                     "top": 1 - top / height, "bottom": bottom / height, "wspace": 0.08},
    )[0]  # fmt: skip
    _fill(axes, found, shown, names)
    kinds = list(dict.fromkeys(one.kind for one in found))
    against = BASELINE_TITLES[kinds[0]] if len(kinds) == 1 else "fused or naive attention"
    title = f"From which length on: less time or memory than {against}"
    figure.text(0.012, 1 - 0.22 / height, title, fontsize=10.5, fontweight="bold")
    figure.text(0.012, 1 - 0.3 / height, "\n".join(head), fontsize=8.5, va="top")
    add_foot(figure, legend, COLUMNS, below)
    return figure


def _fill(
    axes: Sequence[Axes],
    found: Sequence[Crossing],
    shown: Sequence[tuple[str, str]],
    names: Sequence[str],
) -> None:
    """Every panel; where not all are against the same attention each says against which."""
    ends = [end for one in found for end in (one.answer.first, one.answer.last) if end]
    first, last = min(ends, default=1), max(ends, default=2)
    kinds = {one.pass_: one.kind for one in found}
    for ax, (measure, pass_) in zip(axes, shown, strict=True):
        against = f" ({kinds[pass_]})" * (len(set(kinds.values())) > 1)
        ax.set_title(fill(f"{measure}: {PASSES[pass_]}{against}", 16), loc="left", fontsize=8.5)
        for one in found:
            if (one.measure, one.pass_) == (measure, pass_):
                _answer(ax, one, names.index(one.system.name), first, last)
    _scale(axes, names, found, first, last)


def edges(first: int, last: int) -> tuple[float, float]:
    """Where ``always`` and ``never`` stand: outside the lengths compared."""
    return first / 1.8, last * 1.8


def _answer(axes: Axes, one: Crossing, row: int, first: int, last: int) -> None:
    answer, colour = one.answer, LINE_COLOURS[one.system.first.family]
    left, right = edges(first, last)
    marker: dict[str, Any] = {"linestyle": "", "markersize": 4.5, "gid": one.system.name}
    if answer.kind == "always":
        # where its shortest length is greater than the others', it is there that it begins
        start = left if answer.first in (None, first) else answer.first
        axes.plot(start, row, marker="<", color=colour, **marker)
    elif answer.kind == "never":
        axes.plot(right, row, marker="x", color=PALE, **marker)
    elif answer.kind == "no common lengths":
        axes.plot(math.sqrt(first * last), row, marker="_", color=PALE, **marker)
    else:
        low, high = answer.low or left, answer.high or right
        sure = answer.kind == "crosses"
        axes.plot([low, high], [row, row], color=colour if sure else PALE, linewidth=1.4,
                  linestyle="-" if sure else ":", gid=f"{one.system.name} interval")  # fmt: skip
        middle = answer.length if answer.length is not None else math.sqrt(low * high)
        axes.plot(middle, row, marker="o" if sure else "D", color=colour if sure else PALE,
                  markerfacecolor=colour if sure else "white", **marker)  # fmt: skip


def _scale(
    axes: Sequence[Axes], names: Sequence[str], found: Sequence[Crossing], first: int, last: int
) -> None:
    family = {one.system.name: one.system.first.family for one in found}
    left, right = edges(first, last)
    ticks = [n for e in range(40) if first <= (n := 2**e) <= last] or [first, last]
    for ax in axes:
        ax.set_xscale("log", base=2)
        ax.set_xlim(left / 1.5, right * 1.5)
        ax.xaxis.set_major_locator(FixedLocator([float(n) for n in ticks[:: -(-len(ticks) // 4)]]))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda n, _: short(round(n))))
        ax.grid(axis="x", color="#e6e6e6", linewidth=0.6)
        ax.axvspan(left / 1.5, first / 1.15, color="#f4f4f4", zorder=0)
        ax.axvspan(last * 1.15, right * 1.5, color="#f4f4f4", zorder=0)
        ax.set_xlabel("length N")
        ax.tick_params(axis="y", length=0)
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    labels = [name.replace("_", " ") + " †" * (name in dense(found)) for name in names]
    axes[0].set_yticks(range(len(names)), labels)
    for label, name in zip(axes[0].get_yticklabels(), names, strict=True):
        label.set_color(DARK)
        # the family's colour would be too pale for letters
        label.set_bbox({"facecolor": LINE_COLOURS[family[name]], "alpha": 0.18, "pad": 1.2,
                        "edgecolor": "none"})  # fmt: skip


def _legend(found: Sequence[Crossing], shown: Sequence[tuple[str, str]]) -> list[Line2D]:
    kinds = {one.answer.kind for one in found if (one.measure, one.pass_) in shown}
    grey = DARK
    looks = {
        "crosses": Line2D([], [], color=grey, marker="o", markersize=5,
                          label="from here on, 95 % interval"),
        "always": Line2D([], [], color=grey, marker="<", linestyle="", markersize=5,
                         label="from the shortest length on"),
        "never": Line2D([], [], color=PALE, marker="x", linestyle="", markersize=5,
                        label="never up to the longest length"),
        "not resolvable": Line2D([], [], color=PALE, marker="D", linestyle=":", markersize=4.5,
                                 markerfacecolor="white", label="not resolvable in the noise"),
        "no common lengths": Line2D([], [], color=PALE, marker="_", linestyle="", markersize=5,
                                    label="no common lengths"),
    }  # fmt: skip
    families = [f for f in FAMILIES if f in {one.system.first.family for one in found}]
    return [handle for kind, handle in looks.items() if kind in kinds] + [
        Line2D([], [], color=LINE_COLOURS[family], marker="s", alpha=0.5, linestyle="",
               markersize=7, label=family.replace("_", " "))
        for family in families
    ]  # fmt: skip


def _notes(view: View, found: Sequence[Crossing], shown: Sequence[tuple[str, str]]) -> list[str]:
    """How to read it, comparisons of unlike systems, and what must be known of single answers."""
    groups: dict[str, dict[str, None]] = {}
    for one in found:
        if (one.measure, one.pass_) in shown:
            for note in one.answer.notes:
                groups.setdefault(note, {})[one.system.name.replace("_", " ")] = None
    systems = {one.system.name for one in found}
    notes = [noise(view), *[DENSE] * bool(dense(found)), *differences(found)]
    for note, names in groups.items():
        notes.append(f"{note[0].upper()}{note[1:]}: {who(names, systems)}.")
    return notes


if __name__ == "__main__":
    from plots.__main__ import main

    raise SystemExit(main("crossover"))
