"""What each model's card claims and what held: models by checks, and why checks are refused."""

from collections.abc import Sequence
from pathlib import Path

from lra.results.csv_io import read_csv
from lra.results.schema import ConformanceRow
from plots.tables import MISSING, Table, write_tables

SIGNS = {"pass": "+", "refuses": "r", "not applicable": "·"}
CSV_COLUMNS = ("model", "check", "status", "reason")


def read_conformance(results: Path) -> list[ConformanceRow]:
    """The committed outcomes; none where the table is not there.

    Raises:
        UserError: it does not fit the schema.
    """
    path = results / "measured" / "conformance.csv"
    return read_csv(path, ConformanceRow) if path.exists() else []


def write(rows: Sequence[ConformanceRow], out: Path) -> list[Path]:
    """``conformance`` as .md, .tex and .csv."""
    if not rows:
        return []
    records = [[row.model, row.check, row.status, row.reason] for row in rows]
    tables = [matrix(rows), *refusals(rows)]
    return write_tables(out / "conformance", tables, CSV_COLUMNS, records)


def matrix(rows: Sequence[ConformanceRow]) -> Table:
    """Models down, checks across by number."""
    checks = list(dict.fromkeys(row.check for row in rows))
    by_place = {(row.model, row.check): SIGNS[row.status] for row in rows}
    lines = [
        [model, *(by_place.get((model, check), MISSING) for check in checks)]
        for model in dict.fromkeys(row.model for row in rows)
    ]
    counts = {status: sum(row.status == status for row in rows) for status in SIGNS}
    notes = [
        f"{SIGNS['pass']} holds ({counts['pass']}), {SIGNS['refuses']} refused with a reason, "
        f"because it cannot ({counts['refuses']}), {SIGNS['not applicable']} not applicable "
        f"({counts['not applicable']}), {MISSING} not checked.",
        "Checks: " + ", ".join(f"{i} {check}" for i, check in enumerate(checks, start=1)) + ".",
    ]
    header = ["model", *(str(i) for i in range(1, len(checks) + 1))]
    return Table("Conformance of every model to its card", header, lines, notes)


def refusals(rows: Sequence[ConformanceRow]) -> list[Table]:
    """What is refused, and why."""
    lines = [[r.model, r.check, r.reason or MISSING] for r in rows if r.status == "refuses"]
    return [Table("Refused, and why", ["model", "check", "reason"], lines)] if lines else []


if __name__ == "__main__":
    from plots.__main__ import main

    raise SystemExit(main("conformance"))
