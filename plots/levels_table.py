"""How much of a mixer's speed is left in a block and in a whole model: each against fused attention
at its own level, side by side."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from lra.results.packs import device_slug
from lra.results.schema import FAMILIES, LengthRow
from plots.length_entries import LEVELS, PASSES, Series, View
from plots.length_notes import conditions, counts
from plots.length_panels import short
from plots.speed_table import at, baseline, faster, times, within_noise
from plots.tables import MISSING, Table, write_tables

CSV_COLUMNS = (
    "device", "dtype", "sizes", "model", "family", "causal", "pass", "length", "level", "status",
    "degenerate", "n_params", "median_ms", "times_faster",
)  # fmt: skip


def write(views: Sequence[View], out: Path) -> list[Path]:
    """``levels_table_<dtype>`` as .md, .tex and .csv in the folder of each device, where systems
    were timed at several levels."""
    written = []
    for levels in stacks(views):
        tables = [table(levels, pass_, n) for pass_, n in common(levels)]
        if tables:
            top = list(levels.values())[-1]
            name = f"levels_table_{top.suffix.removeprefix(f'{top.setting.level}_')}"
            path = out / device_slug(top.device) / name
            written += write_tables(path, tables, CSV_COLUMNS, records(levels))
    return written


def stacks(views: Sequence[View]) -> list[dict[str, View]]:
    """Views by level that differ in nothing else, the whole model last; its number of layers is its
    own."""
    found = []
    timed = [view for view in views if "decode" not in view.passes]
    for model in (view for view in timed if view.setting.level == "model"):
        same = {
            view.setting.level: view for view in timed
            if view.setting.level != "model" and _place(view) == _place(model)
        }  # fmt: skip
        levels = {level: same[level] for level in LEVELS if level in same}
        if levels:
            found.append({**levels, "model": model})
    return found


def _place(view: View) -> tuple[object, ...]:
    """What levels have to share; the last is the direction."""
    of = view.setting
    return view.device, of.dtype, of.dim, of.heads, of.protocol, of.batching, view.causal


def common(levels: dict[str, View]) -> list[tuple[str, int]]:
    """Passes and lengths that fused attention was timed in at every level."""
    found = []
    for pass_ in PASSES:
        bases = [view.baseline("fused", pass_, view.causal) for view in levels.values()]
        timed = [{row.length for row in base.timed} if base else set() for base in bases]
        found += [(pass_, n) for n in sorted(set.intersection(*timed))]
    return found


def table(levels: dict[str, View], pass_: str, n: int) -> Table:
    """Times as fast as fused attention, a column a level."""
    rows, shown = [], list[LengthRow]()
    for name in names(levels, pass_, n):
        found = [(view, *beside(view, name, pass_, n)) for view in levels.values()]
        own = [row for _, row, _ in found if row]
        dense = any(row.degenerate for row in own)
        rows.append([name + " †" * dense, *(_cell(*one) for one in found)])
        shown += own
    top = levels["model"]
    said = conditions(top, f"{PASSES[pass_]}, medians of {counts(shown)} calls")
    notes = [
        f"Measured on {said}; blocks and mixers in the same sizes, one of them.",
        "Cells: how many times as fast as the transformer with fused attention (SDPA) at the same "
        "level. A block adds norms, residuals and feed-forward to the mixer, a model embedding and "
        "head: what all systems share, so that ratios come nearer to 1. ≈: within noise.",
    ]
    if any("†" in row[0] for row in rows):
        notes.append("† dense softmax attention at this length.")
    header = ["model", *(f"{LEVELS[level]} ×" for level in levels)]
    return Table(f"Levels side by side at N={short(n)}, {PASSES[pass_]}", header, rows, notes)


def _cell(view: View, row: LengthRow | None, base: LengthRow | None) -> str:
    ratio = faster(row, base)
    if ratio is not None:
        return times(ratio, within_noise(view, row, base))
    return MISSING if row is None or row.status == "ok" else row.status


def names(levels: dict[str, View], pass_: str, n: int) -> list[str]:
    """Systems that were timed at more than one level, by family and name."""
    timed = [
        (FAMILIES.index(one.first.family), _name(view, one))
        for view in levels.values() for one in view.of_pass(pass_)
        if any(row.length == n for row in one.timed)
    ]  # fmt: skip
    return [name for key, count in sorted(Counter(timed).items()) if count > 1 for name in key[1:]]


def _name(view: View, one: Series) -> str:
    """Fused attention is called the same at every level, whatever it has to be told apart from."""
    first = one.first
    base = view.baseline("fused", first.pass_, first.causal)
    return first.model if base and base.rows == one.rows else one.name


def beside(view: View, name: str, pass_: str, n: int) -> tuple[LengthRow | None, LengthRow | None]:
    """The row of that system, and that of fused attention."""
    one = next((one for one in view.of_pass(pass_) if _name(view, one) == name), None)
    return (at(one, n), at(baseline(view, one), n)) if one else (None, None)


def records(levels: dict[str, View]) -> Iterator[list[object]]:
    """The same, one level a line, unrounded."""
    top = levels["model"]
    for pass_, n in common(levels):
        for name in names(levels, pass_, n):
            for level, view in levels.items():
                row, base = beside(view, name, pass_, n)
                if row is not None:
                    yield [
                        view.device, top.setting.dtype, top.setting.sizes, name, row.family,
                        row.causal, pass_, n, level, row.status, row.degenerate, row.n_params,
                        row.median_ms, faster(row, base),
                    ]  # fmt: skip


if __name__ == "__main__":
    from plots.__main__ import main

    raise SystemExit(main("levels_table"))
