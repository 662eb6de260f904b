"""Accuracy against speed, memory as area: LRA's Figure 3 with intervals and baselines."""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from textwrap import fill, wrap

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from plots.entries import TASK_TITLES, Entry, Group, baselines
from plots.labels import Box, place
from plots.style import FAMILY_COLOURS, canvas, save, style

INCHES = (6.6, 4.4)
DARK = "#333333"
LARGEST_PT2 = 500.0
UNKNOWN_PT2 = 30.0


def write(groups: Sequence[Group], out: Path) -> list[Path]:
    """One figure for each device, protocol and task; a task without a finished seed has none."""
    written = []
    for group in groups:
        for task in group.tasks:
            if any(_drawable(entry) for entry in group.of_task(task)):
                name = f"accuracy_vs_speed_{group.protocol}_{task}"
                with style():
                    written += save(draw(group, task), group.folder(out) / name)
    return written


def draw(group: Group, task: str) -> Figure:
    """The chart of one task.

    x steps/s (log), y test accuracy in per cent with its 95 % interval over seeds, area peak
    memory, colour family; hollow where the model is dense attention at this length.
    """
    entries = group.of_task(task)
    shown = [entry for entry in entries if _drawable(entry)]
    rules = baselines(entries)
    figure, measure = canvas(INCHES)
    axes = figure.add_axes((0.085, 0.14, 0.665, 0.73))
    areas = _areas(shown)
    for entry, area in zip(shown, areas, strict=True):
        _bubble(axes, entry, area)
    _scale_axes(axes, shown, rules)
    bubbles = _occupied(axes, shown, areas)
    lines = _baselines(measure, axes, rules, bubbles)
    _texts(figure, group, task, entries)
    _legends(figure, shown, areas)
    _labels(measure, axes, shown, areas, [*lines, *bubbles])
    return figure


def _drawable(entry: Entry) -> bool:
    return entry.accuracy is not None and bool(entry.steps_per_s)


def _point(entry: Entry) -> tuple[float, float]:
    """(steps/s, accuracy in per cent)."""
    assert entry.accuracy is not None and entry.steps_per_s is not None
    return entry.steps_per_s, 100 * entry.accuracy.mean


def _interval(entry: Entry) -> tuple[float, float]:
    """The interval in per cent, inside [0, 100]; of one seed the point itself."""
    estimate = entry.accuracy
    assert estimate is not None
    low = estimate.mean if estimate.low is None else estimate.low
    high = estimate.mean if estimate.high is None else estimate.high
    return 100 * max(low, 0.0), 100 * min(high, 1.0)


def _areas(shown: Sequence[Entry]) -> list[float]:
    """Marker areas in square points, proportional to peak memory; 0 where it is unknown."""
    memory = [entry.peak_mem_mib or 0.0 for entry in shown]
    largest = max(memory) or 1.0
    return [LARGEST_PT2 * value / largest for value in memory]


def _bubble(axes: Axes, entry: Entry, area: float) -> None:
    x, y = _point(entry)
    low, high = _interval(entry)
    colour = FAMILY_COLOURS[entry.first.family]
    hollow = entry.degenerate or not area
    axes.scatter(
        x,
        y,
        s=area or UNKNOWN_PT2,
        marker="o" if area else "x",
        c=[to_rgba(colour, 0.0 if hollow and area else 0.6 if area else 1.0)],
        edgecolors=colour if area else None,
        linewidth=1.4 if hollow else 0.8,
        zorder=3,
        gid=entry.name,
    )
    axes.errorbar(
        x, y, [[y - low], [high - y]], color=DARK, elinewidth=0.9, capsize=2.5, zorder=3.5
    )


