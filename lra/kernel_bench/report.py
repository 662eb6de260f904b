"""What a person sees of an op: its backends side by side, the fastest marked."""

import os
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lra.kernel_bench.draw import Case
from lra.kernel_bench.runner import Outcome
from lra.measurement.timing import ratio
from lra.results.schema import KernelRow
from lra.results.store import Finished

console = Console(soft_wrap=True, highlight=False)
LEGEND = (
    "median ms of a call; * fastest; = not resolvable from the fastest; times the fastest; % of "
    "the roofline"
)


def show(outcome: Outcome) -> None:
    """A table for each variant and dtype, then what is missing or doubtful, and the files."""
    if outcome.n_new == 0:
        console.print(f"{outcome.op} is finished already (rerun=true runs it again)")
    groups: dict[str, list[tuple[Case, Finished]]] = {}
    for case, finished in outcome.cases:
        title = " ".join(filter(None, [outcome.op, case.options, case.dtype]))
        groups.setdefault(title, []).append((case, finished))
    for title, cases in groups.items():
        console.print(table(f"{title} on {outcome.device}", cases))
    console.print(LEGEND)
    for line in remarks(outcome):
        console.print(line, markup=False)
    for path in outcome.files:
        console.print(f"rows in {escape(os.path.relpath(path))}")


def table(title: str, cases: Sequence[tuple[Case, Finished]]) -> Table:
    """Lengths and passes down, backends across."""
    rows = [row for _, finished in cases for row in finished.rows]
    # what can do none of it has no column: the remarks below say why
    able = [row for row in rows if row.status != "unsupported"] or rows
    backends = list(dict.fromkeys(row.backend for row in able))
    made = Table(title=escape(title), title_justify="left")
    made.add_column("N", justify="right")
    made.add_column("pass")
    for backend in backends:
        made.add_column(backend, justify="right")
    for case, finished in cases:
        for pass_ in dict.fromkeys(row.pass_ for row in finished.rows):
            of_pass = {row.backend: row for row in finished.rows if row.pass_ == pass_}
            cells = compared(of_pass, finished.samples)
            name = pass_.replace("_", " + ")
            made.add_row(str(case.length), name, *(cells.get(b, "-") for b in backends))
    return made


def compared(
    rows: Mapping[str, KernelRow], samples: Mapping[str, Sequence[float]]
) -> dict[str, str]:
    """A cell for each backend of one case and pass.

    Args:
        rows: by backend.
        samples: in milliseconds by ``backend pass``.
    """
    times = {b: row.median_ms for b, row in rows.items() if row.median_ms is not None}
    best = min(times, key=lambda backend: times[backend]) if times else None
    cells: dict[str, str] = {}
    for backend, row in rows.items():
        if row.median_ms is None or best is None:
            cells[backend] = row.status
            continue
        cells[backend] = f"{row.median_ms:.3g} {_mark(row, rows[best], samples)}"
        if row.roofline_frac is not None:
            cells[backend] += f" {100 * row.roofline_frac:.0f}%"
    return cells


def _mark(row: KernelRow, best: KernelRow, samples: Mapping[str, Sequence[float]]) -> str:
    """How a time compares with the fastest one."""
    if row is best:
        return "*"
    mine, its = (samples.get(f"{r.backend} {r.pass_}") for r in (row, best))
    # what auto took is on record as auto's
    if mine is None or its is None:
        return ""
    against = ratio(mine, its)
    return f"{against.value:.2g}x" if against.resolvable else "="


def remarks(outcome: Outcome) -> list[str]:
    """Reasons, each once with the cells that it holds for."""
    found: dict[str, list[str]] = {}
    for case, finished in outcome.cases:
        for row in finished.rows:
            if row.reason is not None:
                what = row.status if row.status != "ok" else "note"
                where = f"{case} {row.pass_}"
                found.setdefault(f"{row.backend}: {what}: {row.reason}", []).append(where)
    lines = [f"{backend}: not here: {reason}" for backend, reason in outcome.absent.items()]
    for reason, places in found.items():
        more = f" and {len(places) - 1} more" if len(places) > 1 else ""
        lines.append(f"{reason} ({places[0]}{more})")
    return lines
