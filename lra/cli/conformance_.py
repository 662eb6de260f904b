"""Runs every conformance check on every model and writes models.csv and conformance.csv."""

import argparse

from lra.cli.main import console, results_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    results_argument(parser)


def run(options: argparse.Namespace) -> None:
    from lra.conformance import write

    for path in write(options.results):
        console().print(f"wrote {path}")
