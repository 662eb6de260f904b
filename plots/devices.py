"""Devices side by side: the fastest backend of every op on each, from any number of packs."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lra.results.schema import KernelRow
from plots.kernel_entries import PASSES, Setting, figures, setting
from plots.kernels import doubtful
from plots.length_panels import draw
from plots.lines import Line, Panel, Point
from plots.rows import by_device, threads
from plots.style import FAMILY_COLOURS, backend_look, save, style
from plots.tables import MISSING, Table, write_tables

CSV_COLUMNS = (
    "op", "options", "dtype", "pass", "batch", "heads", "head_dim", "length", "backend", "fastest",
    "device", "median_ms", "p20_ms", "p80_ms", "roofline_frac", "baseline_device", "times_faster",
)  # fmt: skip
COLOURS = [colour for name, colour in FAMILY_COLOURS.items() if name != "hashed"]
Place = tuple[Setting, int]


@dataclass(frozen=True)
class Comparison:
    """Timed rows of several devices, by setting and length, then by device.

    Attributes:
        devices: sorted; the first is what the others are compared with.
        rows: every backend's.
    """

    devices: tuple[str, ...]
    rows: Mapping[Place, Mapping[str, Sequence[KernelRow]]]

    def fastest(self, place: Place, device: str) -> KernelRow | None:
        """The row of the fastest backend that can be trusted; None where nothing was timed."""
        found = [row for row in self.rows[place].get(device, ()) if not doubtful(row)]
        return min(found, key=lambda row: row.median_ms or 0.0) if found else None


def compared(rows: Sequence[KernelRow]) -> Comparison | None:
    """The places that two devices or more have timed; None if there is none."""
    found: dict[Place, dict[str, list[KernelRow]]] = defaultdict(lambda: defaultdict(list))
    for device, of_device in by_device(rows).items():
        for row in of_device:
            if row.status == "ok" and row.median_ms:
                found[setting(row), row.length][device].append(row)
    shared = {place: found[place] for place in sorted(found) if len(found[place]) > 1}
    devices = sorted({device for by in shared.values() for device in by})
    return Comparison(tuple(devices), shared) if shared else None


def write(rows: Sequence[KernelRow], out: Path) -> list[Path]:
    """``devices`` as .md, .tex and .csv, and ``devices_<op>_<dtype>`` as .png and .svg; nothing
    where no two devices have timed the same."""
    comparison = compared(rows)
    if comparison is None:
        return []
    written = write_tables(out / "devices", tables(comparison), CSV_COLUMNS, records(comparison))
    for name, settings in figures(dict.fromkeys(key for key, _ in comparison.rows)).items():
        with style():
            written += save(chart(comparison, settings), out / f"devices_{name}")
    return written


def tables(comparison: Comparison) -> list[Table]:
    """A table for each op and dtype: time of the fastest backend on each device, and how many times
    faster than on the first."""
    first = comparison.devices[0]
    notes = [
        "Cells: median ms of the fastest backend (its name, share of that device's roofline), and "
        f"how many times faster than on {first}; {MISSING} not timed there.",
    ]
    found = []
    for settings in figures(dict.fromkeys(key for key, _ in comparison.rows)).values():
        lines = [
            [_name(place), *_cells(comparison, place)]
            for place in comparison.rows if place[0] in settings
        ]  # fmt: skip
        title = f"{settings[0].op}, {settings[0].dtype}, {settings[0].sizes}"
        found.append(Table(title, ["fastest backend", *comparison.devices], lines, notes))
    return found


def records(comparison: Comparison) -> list[list[object]]:
    """Every timed backend on every device; ``times_faster`` than the same backend on the first
    device, or than its fastest one for the row that is fastest."""
    first, found = comparison.devices[0], list[list[object]]()
    for place, by in comparison.rows.items():
        key, length = place
        before = {row.backend: row.median_ms for row in by.get(first, ())}
        best = comparison.fastest(place, first)
        for device in comparison.devices:
            fastest = comparison.fastest(place, device)
            for row in by.get(device, ()):
                base = before.get(row.backend)
                if row is fastest and best is not None:
                    base = best.median_ms
                times = base / row.median_ms if base and row.median_ms else None
                found.append([
                    key.op, key.options, key.dtype, key.pass_, key.batch, key.heads, key.head_dim,
                    length, row.backend, row is fastest, device, row.median_ms, row.p20_ms,
                    row.p80_ms, row.roofline_frac, first, times,
                ])  # fmt: skip
    return found


def chart(comparison: Comparison, settings: Sequence[Setting]) -> Figure:
    """Time of the fastest backend against the length, a line for each device."""
    options = list(dict.fromkeys(key.options for key in settings))
    passes = [name for name in PASSES if any(key.pass_ == name for key in settings)]
    panels = [
        [
            Panel(
                ": ".join(filter(None, [option, PASSES[pass_]])),
                _lines(comparison, [k for k in settings if (k.options, k.pass_) == (option, pass_)])
            )
            for pass_ in passes
        ]
        for option in options
    ]  # fmt: skip
    lines = [line for row in panels for panel in row for line in panel.lines]
    devices = [d for d in comparison.devices if any(line.name == d for line in lines)]
    legend = [Line2D([], [], color=_colour(comparison, d), label=d) for d in devices]
    markers = {point.marker for line in lines for point in line.points}
    legend += [
        Line2D([], [], color="#777777", marker=backend_look(name)[1], linestyle="", label=name)
        for name in sorted({row.backend for by in comparison.rows.values() for rows in by.values()
                            for row in rows})
        if backend_look(name)[1] in markers
    ]  # fmt: skip
    first = settings[0]
    title = f"{first.op}, {first.dtype}: devices compared"
    shown = [row for by in comparison.rows.values() for rows in by.values() for row in rows]
    counts = sorted({row.n_samples for row in shown if row.n_samples is not None})
    n = f" of n = {counts[0]} to {counts[-1]} calls" if counts else ""
    conditions = (
        f"{first.sizes}; {threads(shown)}; fastest backend on each device, median and 20-80 % "
        f"band{n}"
    )
    return draw(title, conditions, panels, legend, [])


def _lines(comparison: Comparison, settings: Sequence[Setting]) -> list[Line]:
    places = [place for place in comparison.rows if place[0] in settings]
    found = []
    for device in comparison.devices:
        rows = [row for place in places if (row := comparison.fastest(place, device))]
        points = [
            Point(
                row.length, row.median_ms, row.p20_ms or row.median_ms, row.p80_ms or row.median_ms,
                backend_look(row.backend)[1],
            )
            for row in rows if row.median_ms is not None
        ]  # fmt: skip
        if points:
            found.append(Line(device, _colour(comparison, device), points))
    return found


def _colour(comparison: Comparison, device: str) -> str:
    return COLOURS[comparison.devices.index(device) % len(COLOURS)]


def _name(place: Place) -> str:
    key, length = place
    return ", ".join(filter(None, [key.options, PASSES.get(key.pass_, key.pass_), f"N={length}"]))


def _cells(comparison: Comparison, place: Place) -> list[str]:
    first = comparison.fastest(place, comparison.devices[0])
    cells = []
    for device in comparison.devices:
        row = comparison.fastest(place, device)
        if row is None or row.median_ms is None:
            cells.append(MISSING)
            continue
        share = "" if row.roofline_frac is None else f", {100 * row.roofline_frac:.0f} %"
        cell = f"{row.median_ms:.3g} ms ({row.backend}{share})"
        if first is not None and first.median_ms and row is not first:
            cell += f" {first.median_ms / row.median_ms:.2g}x"
        cells.append(cell)
    return cells


if __name__ == "__main__":
    from plots.__main__ import main

    raise SystemExit(main("devices"))
