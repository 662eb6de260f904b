"""Compiles every GPU kernel, without a GPU, and writes compile.csv; exit code 1 at a fault."""

import argparse
import time

from lra.cli.main import console, results_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ops", nargs="*", help="only these ops; rows of others stay")
    results_argument(parser)


def run(options: argparse.Namespace) -> int:
    from lra.app import set_up_logging
    from lra.compile_gate import compile_all, faults, update

    set_up_logging()
    start = time.monotonic()
    rows = compile_all(options.ops)
    spent_s = time.monotonic() - start
    out = console()
    out.print(f"wrote {update(options.results, rows, options.ops)}")
    found = faults(rows)
    # lines, not a table: names are long, and whole ones can be searched for
    for row in found:
        name = " ".join((row.op, row.kernel, row.config, row.dtype, row.target))
        out.print(f"fault: {name}: {row.reason}")
    out.print(f"{len(rows)} kernels, {len(found)} faults, {spent_s:.0f} s")
    return 1 if found else 0
