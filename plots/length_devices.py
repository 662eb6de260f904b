"""Devices side by side: the same system at the same length on each, and the ratio of times."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lra.results.schema import LengthRow
from plots.length_entries import PASSES, Setting, View, kind_of
from plots.length_notes import counts
from plots.length_variants import knobs_of
from plots.rows import threads
from plots.tables import MISSING, Table, write_tables
from plots.time_vs_length import measured

CSV_COLUMNS = (
    "level", "dtype", "sizes", "model", "causal", "pass", "length", "device", "backend",
    "degenerate", "median_ms", "p20_ms", "p80_ms", "n_samples", "roofline_frac", "peak_mem_mib",
    "n_threads", "date", "baseline_device", "times_faster",
)  # fmt: skip


class System(NamedTuple):
    """What must be the same on all devices; which backend is best may differ, but not whether the
    transformer's attention is fused."""

    model: str
    knobs: str
    variant: str
    kind: str
    causal: bool


# pass, system, length
Place = tuple[str, System, int]


@dataclass(frozen=True)
class Comparison:
    """One setting.

    Attributes:
        places: the fastest row of each device, where several have timed the same.
        alone: devices by pass and system, of systems without such a place.
    """

    setting: Setting
    places: Mapping[Place, Mapping[str, LengthRow]]
    alone: Mapping[tuple[str, System], Sequence[str]]

    @property
    def devices(self) -> list[str]:
        """By name; the first is what the others are compared with."""
        return sorted({device for by in self.places.values() for device in by})

    def name(self, system: System) -> str:
        """Its model, and what tells it from the model's other systems here."""
        systems = {*(of for _, of, _ in self.places), *(of for _, of in self.alone)}
        alike = [knobs_of(other.knobs) for other in systems if other.model == system.model]
        mine = knobs_of(system.knobs)
        differing = [
            f"{knob}={mine.get(knob)}" for knob in sorted({knob for of in alike for knob in of})
            if any(of.get(knob) != mine.get(knob) for of in alike)
        ]  # fmt: skip
        return " ".join(filter(None, [system.model, system.kind, *differing, system.variant]))


def write(views: Sequence[View], out: Path) -> list[Path]:
    """``length_devices`` as .md, .tex and .csv; nothing where no two devices have timed the same
    system in the same setting."""
    tables, records = [], list[list[object]]()
    for found in compared(views):
        tables += [table(found, pass_) for pass_ in PASSES
                   if any(place[0] == pass_ for place in found.places)]  # fmt: skip
        records += _records(found)
    return write_tables(out / "length_devices", tables, CSV_COLUMNS, records) if tables else []


def compared(views: Sequence[View]) -> list[Comparison]:
    """The settings in which several devices have timed the same."""
    timed: dict[Setting, dict[Place, dict[str, LengthRow]]] = {}
    for view in views:
        places = timed.setdefault(view.setting, defaultdict(dict))
        for row in view.rows:
            if (mine := measured(row)) is None:
                continue
            of = System(row.model, row.mixer_knobs, row.variant, kind_of(row) or "", row.causal)
            by = places[row.pass_, of, row.length]
            before = measured(by[view.device]) if view.device in by else None
            if before is None or mine < before:
                by[view.device] = row
    found = []
    for setting, places in timed.items():
        shared = {place: by for place, by in places.items() if len(by) > 1}
        together = {place[:2] for place in shared}
        alone: dict[tuple[str, System], set[str]] = defaultdict(set)
        for (pass_, system, _), by in places.items():
            if (pass_, system) not in together:
                alone[pass_, system] |= {*by}
        if shared:
            devices = {key: sorted(names) for key, names in alone.items()}
            found.append(Comparison(setting, shared, devices))
    return found


def table(found: Comparison, pass_: str) -> Table:
    """Models and lengths down, devices across."""
    devices, lines = found.devices, []
    for (of_pass, system, length), by in found.places.items():
        if of_pass == pass_:
            mark = " †" * any(row.degenerate for row in by.values())
            name = f"{found.name(system)}{', causal' * system.causal}, N={length}{mark}"
            lines.append([name, *_cells(by, devices)])
    title = f"{PASSES[pass_].capitalize()}, {found.setting.sizes}"
    return Table(title, ["system", *devices], lines, _notes(found, pass_))


def _notes(found: Comparison, pass_: str) -> list[str]:
    """How to read a table, how each device was measured, and what only one of them has."""
    devices, notes = found.devices, list[str]()
    notes.append(
        "Cells: median ms of the fastest backend (share of that device's roofline), and how many "
        f"times faster than on {devices[0]}; {MISSING} not timed there."
    )
    places = {place: by for place, by in found.places.items() if place[0] == pass_}
    for device in devices:
        if rows := [by[device] for by in places.values() if device in by]:
            notes.append(f"{device}: {threads(rows)}; {counts(rows)}; {_days(rows)}.")
    alone = [
        f"{found.name(system)}{', causal' * system.causal} ({', '.join(on)})"
        for (of_pass, system), on in found.alone.items() if of_pass == pass_
    ]  # fmt: skip
    if alone:
        notes.append(f"Nowhere timed on two of them at one length: {'; '.join(alone)}.")
    if any(row.degenerate for by in places.values() for row in by.values()):
        notes.append("† dense softmax attention at this length.")
    return notes


def _days(rows: Sequence[LengthRow]) -> str:
    days = sorted({row.date[:10] for row in rows if row.date})
    return " to ".join(dict.fromkeys((days[0], days[-1]))) if days else "date unknown"


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


def _records(found: Comparison) -> list[list[object]]:
    setting, devices = found.setting, found.devices
    return [
        [
            setting.level, setting.dtype, setting.sizes, found.name(system), system.causal, pass_,
            length, device, row.backend, row.degenerate, row.median_ms, row.p20_ms, row.p80_ms,
            row.n_samples, row.roofline_frac, row.peak_mem_mib, row.n_threads, row.date,
            devices[0], _times(by, device, devices[0]),
        ]
        for (pass_, system, length), by in found.places.items()
        for device in devices if (row := by.get(device)) is not None
    ]  # fmt: skip


if __name__ == "__main__":
    from plots.__main__ import main

    raise SystemExit(main("length_devices"))
