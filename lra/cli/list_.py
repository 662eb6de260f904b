"""The models by family, the tasks and the protocols."""

import argparse

from rich.table import Column, Table

from lra import presets
from lra.cli.main import console

FLAGS = ("causal", "two-sided", "recurrent")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--family", help="only this family")
    parser.add_argument("--causal", action="store_true", help="only models that can be causal")
    parser.add_argument("--recurrent", action="store_true", help="only models that decode by steps")


def run(options: argparse.Namespace) -> None:
    from lra.conformance import model_rows
    from lra.conformance.document import times_of
    from lra.errors import nearest
    from lra.results.schema import FAMILIES

    # tables of results write low_rank in two words
    family = options.family and options.family.replace(" ", "_")
    if family is not None and family not in FAMILIES:
        raise nearest(options.family, FAMILIES, kind="family")
    found = [
        row for row in sorted(model_rows(), key=lambda row: (FAMILIES.index(row.family), row.model))
        if family in (None, row.family)
        and (row.causality != "no" or not options.causal)
        and (row.recurrent or not options.recurrent)
    ]  # fmt: skip
    # names are for copying: whole on the narrowest terminal
    width = max((len(row.model) for row in found), default=0)
    costs = (Column("time", overflow="fold"), Column("memory", overflow="fold"))
    table = Table(Column("model", min_width=width), "family", "year", *costs, *FLAGS)
    for row in found:
        flags = (row.causality, _yes(row.bidirectional), _yes(row.recurrent))
        table.add_row(row.model, row.family, str(row.year), times_of(row), row.memory, *flags)
    out = console()
    out.print(table)
    out.print(f"tasks: {', '.join(presets.names('task'))}")
    out.print(f"protocols: {', '.join(presets.names('protocol'))}")


def _yes(value: bool) -> str:
    return "yes" if value else "-"
