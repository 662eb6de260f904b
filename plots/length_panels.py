"""Values against length, log-log: panels in a grid, a line each for what is compared."""

from collections import Counter
from collections.abc import Sequence
from textwrap import wrap
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from plots.line_labels import draw_labels, label_width
from plots.lines import Line, Panel, Point

WIDTH = 6.6
HEIGHT = 2.0  # of a panel, inches
TOP, LINE = 0.75, 0.16
DARK = "#333333"
DASHED = (0, (4, 2))


def draw(
    title: str,
    conditions: str,
    panels: Sequence[Sequence[Panel | None]],
    legend: Sequence[Line2D],
    notes: Sequence[str],
    *,
    unit: str = "ms a call",
    share: Literal["row", "col", "all"] = "row",
    labels: bool = False,
) -> Figure:
    """A row of axes for each inner sequence.

    Args:
        title: what is compared.
        conditions: device, sizes, numbers of samples.
        panels: rows of equal length; None leaves a place free.
        legend: handles, shown below the panels.
        notes: what the figure does not show.
        unit: of the y axes.
        share: which axes share their y axis.
        labels: whether the lines are named at their ends.
    """
    lines = wrap(conditions, 90) + [""]
    below = [line for note in notes for line in wrap(note, 96)]
    columns = _columns(legend)
    second = LINE * any("\n" in panel.title for row in panels for panel in row if panel)
    top, gap = TOP + LINE * (len(lines) - 2) + second, 0.35 + second
    bottom = 0.5 + 0.2 * -(-len(legend) // columns) + LINE * len(below)
    height = top + bottom + HEIGHT * len(panels) + gap * (len(panels) - 1)
    figure = Figure(figsize=(WIDTH, height), dpi=72)
    axes = figure.subplots(
        len(panels), len(panels[0]), sharex=True, sharey=share, squeeze=False,
        gridspec_kw={
            "top": 1 - top / height, "bottom": bottom / height, "hspace": gap / HEIGHT,
            **_across(panels, share, labels),
        },
    )  # fmt: skip
    # with names beside them axes are narrow
    _scale([list(row) for row in axes], panels, share, ticks=4 if labels else 7)
    _fill([list(row) for row in axes], panels, unit, labels)
    figure.text(0.012, 1 - 0.22 / height, title, fontsize=10.5, fontweight="bold")
    figure.text(0.012, 1 - 0.3 / height, "\n".join(lines), fontsize=8.5, va="top")
    add_foot(figure, legend, columns, below)
    return figure


def add_foot(figure: Figure, legend: Sequence[Line2D], columns: int, below: Sequence[str]) -> None:
    """The notes at the bottom of a figure, and the legend above them."""
    height = figure.get_figheight()
    figure.legend(
        handles=legend, loc="lower center", ncols=columns, borderpad=0,
        bbox_to_anchor=(0.5, (0.06 + LINE * len(below)) / height), columnspacing=1.4,
    )  # fmt: skip
    if below:
        figure.text(
            0.012, 0.05 / height, "\n".join(below), fontsize=8, color=DARK, va="bottom",
            linespacing=1.4,
        )  # fmt: skip


def _fill(
    axes: Sequence[Sequence[Axes]],
    panels: Sequence[Sequence[Panel | None]],
    unit: str,
    labels: bool,
) -> None:
    """Draws every panel; the lowest of each column names the x axis, the left ones their unit."""
    places = [[*zip(row, of_row, strict=True)] for row, of_row in zip(axes, panels, strict=True)]
    for i, row in enumerate(places):
        for j, (ax, panel) in enumerate(row):
            if panel is None:
                ax.axis("off")
                continue
            _panel(ax, panel)
            if panel.unit or j == 0:
                ax.set_ylabel(panel.unit or unit)
            if i + 1 == len(places) or places[i + 1][j][1] is None:
                ax.set_xlabel("length N")
                ax.tick_params(labelbottom=True)
    if labels:
        draw_labels([(ax, panel.lines) for row in places for ax, panel in row if panel])


def _columns(legend: Sequence[Line2D]) -> int:
    """How many entries of a legend stand beside each other: at most five, and no wider than the
    figure."""
    longest = max((len(str(handle.get_label())) for handle in legend), default=1)
    fitting = int(WIDTH * 72 / (4.2 * longest + 38))
    return max(1, min(len(legend), 5, fitting))


def _across(panels: Sequence[Sequence[Panel | None]], share: str, labels: bool) -> dict[str, float]:
    """Margins and space between columns."""
    if not labels:
        return {"left": 0.085, "right": 0.985, "wspace": 0.06}
    lines = [line for row in panels for panel in row if panel for line in panel.lines]
    room, columns, left = label_width(lines), len(panels[0]), 0.105
    gap = room + (0.55 if share == "col" else 0.12)
    width = (WIDTH * (1 - left) - room - gap * (columns - 1)) / columns
    return {"left": left, "right": 1 - room / WIDTH, "wspace": gap / width}


def _panel(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title, loc="left", fontsize=8.5)
    count = Counter(point.length for line in panel.lines for point in line.points)
    # a length that most lines have and one has not breaks that line
    expected = [n for n, times in count.items() if 2 * times >= len(panel.lines)]
    for line in panel.lines:
        at = {point.length: point for point in line.points}
        runs: list[list[Point]] = [[]]
        for length in sorted({*at, *expected}):
            if length in at:
                runs[-1].append(at[length])
            elif runs[-1]:
                runs.append([])
        for run in filter(None, runs):
            _run(axes, line, run)
        _unmeasured(axes, line)
    if not any(line.values for line in panel.lines):
        axes.text(0.5, 0.5, "nothing timed", transform=axes.transAxes, ha="center", color=DARK)


def _run(axes: Axes, line: Line, run: Sequence[Point]) -> None:
    x = [point.length for point in run]
    axes.plot(
        x, [p.value for p in run], color=line.colour, gid=line.name,
        linewidth=2.0 if line.reference else 1.2, linestyle=line.reference or "-",
        zorder=1.5 if line.reference else 2,
    )  # fmt: skip
    low, high = [p.low for p in run], [p.high for p in run]
    axes.fill_between(x, low, high, color=line.colour, alpha=0.25, linewidth=0)
    _markers(axes, line, run)


def _markers(axes: Axes, line: Line, points: Sequence[Point]) -> None:
    for marker, hollow in dict.fromkeys((point.marker, point.hollow) for point in points):
        alike = [point for point in points if (point.marker, point.hollow) == (marker, hollow)]
        axes.plot(
            [point.length for point in alike], [point.value for point in alike], marker=marker,
            markersize=4.5, linestyle="", color=line.colour,
            markerfacecolor="white" if hollow else line.colour,
        )  # fmt: skip


def _unmeasured(axes: Axes, line: Line) -> None:
    """What was predicted, dashed, on from the last measured point before it; and the ends."""
    if line.dashed:
        first = min(point.length for point in line.dashed)
        before = [point for point in line.points if point.length < first][-1:]
        run = sorted([*before, *line.dashed], key=lambda point: point.length)
        axes.plot(
            [point.length for point in run], [point.value for point in run], color=line.colour,
            linewidth=2.0 if line.reference else 1.0, linestyle=DASHED,
            gid=f"{line.name} predicted", zorder=1.5,
        )  # fmt: skip
        _markers(axes, line, [point for point in line.dashed if point.hollow])
    for end in line.ends:
        axes.plot(
            end.length, end.value, marker=end.marker, markersize=6.5, markeredgewidth=1.6,
            linestyle="", color=line.colour, gid=f"{line.name} ends", zorder=3,
        )  # fmt: skip


def _scale(
    axes: Sequence[Sequence[Axes]],
    panels: Sequence[Sequence[Panel | None]],
    share: str,
    ticks: int,
) -> None:
    lines = [line for row in panels for panel in row if panel for line in panel.lines]
    lengths = sorted({length for line in lines for length in line.values}) or [1]
    shown = lengths[:: -(-len(lengths) // ticks)]
    for i, row in enumerate(axes):
        for j, ax in enumerate(row):
            same = [
                panel for k, of_row in enumerate(panels) for m, panel in enumerate(of_row)
                if panel and (share == "all" or (k == i if share == "row" else m == j))
            ]  # fmt: skip
            values = [v for panel in same for line in panel.lines for v in line.values.values()]
            wide = bool(values) and max(values) > 100 * min(values)
            ax.set_xscale("log", base=2)
            ax.set_yscale("log")
            ax.set_xlim(lengths[0] / 1.3, lengths[-1] * 1.3)
            ax.xaxis.set_major_locator(FixedLocator([float(length) for length in shown]))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter(FuncFormatter(lambda n, _: short(round(n))))
            ax.yaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
            ax.yaxis.set_minor_locator(NullLocator())
            ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def short(length: int) -> str:
    """A length for an axis: 256, 1K, 64K."""
    return f"{length // 1024}K" if length % 1024 == 0 and length else str(length)
