"""Rows to text and back, exactly, and checked: a file fits the schema or is refused.

An empty cell is None (in a column of plain text: the empty text). Numbers are finite and not
negative; accuracies and shares lie in [0, 1]. Row numbers count as a spreadsheet does: the header
is row 1.
"""

import csv
import io
import math
import os
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints
from uuid import uuid4

from lra.errors import UserError
from lra.results.schema import (
    FAMILIES,
    SCHEMA_VERSION,
    TIERS,
    CompileRow,
    ConformanceRow,
    KernelRow,
    LengthRow,
    ModelRow,
    PublishedRow,
    RunRow,
)

Row = TypeVar("Row")

# what makes a row of a table this row and no other
KEYS: dict[type, tuple[str, ...]] = {
    RunRow: ("cell",),
    LengthRow: ("cell", "level", "length", "batch", "pass_"),
    KernelRow: (
        "op", "backend", "batch", "heads", "length", "key_length", "head_dim", "causal", "window",
        "variant", "dtype", "pass_", "device", "n_threads",
    ),
    ModelRow: ("model",),
    ConformanceRow: ("model", "check"),
    CompileRow: ("op", "backend", "kernel", "config", "dtype", "target"),
    PublishedRow: ("system", "name", "task", "metric", "source", "protocol", "setting"),
}  # fmt: skip
CHOICES = {"family": FAMILIES, "tier": TIERS}
NAMES = ("cell", "model", "task", "protocol", "op")
SHARES = re.compile(r".*_acc|data_wait_frac")


@dataclass(frozen=True)
class Column:
    """One column: ``field`` of the dataclass, its ``kind``, and the texts it may hold, if few."""

    field: str
    kind: Any  # str, bool, int or float
    optional: bool
    choices: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.field.rstrip("_")

    def format(self, value: Any) -> str:
        """The cell's text, from which ``parse`` gives the same value."""
        if value is None:
            return ""
        if self.kind is bool:
            return "true" if value else "false"
        # not repr(value): a numpy float names its type there
        return float.__repr__(float(value)) if self.kind is float else str(value)

    def parse(self, text: str) -> Any:
        """The value of a cell; ValueError says what is wrong with it."""
        if text == "" and (self.optional or self.kind is not str):
            return self.check(None)
        if self.kind is bool:
            if text.lower() not in ("true", "false"):
                raise ValueError(f"'{text}' is neither true nor false")
            return self.check(text.lower() == "true")
        if self.kind is int:
            if not re.fullmatch(r"-?[0-9]{1,18}", text):
                raise ValueError(f"'{text}' is not a whole number")
            return self.check(int(text))
        if self.kind is float:
            if not re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", text):
                raise ValueError(f"'{text}' is not a finite number")
            return self.check(float(text))
        return self.check(text)

    def check(self, value: Any) -> Any:
        """The value itself; ValueError if the column cannot hold it."""
        if value is None:
            if not self.optional:
                raise ValueError("is empty")
            return None
        numeric = self.kind in (int, float)
        if type(value) is int and self.kind is float:
            value = float(value)
        if not isinstance(value, self.kind) or (numeric and isinstance(value, bool)):
            raise ValueError(f"{value!r} is not of type {self.kind.__name__}")
        if value == "" and self.field in NAMES:
            raise ValueError("is empty")
        if self.choices and value not in self.choices:
            raise ValueError(f"'{value}' is none of {', '.join(self.choices)}")
        if numeric and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{value} is not a finite number of at least 0")
        if numeric and SHARES.fullmatch(self.name) and value > 1:
            raise ValueError(f"{value} is above 1 (a share, not per cent)")
        return value


def schema(row_type: type) -> list[Column]:
    """The columns of a row's dataclass, in order."""
    hints = get_type_hints(row_type)
    found = []
    for field in fields(row_type):
        kind = hints[field.name]
        parts = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
        optional = type(None) in parts
        (kind,) = (part for part in parts if part is not type(None))
        choices = get_args(kind) if get_origin(kind) is Literal else CHOICES.get(field.name, ())
        found.append(Column(field.name, str if choices else kind, optional, tuple(choices)))
    return found


def key(row: Any) -> tuple[Any, ...]:
    """What tells this row from all others of its table."""
    return tuple(getattr(row, name) for name in KEYS[type(row)])


def check_row(row: Row) -> Row:
    """The row itself, every value checked against its column.

    Raises:
        ValueError: a value that its column cannot hold; the column is named.
    """
    return from_mapping(type(row), {c.name: getattr(row, c.field) for c in schema(type(row))})


