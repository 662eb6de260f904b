"""Strangers' result packs: checked cell by cell, then added beside our own."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lra.errors import UserError
from lra.results.csv_io import key, read_csv, read_numbered, read_records, schema, write_csv
from lra.results.packs import PACK_TABLES, experiment, in_order, pack_path
from lra.results.schema import TABLES


def merge(files: Iterable[Path], into: Path) -> list[Path]:
    """Adds packs to ``<into>/measured/<device>/``; all files are checked before one is written.

    A row that is already there, value for value, is skipped. A row that contradicts one already
    there (the same cell or the same experiment with another outcome) is refused: whoever owns the
    pack decides which of the two stays.

    Args:
        files: CSV files in the schema of ``runs``, ``lengths`` or ``kernels``, told apart by their
            columns.
        into: the results folder.

    Returns:
        The files written.

    Raises:
        UserError: a file that does not fit the schema; file, row and column named.
    """
    packs: dict[Path, dict[tuple[Any, ...], Any]] = {}
    for file in files:
        table = table_of(file)
        row_type: type[Any] = TABLES[table]
        rows = list(read_numbered(file, row_type))
        if not rows:
            raise UserError(f"{file}: has columns but no rows")
        for number, row in rows:
            _check_publishable(file, number, row)
            path = pack_path(into, row.device, table)
            if path not in packs:
                present: list[Any] = read_csv(path, row_type) if path.exists() else []
                packs[path] = {name(old): old for old in present for name in (key, experiment)}
            _add(packs[path], row, f"{file}: row {number}")
    return [_write(path, pack) for path, pack in packs.items()]


def table_of(file: Path) -> str:
    """The table whose columns a file has, or nearly has.

    Raises:
        UserError: unreadable, or no table of ours.
    """
    names = set(read_records(file)[0])
    shared = {t: len(names & {c.name for c in schema(TABLES[t])}) for t in PACK_TABLES}
    best = max(PACK_TABLES, key=lambda table: (shared[table], file.stem == table))
    if not shared[best]:
        raise UserError(f"{file}: row 1: none of its columns belongs to a result table")
    return best


def _check_publishable(file: Path, number: int, row: Any) -> None:
    for column in ("device", "versions", "date"):
        if not getattr(row, column):
            raise UserError(
                f"{file}: row {number}, column '{column}': is empty: a pack names its device, "
                "versions and date"
            )
    if row.status == "interrupted":
        raise UserError(f"{file}: row {number}, column 'status': interrupted rows are no result")


def _add(pack: dict[tuple[Any, ...], Any], row: Any, where: str) -> None:
    for name in (key(row), experiment(row)):
        if (present := pack.setdefault(name, row)) != row:
            column, old = next(
                (column, value)
                for column, value in asdict(present).items()
                if value != getattr(row, column)
            )
            raise UserError(
                f"{where}, column '{column.rstrip('_')}': {getattr(row, column)!r} contradicts "
                f"{old!r} of the same experiment (cell {getattr(present, 'cell', '-')})"
            )


def _write(path: Path, pack: dict[tuple[Any, ...], Any]) -> Path:
    rows = in_order({key(row): row for row in pack.values()}.values())
    return write_csv(path, rows, type(rows[0]))
