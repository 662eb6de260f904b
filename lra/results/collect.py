"""Finished cells to tables: one small file a row, collected into CSV, published as packs."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lra.errors import UserError
from lra.results.csv_io import check_row, from_mapping, key, read_csv, write_csv, write_text
from lra.results.packs import PACK_TABLES, by_device, experiment, in_order, newest
from lra.results.schema import SCHEMA_VERSION, TABLES


def write_row(row: Any, folder: Path) -> Path:
    """Writes a row as ``<folder>/<table>/<cell>.json``, replacing the cell's earlier one.

    Args:
        row: of any pack table.
        folder: ``results/local``.

    Raises:
        UserError: the folder cannot be written.
        ValueError: a value that its column cannot hold.
    """
    row = check_row(row)
    (table,) = (name for name in PACK_TABLES if TABLES[name] is type(row))
    values = {name.rstrip("_"): value for name, value in asdict(row).items()}
    text = json.dumps({"schema": SCHEMA_VERSION, "row": values}, indent=1)
    return write_text(folder / table / f"{_file_name(row)}.json", text + "\n")


def read_rows(folder: Path, table: str = "runs") -> list[Any]:
    """All rows of a table that lie in ``<folder>/<table>``, one row for each cell.

    Raises:
        UserError: a file that is no row of this schema; what to do is said.
    """
    return [_read_row(path, TABLES[table]) for path in sorted((folder / table).glob("*.json"))]


def read_all(results: Path, table: str) -> list[Any]:
    """All committed rows of a table, and this machine's finished cells; committed ones win.

    Raises:
        UserError: a file that does not fit the schema.
    """
    row_type: type[Any] = TABLES[table]
    committed = [
        row
        for path in sorted((results / "measured").glob(f"*/{table}.csv"))
        for row in read_csv(path, row_type)
    ]
    published = {experiment(row) for row in committed}
    mine = read_rows(results / "local", table)
    return newest([row for row in mine if experiment(row) not in published] + committed)


def collect(results: Path) -> dict[str, list[Any]]:
    """Merges the row files of ``results/local`` into its CSV tables; every row stays, sorted.

    Returns:
        The rows by table; tables without rows are left out.

    Raises:
        UserError: nothing to collect, a broken row file, or an unwritable folder.
    """
    local = results / "local"
    found = {table: rows for table in PACK_TABLES if (rows := in_order(read_rows(local, table)))}
    if not found:
        raise UserError(f"no finished cells in {local}: first `python run.py model=... task=...`")
    for table, rows in found.items():
        write_csv(local / f"{table}.csv", rows, TABLES[table])
    return found


def publish(results: Path) -> list[Path]:
    """Collects, and merges the finished rows into ``results/measured/<device>/<table>.csv``.

    A pack keeps the newest row of each experiment: the same cell is replaced, and so is a cell of
    earlier code. Interrupted cells stay local.

    Returns:
        The files written.

    Raises:
        UserError: nothing finished, or a broken or unwritable file.
    """
    packs = {
        path: newest([*(read_csv(path, TABLES[table]) if path.exists() else []), *rows])
        for table, all_rows in collect(results).items()
        for path, rows in by_device(_finished(all_rows), table, results).items()
    }
    if not packs:
        raise UserError(f"only interrupted cells in {results / 'local'}: run them to their end")
    return [write_csv(path, rows, type(rows[0])) for path, rows in packs.items()]


def _finished(rows: Iterable[Any]) -> list[Any]:
    return [row for row in rows if row.status != "interrupted"]


def _file_name(row: Any) -> str:
    parts = key(row)
    if len(parts) == 1:
        return str(parts[0])
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:20]


def _read_row(path: Path, row_type: type) -> Any:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict) or not isinstance(record.get("row"), dict):
            raise ValueError("is not a row")
        if record.get("schema") != SCHEMA_VERSION:
            raise ValueError(f"has schema {record.get('schema')}, this is {SCHEMA_VERSION}")
        return from_mapping(row_type, record["row"])
    except (OSError, ValueError) as problem:
        message = f"{path}: {problem}: remove the file and run its cell again"
        raise UserError(message) from None
