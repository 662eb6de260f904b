"""How fast each system grows with N, beside what its card claims, where it beats attention, and the
state that it decodes with."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lra.results.crossover import Crossover
from lra.results.csv_io import read_csv
from lra.results.curves import Curve, Fit, exceeds, fit, flop_curve, memory_curve, time_curve
from lra.results.packs import device_slug
from lra.results.schema import ModelRow
from plots.crossings import (
    BASELINE_TITLES,
    DENSE,
    Crossing,
    crossings,
    dense,
    differences,
    noise,
    said,
    who,
)
from plots.length_entries import PASSES, Kind, Series, View
from plots.length_notes import conditions, samples
from plots.states import growing, state_records, state_table
from plots.tables import MISSING, Table, write_tables

# quantity: its curve, and the column of the card that claims its growth
QUANTITIES: dict[str, tuple[Callable[..., Curve], str]] = {
    "time": (time_curve, "time"),
    "memory": (memory_curve, "memory"),
    "FLOPs": (flop_curve, "time"),
}
FASTER = "!"
CSV_COLUMNS = (
    "device", "level", "dtype", "sizes", "model", "family", "causal", "pass", "quantity",
    "compared_with", "baseline_causal", "answer", "value", "low", "high", "first_length",
    "last_length", "claim", "exceeds_claim", "notes",
)  # fmt: skip


def read_models(results: Path) -> dict[str, ModelRow]:
    """The cards by model; none where the table is not there.

    Raises:
        UserError: it does not fit the schema.
    """
    path = results / "measured" / "models.csv"
    return {row.model: row for row in read_csv(path, ModelRow)} if path.exists() else {}


def write(views: Sequence[View], models: Mapping[str, ModelRow], out: Path) -> list[Path]:
    """``lengths_table_<level>_<dtype>`` as .md, .tex and .csv in the folder of each device."""
    written = []
    for view in views:
        found = {kind: crossings(view, kind) for kind in BASELINE_TITLES}
        tables = [growth(view, models)] if set(view.passes) - {"decode"} else []
        tables += [crossing_table(view, kind, of) for kind, of in found.items() if of]
        tables += [state_table(view)] if growing(view) else []
        if tables:
            path = out / device_slug(view.device) / f"lengths_table_{view.suffix}"
            records = [*_growth_records(view, models), *_crossing_records(view, found)]
            records += [
                [*_place(view, one), *cells, None, None, None] for one, cells in state_records(view)
            ]
            written += write_tables(path, tables, CSV_COLUMNS, records)
    return written


def growth(view: View, models: Mapping[str, ModelRow]) -> Table:
    """Exponents of time in each pass, of operations and of memory, beside the card's claims."""
    passes = [p for p in view.passes if p != "decode"]
    counted = next((p for p in ("forward_backward", "forward") if p in passes), passes[0])
    columns = [*(("time", p) for p in passes), ("FLOPs", counted), ("memory", passes[-1])]
    header = ["model", "claimed time"]
    header += [f"{quantity}, {PASSES[pass_]}" for quantity, pass_ in columns]
    header.insert(-1, "claimed memory")
    rows = []
    for name, by_pass in _by_name(view).items():
        any_one = next(iter(by_pass.values()))
        card = models.get(any_one.first.model)
        cells = [_exponent(by_pass.get(pass_), quantity, card) for quantity, pass_ in columns]
        cells.insert(-1, card.memory if card else MISSING)
        mark = " †" * any(row.degenerate for one in by_pass.values() for row in one.rows)
        claimed = _claim("time", card, any_one.first.causal)
        rows.append([name + mark, claimed or MISSING, *cells])
    notes = [
        f"Measured on {conditions(view, f'medians of {samples(view.series)} calls')}.",
        "Cells: the power of N by least squares in the logarithms over the longer half of the "
        "measured lengths, four at least, and its 95 % interval, which is wide where there are "
        "only three; too few: fewer. "
        "Slower growth than claimed is no contradiction: lower powers may still prevail at these "
        "lengths.",
    ]
    if any(FASTER in cell for row in rows for cell in row):
        notes.append(f"{FASTER} grows faster than the card claims: the whole interval lies above.")
    if any("†" in row[0] for row in rows):
        notes.append("† dense softmax attention at some of these lengths, which are not fitted.")
    return Table(f"Growth with the length N, {view.setting.sizes}", header, rows, notes)


