"""Time against length, log-log: panels in a grid, a line each for what is compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

WIDTH = 6.6
HEIGHT = 2.0  # of a panel, inches
TOP, LINE = 0.75, 0.16
DARK = "#333333"


@dataclass(frozen=True)
class Point:
    """Median with its 20 % and 80 % quantiles in milliseconds; hollow: not to be trusted."""

    length: int
    median_ms: float
    p20_ms: float
    p80_ms: float
    marker: str = "o"
    hollow: bool = False


@dataclass(frozen=True)
class Line:
    """Points by length; ``name`` identifies the line in the figure, ``colour`` in the legend."""

    name: str
    colour: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    lines: Sequence[Line]


def draw(
    title: str,
    conditions: str,
    panels: Sequence[Sequence[Panel]],
    legend: Sequence[Line2D],
    notes: Sequence[str],
) -> Figure:
    """A row of axes for each inner sequence; those of a row share their y axis.

    Args:
        title: what is compared.
        conditions: device, sizes, numbers of samples.
        panels: rows of equal length.
        legend: handles, shown below the panels.
        notes: what the figure does not show.
    """
    lines = wrap(conditions, 90) + [""]
    below = [line for note in notes for line in wrap(note, 96)]
    legend_rows = -(-len(legend) // 5)
    top = TOP + LINE * (len(lines) - 2)
    bottom = 0.5 + 0.2 * legend_rows + LINE * len(below)
    height = top + bottom + HEIGHT * len(panels) + 0.35 * (len(panels) - 1)
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.subplots(
        len(panels), len(panels[0]), sharex=True, sharey="row", squeeze=False,
        gridspec_kw={
            "left": 0.085, "right": 0.985, "top": 1 - top / height, "bottom": bottom / height,
            "wspace": 0.06, "hspace": 0.35 / HEIGHT,
        },
    )  # fmt: skip
    for row, shown in zip(axes, panels, strict=True):
        for ax, panel in zip(row, shown, strict=True):
            _panel(ax, panel)
        row[0].set_ylabel("ms a call")
    for ax in axes[-1]:
        ax.set_xlabel("length N")
    _scale(list(axes), panels)
    figure.text(0.012, 1 - 0.22 / height, title, fontsize=10.5, fontweight="bold")
    figure.text(0.012, 1 - 0.3 / height, "\n".join(lines), fontsize=8.5, va="top")
    figure.legend(
        handles=legend, loc="lower center", ncols=min(len(legend), 5), borderpad=0,
        bbox_to_anchor=(0.5, (0.06 + LINE * len(below)) / height), columnspacing=1.4,
    )  # fmt: skip
    if below:
        figure.text(0.012, 0.05 / height, "\n".join(below), fontsize=8, color=DARK, va="bottom")
    return figure


def _panel(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title, loc="left", fontsize=8.5)
    lengths = sorted({point.length for line in panel.lines for point in line.points})
    for line in panel.lines:
        at = {point.length: point for point in line.points}
        # a length that is missing breaks the line
        runs: list[list[Point]] = [[]]
        for length in lengths:
            if length in at:
                runs[-1].append(at[length])
            elif runs[-1]:
                runs.append([])
        for run in filter(None, runs):
            _run(axes, line, run)
    if not lengths:
        axes.text(0.5, 0.5, "nothing timed", transform=axes.transAxes, ha="center", color=DARK)


def _run(axes: Axes, line: Line, run: Sequence[Point]) -> None:
    x = [point.length for point in run]
    axes.plot(x, [p.median_ms for p in run], color=line.colour, linewidth=1.2, gid=line.name)
    low, high = [p.p20_ms for p in run], [p.p80_ms for p in run]
    axes.fill_between(x, low, high, color=line.colour, alpha=0.25, linewidth=0)
    for point in run:
        axes.plot(
            point.length, point.median_ms, marker=point.marker, markersize=4.5, linestyle="",
            color=line.colour, markerfacecolor="white" if point.hollow else line.colour,
        )  # fmt: skip


def _scale(axes: Sequence[Sequence[Axes]], panels: Sequence[Sequence[Panel]]) -> None:
    points = [p for row in panels for panel in row for line in panel.lines for p in line.points]
    lengths = sorted({point.length for point in points}) or [1]
    shown = lengths[:: -(-len(lengths) // 7)]
    for row, of_row in zip(axes, panels, strict=True):
        times = [p.median_ms for panel in of_row for line in panel.lines for p in line.points]
        wide = bool(times) and max(times) > 100 * min(times)
        for ax in row:
            ax.set_xscale("log", base=2)
            ax.set_yscale("log")
            ax.set_xlim(lengths[0] / 1.3, lengths[-1] * 1.3)
            ax.xaxis.set_major_locator(FixedLocator([float(length) for length in shown]))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter(FuncFormatter(lambda n, _: short(round(n))))
            ax.yaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
            ax.yaxis.set_minor_locator(NullLocator())
            ax.yaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:g}"))


def short(length: int) -> str:
    """A length for an axis: 256, 1K, 64K."""
    return f"{length // 1024}K" if length % 1024 == 0 and length else str(length)
