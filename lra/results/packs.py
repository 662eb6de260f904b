"""Packs: the committed rows of one device, one row for each experiment.

A cell's id changes with the code, the experiment it stands for does not. A pack holds the newest
row of each experiment, so that a figure never averages yesterday's code with today's.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from lra.results.csv_io import key
from lra.results.schema import KernelRow, LengthRow, RunRow

Row = TypeVar("Row")
PACK_TABLES = ("runs", "lengths", "kernels")

# the columns that name an experiment, in sorting order; the rest is what came out of it
EXPERIMENT: dict[type, tuple[str, ...]] = {
    RunRow: (
        "device", "protocol", "task", "model", "mixer", "block", "backbone", "mixer_knobs", "tier",
        "length", "batch", "causal", "label", "backend", "precision", "n_threads", "seed",
    ),
    LengthRow: (
        "device", "n_threads", "protocol", "level", "model", "mixer_knobs", "variant", "pass_",
        "causal", "dim", "heads", "layers", "backend", "dtype", "batch", "length",
    ),
    KernelRow: (
        "device", "n_threads", "op", "backend", "variant", "pass_", "dtype", "batch", "heads",
        "length", "key_length", "head_dim", "causal", "window",
    ),
}  # fmt: skip


def experiment(row: Any) -> tuple[Any, ...]:
    """What was tried, whatever code tried it."""
    return tuple(getattr(row, name) for name in EXPERIMENT[type(row)])


def newest(rows: Iterable[Row]) -> list[Row]:
    """One row for each experiment, the latest by date (of equals the last), in a stable order.

    A row that failed before it knew its backend gives way to a later one that does.
    """
    by_cell = {key(row): row for row in rows}
    by_experiment: dict[tuple[Any, ...], Row] = {}
    for row in sorted(by_cell.values(), key=lambda row: getattr(row, "date", None) or ""):
        if getattr(row, "backend", None) is not None:
            by_experiment.pop(experiment(_without_backend(row)), None)
        by_experiment[experiment(row)] = row
    return in_order(by_experiment.values())


def _without_backend(row: Any) -> Any:
    return replace(row, backend=None)


def in_order(rows: Iterable[Row]) -> list[Row]:
    """The rows sorted by experiment, then by cell; None comes first."""
    return sorted(
        rows,
        key=lambda row: [(value is not None, value) for value in (*experiment(row), *key(row))],
    )


def device_slug(device: str | None) -> str:
    """A folder name for a device: lower case, digits, dots and hyphens.

    Example: ``NVIDIA H100 80GB HBM3`` gives ``nvidia-h100-80gb-hbm3``.
    """
    words = re.sub(r"[^a-z0-9.]+", "-", (device or "").lower())
    return words.strip("-.")[:80].rstrip("-.") or "unknown-device"


def pack_path(results: Path, device: str | None, table: str) -> Path:
    """Where the committed rows of a device lie."""
    return results / "measured" / device_slug(device) / f"{table}.csv"


def by_device(rows: Sequence[Row], table: str, results: Path) -> dict[Path, list[Row]]:
    """The rows sorted into the packs of their devices."""
    packs: dict[Path, list[Row]] = {}
    for row in rows:
        path = pack_path(results, getattr(row, "device", None), table)
        packs.setdefault(path, []).append(row)
    return packs
