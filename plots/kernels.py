"""Latency of every backend of every op against the length, on each device."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lra.results.packs import device_slug
from lra.results.schema import KernelRow
from plots.kernel_entries import (
    PASSES,
    Curve,
    Setting,
    at_lengths,
    curves,
    figures,
)
from plots.length_panels import draw
from plots.lines import Line, Panel, Point
from plots.rows import by_device, threads
from plots.style import backend_look, save, style


def write(rows: Sequence[KernelRow], out: Path) -> list[Path]:
    """``kernels_<op>_<dtype>`` as .png and .svg in the folder of each device; an op of which
    nothing was timed has none."""
    written = []
    for device, of_device in by_device(rows).items():
        found = curves(of_device)
        for name, settings in figures(found).items():
            shown = {key: found[key] for key in settings}
            if any(curve.timed for several in shown.values() for curve in several):
                with style():
                    path = out / device_slug(device) / f"kernels_{name}"
                    written += save(chart(device, shown), path)
    return written


def chart(device: str, shown: Mapping[Setting, Sequence[Curve]]) -> Figure:
    """The panels of one op and dtype: options down, passes across."""
    first = next(iter(shown))
    options = list(dict.fromkeys(key.options for key in shown))
    passes = [name for name in PASSES if any(key.pass_ == name for key in shown)]
    by_place = {(key.options, key.pass_): several for key, several in shown.items()}
    panels = [
        [
            Panel(
                _title(option, PASSES[pass_], len(passes)),
                [_line(curve) for curve in by_place.get((option, pass_), ())],
            )
            for pass_ in passes
        ]
        for option in options
    ]
    rows = [row for several in shown.values() for curve in several for row in curve.timed]
    samples = sorted(row.n_samples or 0 for row in rows)
    conditions = (
        f"{device}; {threads(rows)}; "
        f"{first.sizes}; median and 20-80 % band of n = {samples[0]} to {samples[-1]} calls"
    )
    title = f"{first.op}, {first.dtype}: time against length"
    return draw(title, conditions, panels, _legend(rows), notes(shown))


def _title(option: str, pass_: str, columns: int) -> str:
    """In two lines where one would reach into the panel beside."""
    one = ": ".join(filter(None, [option, pass_]))
    return one if len(one) * columns <= 96 else f"{option}:\n{pass_}"


def _line(curve: Curve) -> Line:
    colour, marker = backend_look(curve.backend)
    points = [
        Point(
            row.length, row.median_ms, row.p20_ms or row.median_ms, row.p80_ms or row.median_ms,
            marker, hollow=doubtful(row),
        )
        for row in curve.timed if row.median_ms is not None
    ]  # fmt: skip
    return Line(curve.backend, colour, points)


def doubtful(row: KernelRow) -> bool:
    """Whether a row is flagged as faster than the device can be."""
    return "too fast to be true" in (row.reason or "")


def _legend(rows: Sequence[KernelRow]) -> list[Line2D]:
    handles = []
    for backend in sorted({row.backend for row in rows}):
        colour, marker = backend_look(backend)
        handles.append(Line2D([], [], color=colour, marker=marker, markersize=4.5, label=backend))
    if any(doubtful(row) for row in rows):
        handles.append(
            Line2D([], [], color="#777777", marker="o", markerfacecolor="white", linestyle="",
                   label="too fast to be true")
        )  # fmt: skip
    return handles


def notes(shown: Mapping[Setting, Sequence[Curve]]) -> list[str]:
    """What was tried and has no point, each reason once."""
    found: dict[str, list[str]] = {}
    for key, several in shown.items():
        for curve in several:
            for status, rows in curve.failures.items():
                where = f"{key.options or key.op} {at_lengths([row.length for row in rows])}"
                places = found.setdefault(f"{curve.backend} ({status})", [])
                if where not in places:
                    places.append(where)
    if not found:
        return []
    said = "; ".join(f"{what} {', '.join(places)}" for what, places in sorted(found.items()))
    return [f"Not shown: {said}."]


if __name__ == "__main__":
    from plots.__main__ import main

    raise SystemExit(main("kernels"))
