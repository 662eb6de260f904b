"""``python -m plots``: every table and figure from results/; ``python -m plots.NAME``: one."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lra.errors import UserError, nearest
from lra.results.collect import read_all
from lra.results.packs import device_slug
from lra.results.published import read_published
from lra.results.schema import KernelRow, LengthRow, PublishedRow
from plots import (
    accuracy_vs_speed,
    conformance,
    crossover,
    decode_vs_length,
    devices,
    flops_vs_length,
    kernels,
    length_devices,
    lengths_table,
    levels_table,
    lra_table,
    memory_vs_length,
    pairs,
    speed_table,
    time_vs_length,
)
from plots.entries import Group, load
from plots.length_entries import View, views
from plots.nothing import nothing
from plots.rows import Row, load_rows

RESULTS = Path(__file__).resolve().parents[1] / "results"
OF_RUNS = ("accuracy_vs_speed", "lra_table", "pairs")
OF_KERNELS = ("kernels", "devices")
OF_LENGTHS = (
    "time_vs_length", "memory_vs_length", "flops_vs_length", "crossover", "decode_vs_length",
    "lengths_table", "levels_table", "speed_table", "length_devices",
)  # fmt: skip
Maker = Callable[[], list[Path]]
NAMES = (*OF_RUNS, *OF_KERNELS, *OF_LENGTHS, "conformance")


def main(only: str | None = None, arguments: Sequence[str] | None = None) -> int:
    """Writes all, or the one named, and prints the files; 2 with one line if it cannot."""
    options = _parser(only).parse_args(arguments)
    out = options.out or options.results / "report"
    try:
        written = make(options.results, out, options.protocol, options.device, only)
    except UserError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    for path in written:
        print(path)
    return 0


def make(
    results: Path,
    out: Path,
    protocol: str | None = None,
    device: str | None = None,
    only: str | None = None,
) -> list[Path]:
    """The files written.

    Raises:
        UserError: no results, results that do not fit the schema, or an unwritable folder.
    """
    names = (only,) if only else NAMES
    kernel_rows = _rows(results, KernelRow, device, only, OF_KERNELS)
    length_rows = _of_protocol(_rows(results, LengthRow, device, only, OF_LENGTHS), protocol, only)
    if device is not None and only is None:
        check_device(results, device)
    groups: list[Group] = []
    # who has timed kernels or lengths only has no runs
    timed = bool(kernel_rows or length_rows)
    if only in OF_RUNS or (only is None and (not timed or has_runs(results, device))):
        groups = load(results, protocol, device)
    of_lengths = views(length_rows)
    checks = conformance.read_conformance(results) if "conformance" in names else []
    paper = groups or ("speed_table" in names and any(map(speed_table.lengths, of_lengths)))
    published = read_published(results) if paper else []
    makers = {
        **_of_runs(groups, published, out),
        **_of_lengths(of_lengths, published, results, out),
        "kernels": lambda: kernels.write(kernel_rows, out),
        "devices": lambda: devices.write(kernel_rows, out),
        "conformance": lambda: conformance.write(checks, out),
    }
    written = [path for name in names for path in makers[name]()]
    if not written:
        raise nothing(results, only, kernel_rows, length_rows)
    return written


def _rows(
    results: Path, row_type: type[Row], device: str | None, only: str | None, names: Sequence[str]
) -> list[Row]:
    """The rows that these figures show; none where only another is made."""
    if only is not None and only not in names:
        return []
    return load_rows(results, row_type, device, needed=only is not None)


def _of_protocol(rows: list[LengthRow], protocol: str | None, only: str | None) -> list[LengthRow]:
    """Rows of that protocol.

    Raises:
        UserError: only a figure of lengths is made, and no length has that protocol.
    """
    kept = [row for row in rows if protocol in (None, row.protocol)]
    if rows and not kept and only is not None:
        raise nearest(str(protocol), {row.protocol for row in rows}, kind="protocol")
    return kept


def _of_runs(
    groups: Sequence[Group], published: Sequence[PublishedRow], out: Path
) -> dict[str, Maker]:
    return {
        "accuracy_vs_speed": lambda: accuracy_vs_speed.write(groups, out),
        "lra_table": lambda: lra_table.write(groups, published, out),
        "pairs": lambda: pairs.write(groups, out),
    }


def _of_lengths(
    shown: Sequence[View], published: Sequence[PublishedRow], results: Path, out: Path
) -> dict[str, Maker]:
    return {
        "time_vs_length": lambda: time_vs_length.write(shown, out),
        "memory_vs_length": lambda: memory_vs_length.write(shown, out),
        "flops_vs_length": lambda: flops_vs_length.write(shown, out),
        "crossover": lambda: crossover.write(shown, out),
        "decode_vs_length": lambda: decode_vs_length.write(shown, out),
        "lengths_table": lambda: lengths_table.write(
            shown, lengths_table.read_models(results), out
        ),
        "levels_table": lambda: levels_table.write(shown, out),
        "speed_table": lambda: speed_table.write(shown, published, out),
        "length_devices": lambda: length_devices.write(shown, out),
    }


def check_device(results: Path, device: str) -> None:
    """Raises UserError where no table has rows of that device."""
    rows = [row for table in ("runs", "kernels", "lengths") for row in read_all(results, table)]
    names = {row.device or "unknown device" for row in rows}
    if names and device not in names | {device_slug(name) for name in names}:
        raise nearest(device, names, kind="device")


def has_runs(results: Path, device: str | None) -> bool:
    """Whether there are rows of runs, of that device if one is named."""
    names = {row.device or "" for row in read_all(results, "runs") if row.status != "interrupted"}
    return any(device in (None, name, device_slug(name)) for name in names)


def _parser(only: str | None) -> argparse.ArgumentParser:
    name = f"python -m plots.{only}" if only else "python -m plots"
    parser = argparse.ArgumentParser(
        prog=name,
        description="Makes tables and figures from result rows."
        + ("" if only else f" One alone: python -m plots.{{{','.join(NAMES)}}}"),
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of results")
    parser.add_argument("--out", type=Path, help="where to write (default: RESULTS/report)")
    parser.add_argument("--protocol", help="only this protocol")
    parser.add_argument("--device", help="only this device, by its name or folder")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
