"""The table of the LRA paper's Table 2 kind: training steps a second and peak memory at 1K to 4K,
relative to the Transformer, measured beside published."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from lra.results.curves import median_error
from lra.results.packs import device_slug
from lra.results.published import reference
from lra.results.schema import LengthRow, PublishedRow
from plots.crossings import drift_in, noise
from plots.length_entries import PASSES, Series, View
from plots.length_notes import conditions, samples
from plots.sources import Sources
from plots.tables import MISSING, Table, number, write_tables
from plots.time_vs_length import measured as timed

THOUSANDS = (1, 2, 3, 4)
LEVEL = "model"
PASS = "step"
TASK = "text"
CSV_COLUMNS = (
    "device", "level", "dtype", "sizes", "model", "family", "causal", "length", "status",
    "degenerate", "steps_per_s", "times_faster", "published_times_faster", "peak_mem_mib",
    "memory_ratio", "published_memory_ratio", "published_source",
)  # fmt: skip


def write(views: Sequence[View], published: Sequence[PublishedRow], out: Path) -> list[Path]:
    """``speed_table_model_<dtype>`` as .md, .tex and .csv in the folder of each device, where
    training steps of whole models were timed at some of the lengths."""
    written = []
    for view in views:
        if lengths(view):
            path = out / device_slug(view.device) / f"speed_table_{view.suffix}"
            tables = [speed(view, published), memory(view, published)]
            written += write_tables(path, tables, CSV_COLUMNS, records(view, published))
    return written


def lengths(view: View) -> dict[int, int]:
    """Measured length by thousands: 1,024 or 1,000 is 1K; none but of whole models, which the
    published ones are."""
    if view.setting.level != LEVEL:
        return {}
    tried = {row.length for one in view.of_pass(PASS) for row in one.rows}
    found = {k: next((n for n in (1024 * k, 1000 * k) if n in tried), None) for k in THOUSANDS}
    return {k: n for k, n in found.items() if n is not None}


def speed(view: View, published: Sequence[PublishedRow]) -> Table:
    """Steps a second, how many times the transformer's, and what was published of that."""
    return _table(view, published, "steps/s", steps_per_s, faster, "steps_per_s")


def memory(view: View, published: Sequence[PublishedRow]) -> Table:
    """Peak memory, its share of the transformer's, and what was published of that."""
    return _table(view, published, "peak MiB", peak, larger, "peak_mem")


def steps_per_s(row: LengthRow) -> float | None:
    time = timed(row)
    return None if time is None else 1000 / time[0]


def peak(row: LengthRow) -> float | None:
    return row.peak_mem_mib


def faster(mine: LengthRow | None, base: LengthRow | None) -> float | None:
    """How many times the steps a second of the baseline."""
    return _ratio(mine, base, steps_per_s)


def larger(mine: LengthRow | None, base: LengthRow | None) -> float | None:
    """How many times the memory of the baseline."""
    return _ratio(mine, base, peak)


def _ratio(
    mine: LengthRow | None, base: LengthRow | None, value: Callable[[LengthRow], float | None]
) -> float | None:
    ours, theirs = (None if row is None else value(row) for row in (mine, base))
    return ours / theirs if ours and theirs else None


def _table(
    view: View,
    published: Sequence[PublishedRow],
    unit: str,
    value: Callable[[LengthRow], float | None],
    ratio: Callable[[LengthRow | None, LengthRow | None], float | None],
    metric: str,
) -> Table:
    sources, header, rows = Sources(), ["model"], []
    for k in lengths(view):
        header += [f"{k}K {unit}", "×", "published ×"]
    for one in view.of_pass(PASS):
        cells = [one.name + " †" * _dense(view, one)]
        for k, n in lengths(view).items():
            row, base = at(one, n), at(baseline(view, one), n)
            cells += [
                _value(row, value),
                times(ratio(row, base), within_noise(view, row, base) and ratio is faster),
                _cited(sources, _relative(published, one.first.model, f"{metric}@{k}K")),
            ]
        rows.append(cells)
    what = "Training steps a second" if metric == "steps_per_s" else "Peak memory of a step"
    title = f"{what} and multiples of the transformer's, {view.setting.sizes}"
    return Table(title, header, rows, [*_notes(view), *sources.notes()])


