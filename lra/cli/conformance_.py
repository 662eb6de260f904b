"""Runs every conformance check on every model and writes models.csv and conformance.csv."""

import argparse

from rich.console import Console

from lra.cli.main import results_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    results_argument(parser)


def run(options: argparse.Namespace) -> None:
    from lra.conformance import write

    for path in write(options.results):
        Console().print(f"wrote {path}")