def crossing_table(view: View, kind: Kind, found: Sequence[Crossing]) -> Table:
    """From which length each system is faster, and smaller, than the transformer."""
    passes = [p for p in view.passes if any(one.pass_ == p for one in found)]
    columns = [(measure, pass_) for measure in ("time", "memory") for pass_ in passes]
    by_place = {(one.system.name, one.measure, one.pass_): one for one in found}
    names, disguised = dict.fromkeys(one.system.name for one in found), dense(found)
    rows = [
        [
            name + " †" * (name in disguised),
            *(_crossing(by_place.get((name, *column))) for column in columns),
        ]
        for name in names
    ]
    notes = [
        f"Measured on {conditions(view, f'medians of {samples(view.series)} calls')}.",
        "Cells: the length from which on, up to the longest measured, it needs less than the "
        "transformer, interpolated between measured lengths, with its 95 % interval; "
        "memory has none. up to: one of the two has no value at greater lengths. A "
        "transformer that runs out of memory or time counts as more from there.",
        noise(view),
        *[DENSE] * bool(disguised),
        *differences(found),
    ]
    remarks: dict[str, dict[tuple[str, str], list[str]]] = {}
    for one in found:
        for note in one.answer.notes:
            columns_of = remarks.setdefault(note, {})
            columns_of.setdefault((one.measure, one.pass_), []).append(one.system.name)
    for note, columns_of in remarks.items():
        told: dict[str, list[str]] = {}
        for (measure, pass_), of in columns_of.items():
            told.setdefault(who(of, names), []).append(f"{measure}, {PASSES[pass_]}")
        where = [
            systems if len(of) == len(columns) else f"{systems} ({'; '.join(of)})"
            for systems, of in told.items()
        ]
        notes.append(f"{note[0].upper()}{note[1:]}: {', '.join(where)}.")
    header = ["model", *(f"{measure}, {PASSES[pass_]}" for measure, pass_ in columns)]
    than = f"less time or memory than {BASELINE_TITLES[kind]}"
    title = f"Shortest length with {than}, {view.setting.sizes}"
    return Table(title, header, rows, notes)


def _by_name(view: View) -> dict[str, dict[str, Series]]:
    found: dict[str, dict[str, Series]] = {}
    for one in view.series:
        if one.first.pass_ != "decode":
            found.setdefault(one.name, {})[one.first.pass_] = one
    return found


def _fitted(one: Series, quantity: str) -> Fit | None:
    # dense attention in disguise says nothing of how the method itself grows
    return fit(QUANTITIES[quantity][0]([row for row in one.rows if not row.degenerate]))


def _claim(quantity: str, card: ModelRow | None, causal: bool) -> str | None:
    """What the card says; of the causal form where it says that apart."""
    column = QUANTITIES[quantity][1]
    if card is not None and causal and column == "time" and card.causal_time:
        return card.causal_time
    return None if card is None else str(getattr(card, column))


def _exponent(one: Series | None, quantity: str, card: ModelRow | None) -> str:
    """``1.02 (0.97 to 1.07)``, marked where it exceeds the claim."""
    if one is None:
        return MISSING
    found = _fitted(one, quantity)
    if found is None:
        return "too few"
    claim = _claim(quantity, card, one.first.causal)
    flag = f" {FASTER}" if claim is not None and exceeds(found, claim) else ""
    return f"{found.exponent:.2f} ({found.low:.2f} to {found.high:.2f}){flag}"


def _crossing(one: Crossing | None) -> str:
    return MISSING if one is None else said(one.answer)


def _growth_records(view: View, models: Mapping[str, ModelRow]) -> list[list[object]]:
    found = []
    for one in (one for one in view.series if one.first.pass_ != "decode"):
        for quantity in QUANTITIES:
            power, card = _fitted(one, quantity), models.get(one.first.model)
            claim = _claim(quantity, card, one.first.causal)
            ends = (
                [power.exponent, power.low, power.high, power.first, power.last]
                if power else [None] * 5
            )  # fmt: skip
            outgrown = exceeds(power, claim) if power and claim is not None else None
            found.append([
                *_place(view, one), f"exponent of {quantity}", None, None,
                "exponent" if power else "too few", *ends, claim, outgrown, None,
            ])  # fmt: skip
    return found


def _crossing_records(view: View, found: Mapping[Kind, Sequence[Crossing]]) -> list[list[object]]:
    return [
        [
            *_place(view, one.system), f"crossover in {one.measure}", kind,
            one.baseline.first.causal, one.answer.kind, one.answer.length, *_interval(one.answer),
            None, None, "; ".join(one.answer.notes),
        ]
        for kind, of_kind in found.items() for one in of_kind
    ]  # fmt: skip


def _interval(answer: Crossover) -> list[object]:
    return [answer.low, answer.high, answer.first, answer.last]


def _place(view: View, one: Series) -> list[object]:
    row, setting = one.first, view.setting
    return [
        view.device, setting.level, setting.dtype, setting.sizes, one.name, row.family, row.causal,
        row.pass_,
    ]  # fmt: skip


if __name__ == "__main__":
    from plots.__main__ import main

    raise SystemExit(main("lengths_table"))