def from_mapping(row_type: type[Row], values: Mapping[str, Any]) -> Row:
    """A row from typed values by column name.

    Raises:
        ValueError: missing or unknown columns, or a value that its column cannot hold.
    """
    columns = schema(row_type)
    _compare_columns(columns, list(values))
    found = {}
    for column in columns:
        try:
            found[column.field] = column.check(values[column.name])
        except ValueError as problem:
            raise ValueError(f"column '{column.name}': {problem}") from None
    return row_type(**found)


def write_csv(path: Path, rows: Iterable[Row], row_type: type[Row]) -> Path:
    """Writes a table in the schema's column order, all of it or nothing.

    Raises:
        UserError: the folder cannot be written.
        ValueError: a value that its column cannot hold.
    """
    columns = schema(row_type)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    # the writer quotes a lone carriage return only when told to
    quoting = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow([column.name for column in columns])
    for row in rows:
        checked = check_row(row)
        cells = [column.format(getattr(checked, column.field)) for column in columns]
        (quoting if any("\r" in cell for cell in cells) else writer).writerow(cells)
    return write_text(path, text.getvalue())


def read_csv(path: Path, row_type: type[Row]) -> list[Row]:
    """The rows of a table, every cell checked.

    Raises:
        UserError: an unreadable file, missing or unknown columns, a cell that its column cannot
            hold, two rows of one key; file, row and column named.
    """
    return [row for _, row in read_numbered(path, row_type)]


def read_numbered(path: Path, row_type: type[Row]) -> list[tuple[int, Row]]:
    """``read_csv`` with the number of each row."""
    header, records = read_records(path)
    columns = schema(row_type)
    try:
        _compare_columns(columns, header)
    except ValueError as problem:
        raise UserError(f"{path}: row 1: {problem}") from None
    by_name = {column.name: column for column in columns}
    seen: dict[tuple[Any, ...], int] = {}
    found = []
    for number, cells in records:
        if len(cells) != len(header):
            raise UserError(f"{path}: row {number}: {len(cells)} cells under {len(header)} columns")
        row = row_type(**_parse(path, number, [by_name[name] for name in header], cells))
        if (first := seen.setdefault(key(row), number)) != number:
            what = "', '".join(name.rstrip("_") for name in KEYS[row_type])
            raise UserError(f"{path}: row {number}, column '{what}': the same as in row {first}")
        found.append((number, row))
    return found


def read_records(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Header and numbered records of a CSV file, cells as text; blank lines are skipped.

    Raises:
        UserError: not readable as CSV in UTF-8, or empty.
    """
    try:
        # utf-8-sig: spreadsheets put a byte order mark before the header
        with path.open(encoding="utf-8-sig", newline="") as file:
            records = list(enumerate(csv.reader(file, strict=True), start=1))
    except (OSError, UnicodeError, csv.Error) as problem:
        raise UserError(f"{path}: cannot be read as CSV: {_reason(problem)}") from None
    if not records or not records[0][1]:
        raise UserError(f"{path}: row 1: no header")
    return records[0][1], [(number, cells) for number, cells in records[1:] if cells]


def write_text(path: Path, text: str) -> Path:
    """``write_bytes`` in UTF-8."""
    return write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> Path:
    """Writes a file at once: a reader sees the old one or the new one, never a part.

    Raises:
        UserError: the folder cannot be made or written.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as problem:
        raise UserError(f"cannot write {path}: {_reason(problem)}: choose another folder") from None
    finally:
        with suppress(OSError):
            temporary.unlink()
    return path


def _parse(
    path: Path, number: int, columns: Sequence[Column], cells: Sequence[str]
) -> dict[str, Any]:
    found = {}
    for column, text in zip(columns, cells, strict=True):
        try:
            found[column.field] = column.parse(text)
        except ValueError as problem:
            raise UserError(f"{path}: row {number}, column '{column.name}': {problem}") from None
    return found


def _compare_columns(columns: Sequence[Column], names: Sequence[str]) -> None:
    expected = [column.name for column in columns]
    problems = [
        f"{what} {'column' if len(found) == 1 else 'columns'} {', '.join(found)}"
        for what, found in (
            ("missing", [name for name in expected if name not in names]),
            ("unknown", [name for name in names if name not in expected]),
            ("repeated", sorted({name for name in names if list(names).count(name) > 1})),
        )
        if found
    ]
    if problems:
        raise ValueError(f"{'; '.join(problems)} (schema version {SCHEMA_VERSION})")


def _reason(problem: Exception) -> str:
    return getattr(problem, "strerror", None) or str(problem)