def _scale_axes(axes: Axes, shown: Sequence[Entry], rules: Mapping[str, float]) -> None:
    speeds = [_point(entry)[0] for entry in shown]
    points = [_point(entry)[1] for entry in shown] + [100 * share for share in rules.values()]
    # an interval of two seeds may span everything: it may leave the axes, the points may not
    room = (min(points) - 10, max(points) + 10)
    ends = [min(max(end, room[0]), room[1]) for entry in shown for end in _interval(entry)]
    axes.set_xscale("log")
    # a factor on both sides: room for bubbles and labels however close the speeds are
    margin = max((max(speeds) / min(speeds)) ** 0.15, 1.35)
    axes.set_xlim(min(speeds) / margin, max(speeds) * margin)
    low, high = min(points + ends), max(points + ends)
    pad = 0.07 * (high - low) or 1.0
    axes.set_ylim(max(low - pad, 0.0), min(high + 1.6 * pad, 104.0))
    axes.xaxis.set_major_locator(FixedLocator(_ticks(*axes.get_xlim())))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("training steps per second (log)")
    axes.set_ylabel("test accuracy, %")


def _ticks(low: float, high: float) -> list[float]:
    """Round values of a log axis, three to eight of them."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7), tuple(range(10, 100))):
        unit = 0.1 if len(steps) > 7 else 1.0
        ticks = [s * unit * 10.0**d for d in decades for s in steps]
        inside = [float(f"{tick:.3g}") for tick in ticks if low <= tick <= high]
        if len(inside) >= 4:
            return inside[:: math.ceil(len(inside) / 8)]
    return inside


def _occupied(axes: Axes, shown: Sequence[Entry], areas: Sequence[float]) -> list[Box]:
    """Boxes round the bubbles and their intervals, in points."""
    found = []
    for entry, area in zip(shown, areas, strict=True):
        x, y = axes.transData.transform(_point(entry))
        low, high = (axes.transData.transform((1, end))[1] for end in _interval(entry))
        # the square inside the circle's edge: the corners of a bounding box are free
        half = 0.85 * _radius(area)
        found += [Box(x - half, y - half, x + half, y + half), Box(x - 2, low, x + 2, high)]
    return found


def _radius(area: float) -> float:
    return math.sqrt((area or UNKNOWN_PT2) / math.pi)


def _baselines(
    measure: FigureCanvasAgg, axes: Axes, rules: Mapping[str, float], bubbles: Sequence[Box]
) -> list[Box]:
    """Dashed lines of the trivial rules, named where it is free; what labels must not cover."""
    names: dict[str, list[str]] = {}
    for name, share in rules.items():
        names.setdefault(f"{100 * share:.1f}", []).append(name)
    covered: list[Box] = []
    for value in names:
        axes.axhline(float(value), color=DARK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        height = axes.transData.transform((1, float(value)))[1]
        covered.append(Box(axes.bbox.x0, height - 1, axes.bbox.x1, height + 1))
    for value, equal in names.items():
        found = []
        for side, above in product((1.0, 0.0), (True, False)):
            text = axes.annotate(
                f"{', '.join(equal)} {value} %",
                (side, float(value)),
                xycoords=axes.get_yaxis_transform(),
                xytext=(3 - 6 * side, 2 if above else -2),
                textcoords="offset points",
                ha="right" if side else "left",
                va="bottom" if above else "top",
                fontsize=8,
                color=DARK,
            )
            box = Box(*text.get_window_extent(measure.get_renderer()).extents)
            found.append((sum(box.overlap(other) for other in [*bubbles, *covered]), text, box))
        (_, _, box), *others = sorted(found, key=lambda name: name[0])
        for _, other, _ in others:
            other.remove()
        covered.append(box)
    return covered


def _texts(figure: Figure, group: Group, task: str, entries: Sequence[Entry]) -> None:
    """Title, conditions, and below what the figure cannot show."""
    seeds = sorted({len(entry.accuracies) for entry in entries if _drawable(entry)})
    n = f"n = {seeds[0]}" if len(seeds) == 1 else f"n = {seeds[0]} to {seeds[-1]}"
    title = f"{TASK_TITLES.get(task, task)}: accuracy and speed"
    figure.text(0.012, 0.955, title, fontsize=10.5, fontweight="bold")
    conditions = f"protocol {group.protocol}; {group.device}; seeds {n}, mean and 95 % interval"
    figure.text(0.012, 0.91, "\n".join(wrap(conditions, 105)), fontsize=8.5, va="center")
    missing = [
        f"{entry.name} ({', '.join(entry.failures) or 'no speed'})"
        for entry in entries
        if not _drawable(entry)
    ]
    if missing:
        note = "\n".join(wrap(f"Not shown: {', '.join(missing)}", 115))
        figure.text(0.012, 0.012, note, fontsize=8, color=DARK)


def _legends(figure: Figure, shown: Sequence[Entry], areas: Sequence[float]) -> None:
    """Families present, and what an area means."""
    families = [f for f in FAMILY_COLOURS if f in {entry.first.family for entry in shown}]
    handles = [_disc(FAMILY_COLOURS[f], 40.0, f.replace("_", " ")) for f in families]
    if any(entry.degenerate for entry in shown):
        handles.append(_disc("none", 40.0, "dense at\nthis length"))
    if not all(areas):
        handles.append(Line2D([], [], marker="x", linestyle="", color="#777777", label="unknown"))
    figure.legend(
        handles=handles, title="family", loc="upper left", bbox_to_anchor=(0.775, 0.875),
        alignment="left", handletextpad=0.4, borderpad=0.0, labelspacing=0.45,
    )  # fmt: skip
    known = [(e.peak_mem_mib, area) for e, area in zip(shown, areas, strict=True) if area]
    if not known:
        return
    largest, _ = max(known, key=lambda pair: pair[0] or 0.0)
    assert largest is not None
    sizes = _round_sizes(largest)
    figure.legend(
        handles=[_disc("#bbbbbb", LARGEST_PT2 * s / largest, f"{s:g} MiB") for s in sizes],
        title="peak memory", loc="lower left", bbox_to_anchor=(0.775, 0.125), alignment="left",
        handletextpad=0.9, borderpad=0.0, labelspacing=1.1, handlelength=1.6,
    )  # fmt: skip


def _round_sizes(largest: float) -> list[float]:
    """Three round sizes up to the largest."""
    top = max(s * 10.0**d for d in range(-3, 9) for s in (1, 2, 5) if s * 10.0**d <= largest)
    return [top / 5, top / 2, top]


def _disc(colour: str, area: float, label: str) -> Line2D:
    hollow = colour == "none"
    return Line2D(
        [], [], linestyle="", marker="o", markersize=math.sqrt(area), label=label,
        markerfacecolor="none" if hollow else to_rgba(colour, 0.6),
        markeredgecolor=DARK if hollow else colour, markeredgewidth=1.4 if hollow else 0.8,
    )  # fmt: skip


def _labels(
    measure: FigureCanvasAgg,
    axes: Axes,
    shown: Sequence[Entry],
    areas: Sequence[float],
    obstacles: Sequence[Box],
) -> None:
    """Each model's name beside its bubble; a thin line where it had to move away."""
    # what departs from a protocol stands behind the name, which tables show whole
    names = [
        fill(entry.name.replace("_", " "), 36, max_lines=3, placeholder=" ...") for entry in shown
    ]
    texts = [axes.text(0, 0, name, fontsize=8.5, zorder=4) for name in names]
    points = [tuple(axes.transData.transform(_point(entry))) for entry in shown]
    radii = [_radius(area) for area in areas]
    boxes = [text.get_window_extent(measure.get_renderer()) for text in texts]
    inside = Box(axes.bbox.x0 + 2, axes.bbox.y0 + 2, axes.bbox.x1 - 2, axes.bbox.y1 - 1)
    found = place(points, radii, [(b.width, b.height) for b in boxes], obstacles, inside)
    for text, box, point, radius in zip(texts, found, points, radii, strict=True):
        place_at = axes.transAxes.inverted().transform((box.x0, box.y0))
        text.set(transform=axes.transAxes, position=place_at, va="bottom")
        end = (min(max(point[0], box.x0), box.x1), min(max(point[1], box.y0), box.y1))
        if math.dist(point, end) > radius + 8:
            (x0, y0), (x1, y1) = axes.transData.inverted().transform([point, end])
            axes.plot([x0, x1], [y0, y1], color="#777777", linewidth=0.6, zorder=2)


if __name__ == "__main__":
    from plots.__main__ import main

    raise SystemExit(main("accuracy_vs_speed"))
