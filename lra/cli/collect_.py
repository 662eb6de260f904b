"""Collects finished cells into results/local/*.csv; --publish makes the pack to commit."""

import argparse

from lra.cli.main import console, results_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--publish", action="store_true", help="write results/measured/<device>")
    results_argument(parser)


def run(options: argparse.Namespace) -> None:
    from lra.results.collect import collect, publish

    out = console()
    for table, found in collect(options.results).items():
        out.print(f"{len(found)} rows in {options.results / 'local' / table}.csv")
    if options.publish:
        for path in publish(options.results):
            out.print(f"wrote {path}")
