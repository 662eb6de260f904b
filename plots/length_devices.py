"""Devices side by side: the same system at the same length on each, and the ratio of times."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from lra.results.schema import LengthRow
from plots.length_entries import PASSES, Setting, View
from plots.tables import MISSING, Table, write_tables
from plots.time_vs_length import measured

CSV_COLUMNS = (
    "level", "dtype", "sizes", "model", "causal", "pass", "length", "device", "median_ms",
    "p20_ms", "p80_ms", "roofline_frac", "peak_mem_mib", "baseline_device", "times_faster",
)  # fmt: skip
# pass, name, causality, length: what several devices have timed
Place = tuple[str, str, bool, int]


def write(views: Sequence[View], out: Path) -> list[Path]:
    """``length_devices`` as .md, .tex and .csv; nothing where no two devices have timed the same
    system in the same setting."""
    tables, records = [], list[list[object]]()
    for setting, places in compared(views).items():
        devices = sorted({device for by in places.values() for device in by})
        tables += [table(setting, pass_, places, devices) for pass_ in PASSES
                   if any(place[0] == pass_ for place in places)]  # fmt: skip
        records += _records(setting, places, devices)
    return write_tables(out / "length_devices", tables, CSV_COLUMNS, records) if tables else []


def compared(views: Sequence[View]) -> dict[Setting, dict[Place, dict[str, LengthRow]]]:
    """Timed rows by setting and place, then by device; places of a single device are left out."""
    found: dict[Setting, dict[Place, dict[str, LengthRow]]] = {}
    for view in views:
        places = found.setdefault(view.setting, defaultdict(dict))
        for one in view.series:
            for row in one.rows:
                if measured(row):
                    # what a backend is called may differ: the best choice of a device is compared
                    place = (row.pass_, one.name, row.causal, row.length)
                    places[place][view.device] = row
    shared = {
        setting: {place: by for place, by in places.items() if len(by) > 1}
        for setting, places in found.items()
    }
    return {setting: places for setting, places in shared.items() if places}


def table(
    setting: Setting,
    pass_: str,
    places: Mapping[Place, Mapping[str, LengthRow]],
    devices: Sequence[str],
) -> Table:
    """Models and lengths down, devices across."""
    lines = [
        [f"{name}{', causal' * causal}, N={length}", *_cells(by, devices)]
        for (of_pass, name, causal, length), by in places.items() if of_pass == pass_
    ]  # fmt: skip
    notes = [
        "Cells: median ms (share of that device's roofline), and how many times faster than on "
        f"{devices[0]}; {MISSING} not timed there."
    ]
    return Table(f"{PASSES[pass_].capitalize()}, {setting.sizes}", ["system", *devices], lines,
                 notes)  # fmt: skip


def _cells(by: Mapping[str, LengthRow], devices: Sequence[str]) -> list[str]:
    cells = []
    for device in devices:
        row = by.get(device)
        if row is None or row.median_ms is None:
            cells.append(MISSING)
            continue
        share = "" if row.roofline_frac is None else f" ({100 * row.roofline_frac:.0f} %)"
        times = _times(by, device, devices[0])
        ratio = "" if times is None or device == devices[0] else f" {times:.2g}x"
        cells.append(f"{row.median_ms:.3g}{share}{ratio}")
    return cells


def _times(by: Mapping[str, LengthRow], device: str, first: str) -> float | None:
    mine, base = by[device].median_ms, by[first].median_ms if first in by else None
    return base / mine if base and mine else None


def _records(
    setting: Setting,
    places: Mapping[Place, Mapping[str, LengthRow]],
    devices: Sequence[str],
) -> list[list[object]]:
    return [
        [
            setting.level, setting.dtype, setting.sizes, name, causal, pass_, length, device,
            row.median_ms, row.p20_ms, row.p80_ms, row.roofline_frac, row.peak_mem_mib, devices[0],
            _times(by, device, devices[0]),
        ]
        for (pass_, name, causal, length), by in places.items()
        for device in devices if (row := by.get(device)) is not None
    ]  # fmt: skip


if __name__ == "__main__":
    from plots.__main__ import main

    raise SystemExit(main("length_devices"))
