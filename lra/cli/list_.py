"""The models by family, the tasks and the protocols."""

import argparse

from rich.console import Console
from rich.table import Table

from lra import presets


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--family", help="only this family")
    parser.add_argument("--causal", action="store_true", help="only models that can be causal")
    parser.add_argument("--recurrent", action="store_true", help="only models that decode by steps")


def run(options: argparse.Namespace) -> None:
    from lra.conformance import model_rows
    from lra.errors import nearest
    from lra.results.schema import FAMILIES

    if options.family is not None and options.family not in FAMILIES:
        raise nearest(options.family, FAMILIES, kind="family")
    table = Table("model", "family", "year", "time", "memory", "causal", "two-sided", "recurrent")
    for row in sorted(model_rows(), key=lambda row: (FAMILIES.index(row.family), row.model)):
        wanted = options.family in (None, row.family)
        wanted &= not options.causal or row.causality != "no"
        wanted &= not options.recurrent or row.recurrent
        if wanted:
            flags = (row.causality, _yes(row.bidirectional), _yes(row.recurrent))
            table.add_row(row.model, row.family, str(row.year), row.time, row.memory, *flags)
    console = Console()
    console.print(table)
    console.print(f"tasks: {', '.join(presets.names('task'))}")
    console.print(f"protocols: {', '.join(presets.names('protocol'))}")


def _yes(value: bool) -> str:
    return "yes" if value else "-"
