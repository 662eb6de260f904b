"""What a person sees of a model's lengths: time, memory and work of each pass."""

import os
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lra.lengths.runner import Outcome
from lra.results.schema import LengthRow

console = Console(soft_wrap=True, highlight=False)
MISSING = "-"
SHORT = {"forward": "fwd", "forward_backward": "fwd+bwd"}
# the pass whose memory and work are shown: the first that was measured
GREATEST = ("step", "forward_backward", "forward")


def show(outcome: Outcome) -> None:
    """The table, what is missing or doubtful, and the files."""
    if outcome.n_new == 0:
        console.print(f"{outcome.model} is finished already (rerun=true runs it again)")
    console.print(table(outcome))
    console.print("median ms of a call ± its robust spread; memory and work of the last but decode")
    for line in remarks(outcome.rows):
        console.print(line, markup=False)
    for path in outcome.files:
        console.print(f"rows in {escape(os.path.relpath(path))}")


def table(outcome: Outcome) -> Table:
    """Lengths down; the time of each pass, then memory and work of the greatest one."""
    rows = outcome.rows
    first = rows[0]
    title = f"{first.model}, {first.level}{' causal' if first.causal else ''}, on {outcome.device}"
    made = Table(title=escape(title), title_justify="left")
    passes = list(dict.fromkeys(row.pass_ for row in rows if row.status != "unsupported"))
    greatest = next((name for name in GREATEST if name in passes), None)
    for name in ("N", *(f"{SHORT.get(name, name)} ms" for name in passes)):
        made.add_column(name, justify="right")
    if greatest is not None:
        for name in ("MiB", "foreseen", "GFLOP"):
            made.add_column(name, justify="right")
    if "decode" in passes:
        made.add_column("state MiB", justify="right")
    for length in dict.fromkeys(row.length for row in rows):
        at = {row.pass_: row for row in rows if row.length == length}
        cells = [_time(at[name]) for name in passes]
        if greatest is not None:
            row = at[greatest]
            cells += map(_number, (row.peak_mem_mib, row.pred_mem_mib, row.gflop))
        if "decode" in passes:
            cells.append(_number(at["decode"].state_mib))
        made.add_row(str(length) + (" †" if _degenerate(at.values()) else ""), *cells)
    return made


def _degenerate(rows: Iterable[LengthRow]) -> bool:
    return any(row.degenerate for row in rows)


def _time(row: LengthRow) -> str:
    if row.median_ms is None or row.cv is None:
        return row.status
    return f"{row.median_ms:.3g} ±{100 * row.cv:.0f}%"


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3g}"


def remarks(rows: Sequence[LengthRow]) -> list[str]:
    """Reasons, each once with the lengths that it holds for."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.reason is not None:
            what = row.status if row.status != "ok" else "note"
            places = found.setdefault(f"{row.pass_}: {what}: {row.reason}", [])
            places.append(str(row.length))
    lines = [f"{reason} (N={', '.join(places)})" for reason, places in found.items()]
    if _degenerate(rows):
        lines.append("† dense softmax attention at this length and these knobs")
    return lines
