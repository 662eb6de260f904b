"""``python -m plots``: every table and figure from results/; ``python -m plots.NAME``: one."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lra.errors import UserError
from lra.results.collect import read_all
from lra.results.packs import device_slug
from lra.results.published import read_published
from lra.results.schema import KernelRow
from plots import accuracy_vs_speed, devices, kernels, lra_table, pairs
from plots.entries import Group, load
from plots.kernel_entries import load_kernels

RESULTS = Path(__file__).resolve().parents[1] / "results"
OF_RUNS = ("accuracy_vs_speed", "lra_table", "pairs")
OF_KERNELS = ("kernels", "devices")
NAMES = (*OF_RUNS, *OF_KERNELS)


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
    rows: list[KernelRow] = []
    if only not in OF_RUNS:
        rows = load_kernels(results, device, needed=only is not None)
    groups: list[Group] = []
    # who has timed kernels only has no runs
    if only in OF_RUNS or (only is None and (not rows or has_runs(results, device))):
        groups = load(results, protocol, device)
    published = read_published(results) if groups else []
    written = []
    if only in (None, "accuracy_vs_speed"):
        written += accuracy_vs_speed.write(groups, out)
    if groups and only in (None, "lra_table"):
        written += lra_table.write(groups, published, out)
    if only in (None, "pairs"):
        written += pairs.write(groups, out)
    if only in (None, "kernels"):
        written += kernels.write(rows, out)
    if only in (None, "devices"):
        written += devices.write(rows, out)
    if not written:
        raise UserError(_nothing(results, only, rows))
    return written


def has_runs(results: Path, device: str | None) -> bool:
    """Whether there are rows of runs, of that device if one is named."""
    names = {row.device or "" for row in read_all(results, "runs") if row.status != "interrupted"}
    return any(device in (None, name, device_slug(name)) for name in names)


def _nothing(results: Path, only: str | None, rows: Sequence[KernelRow]) -> str:
    """Why nothing could be made, and what to do."""
    if only in OF_RUNS:
        return f"no finished seed in {results}: {only} has nothing to show"
    names = sorted({row.device or "unknown device" for row in rows})
    if only == "devices" and len(names) == 1:
        return (
            f"only one device has timed kernels, {names[0]}: nothing to compare; take in the pack "
            "of another with `python -m lra merge FILE`"
        )
    if only == "devices" and names:
        return f"no two of these devices have timed the same: {', '.join(names)}"
    return f"no timed kernels in {results}: first `python run.py task=kernels op=... backend=all`"


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
