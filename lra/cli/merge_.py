"""Takes in CSV packs from elsewhere: each is checked, row by row, before anything is written."""

import argparse
from pathlib import Path

from lra.cli.main import console, results_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=Path, help="runs.csv, lengths.csv or kernels.csv")
    results_argument(parser)


def run(options: argparse.Namespace) -> None:
    from lra.results.merge import merge

    for path in merge(options.files, options.results):
        console().print(f"wrote {path}")
