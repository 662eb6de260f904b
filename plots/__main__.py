"""``python -m plots``: every table and figure from results/; ``python -m plots.NAME``: one."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lra.errors import UserError
from lra.results.published import read_published
from plots import accuracy_vs_speed, lra_table, pairs
from plots.entries import load

RESULTS = Path(__file__).resolve().parents[1] / "results"
NAMES = ("accuracy_vs_speed", "lra_table", "pairs")


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
    groups, published = load(results, protocol, device), read_published(results)
    written = []
    if only in (None, "accuracy_vs_speed"):
        written += accuracy_vs_speed.write(groups, out)
    if only in (None, "lra_table"):
        written += lra_table.write(groups, published, out)
    if only in (None, "pairs"):
        written += pairs.write(groups, out)
    if not written:
        raise UserError(f"no finished seed in {results}: {only} has nothing to show")
    return written


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