def within_noise(view: View, mine: LengthRow | None, base: LengthRow | None) -> bool:
    """Whether two times differ by no more than their 95 % interval, with the drift between cells
    where that is known."""
    if mine is None or base is None or mine is base:
        return False
    errors = [median_error(mine), median_error(base), drift_in(view)]
    ratio = faster(mine, base)
    return ratio is not None and abs(math.log(ratio)) < 1.96 * math.hypot(
        *(e or 0.0 for e in errors)
    )


def times(ratio: float | None, same: bool) -> str:
    """A multiple in a cell, and whether it can be told from 1."""
    return MISSING if ratio is None else f"{ratio:.2f}" + " ≈" * same


def _cited(sources: Sources, known: tuple[PublishedRow, float] | None) -> str:
    return MISSING if known is None else sources.cite(known[0], lambda _: f"{known[1]:.2f}")


def _notes(view: View) -> list[str]:
    shown = view.of_pass(PASS)
    bases = [base for one in shown if (base := baseline(view, one))]
    notes = [
        f"Measured on {conditions(view, f'{PASSES[PASS]}, medians of {samples(shown)} calls')}.",
        "×: multiple of the transformer with fused attention (SDPA); published ×: multiple of "
        "the source's own Transformer, which materialises its scores, at its sizes and device.",
    ]
    if bases:
        notes.append(f"≈: not resolvable, the times differ by less than their noise. {noise(view)}")
    else:
        notes.append("The transformer with fused attention was not measured: no multiples.")
    other = [o.name for o in shown if (b := baseline(view, o)) and
             b.first.causal != o.first.causal]  # fmt: skip
    if other:
        notes.append(f"Compared with a transformer of the other causality, the only one measured: "
                     f"{', '.join(other)}.")  # fmt: skip
    if any(_dense(view, one) for one in shown):
        notes.append("† dense softmax attention at some of these lengths.")
    return notes


def _dense(view: View, one: Series) -> bool:
    """Whether it is dense attention in disguise at some length of the table."""
    shown = lengths(view).values()
    return any(row.degenerate for row in one.rows if row.length in shown)


def baseline(view: View, one: Series) -> Series | None:
    """The transformer with fused attention that a system is compared with."""
    return view.baseline("fused", one.first.pass_, one.first.causal, one.first.variant)


def at(one: Series | None, length: int) -> LengthRow | None:
    """The row of a length."""
    return next((row for row in one.rows if row.length == length), None) if one else None


def _value(row: LengthRow | None, value: Callable[[LengthRow], float | None]) -> str:
    """The number; how it ended where there is none."""
    if row is None:
        return MISSING
    found = value(row)
    if found is not None:
        return number(found, 1 if found >= 10 else 2)
    return row.status if row.status != "ok" else MISSING


def _relative(
    published: Sequence[PublishedRow], model: str, metric: str
) -> tuple[PublishedRow, float] | None:
    """The source's number, and how many times that of the same source's Transformer it is."""
    row, base = (reference(published, name, TASK, metric) for name in (model, "transformer"))
    if row is None or base is None or row.source != base.source:
        return None
    return (row, row.value / base.value) if row.value and base.value else None


def records(view: View, published: Sequence[PublishedRow]) -> list[list[object]]:
    """The same, one model and length a line, unrounded."""
    found: list[list[object]] = []
    for one in view.of_pass(PASS):
        for k, n in lengths(view).items():
            row, base = at(one, n), at(baseline(view, one), n)
            theirs = [
                _relative(published, one.first.model, f"{metric}@{k}K")
                for metric in ("steps_per_s", "peak_mem")
            ]
            source = next((known[0].source for known in theirs if known), None)
            speed_ratio, memory_ratio = (known[1] if known else None for known in theirs)
            found.append([
                view.device, view.setting.level, view.setting.dtype, view.setting.sizes, one.name,
                one.first.family, one.first.causal, n, row and row.status, row and row.degenerate,
                row and steps_per_s(row), faster(row, base), speed_ratio, row and peak(row),
                larger(row, base), memory_ratio, source,
            ])  # fmt: skip
    return found


if __name__ == "__main__":
    from plots.__main__ import main

    raise SystemExit(main("speed_table"))
