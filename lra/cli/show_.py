"""A model's card, its knobs, and the conformance checks that it passed."""

import argparse
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from lra import presets
from lra.cli.main import results_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="a model of `python -m lra list`")
    parser.add_argument("--run", action="store_true", help="run the checks now")
    results_argument(parser)


def run(options: argparse.Namespace) -> None:
    presets.check_name("model", options.name)
    from lra.conformance import model_rows, rows
    from lra.results.csv_io import read_csv
    from lra.results.schema import ConformanceRow

    console = Console()
    card = next(row for row in model_rows() if row.model == options.name)
    facts = Table("card", "", show_header=False, title=options.name, title_justify="left")
    for name, value in asdict(card).items():
        facts.add_row(name, "-" if value is None else str(value))
    console.print(facts)
    knobs = presets.compose(f"model={options.name}").mixer
    console.print("knobs: " + ", ".join(f"{k}={v}" for k, v in knobs.items() if k != "_target_"))
    path = options.results / "measured" / "conformance.csv"
    if options.run:
        checks = rows(options.name)
    elif path.exists():
        checks = [row for row in read_csv(path, ConformanceRow) if row.model == options.name]
    else:
        checks = []
    if not checks:
        console.print("no conformance on record: `python -m lra show NAME --run` runs the checks")
        return
    table = Table("check", "outcome", "reason", title="conformance", title_justify="left")
    for row in checks:
        table.add_row(row.check, row.status, row.reason or "")
    console.print(table)
