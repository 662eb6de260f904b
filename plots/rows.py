"""Rows of one table for figures: of all devices or one, told apart by device and threads."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from lra.errors import nearest
from lra.results.collect import read_all
from lra.results.packs import device_slug
from lra.results.schema import KernelRow, LengthRow

Row = TypeVar("Row", KernelRow, LengthRow)


def load_rows(
    results: Path, row_type: type[Row], device: str | None = None, *, needed: bool = True
) -> list[Row]:
    """All finished rows, or those of one device by its name or folder; none where nothing was
    timed.

    Raises:
        UserError: rows that do not fit the schema, or, if one is needed, an unknown device.
    """
    table = {KernelRow: "kernels", LengthRow: "lengths"}[row_type]
    rows: list[Row] = [row for row in read_all(results, table) if row.status != "interrupted"]
    if device is None or not rows:
        return rows
    found = [row for row in rows if device in (row.device, device_slug(row.device))]
    if needed and not found:
        raise nearest(device, {row.device or "unknown device" for row in rows}, kind="device")
    return found


def by_device(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by device; one that was used with several numbers of threads is several."""
    rows = list(rows)
    threads: dict[str, set[int | None]] = defaultdict(set)
    for row in rows:
        threads[row.device or "unknown device"].add(row.n_threads)
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        name = row.device or "unknown device"
        more = f", {row.n_threads} threads" if len(threads[name]) > 1 else ""
        found[name + more].append(row)
    return dict(sorted(found.items()))


def threads(rows: Iterable[Row]) -> str:
    """Numbers of threads in words."""
    counts = sorted({row.n_threads for row in rows if row.n_threads is not None})
    return ", ".join(f"{n} thread{'s' if n > 1 else ''}" for n in counts) or "threads unknown"
