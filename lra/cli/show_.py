"""A model's card, its knobs, and the conformance checks that it passed."""

import argparse
from dataclasses import asdict

from rich.table import Table

from lra import presets
from lra.cli.main import console, results_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="a model of `python -m lra list`")
    parser.add_argument(
        "overrides", nargs="*", help="as for run.py: mixer._target_=my_module.MyMixer"
    )
    parser.add_argument("--run", action="store_true", help="run the checks now")
    results_argument(parser)


def run(options: argparse.Namespace) -> None:
    presets.check_name("model", options.name)
    from lra.conformance import load, model_row

    out = console()
    subject = load(options.name, options.overrides, sized=None)
    facts = Table("card", "", show_header=False, title=options.name, title_justify="left")
    for name, value in asdict(model_row(subject)).items():
        facts.add_row(name, "-" if value is None else str(value))
    out.print(facts)
    groups = {"mixer": subject.mixer, "block": subject.block, "backbone": subject.backbone}
    knobs = [
        f"{group}.{knob}={value}"
        for group, config in groups.items()
        for knob, value in config.items()
        if knob != "_target_"
    ]
    out.print(f"knobs: {', '.join(knobs) or 'none'}")
    checks = outcomes(options)
    if not checks:
        out.print("no conformance on record: `python -m lra show NAME --run` runs the checks")
        return
    table = Table("check", "outcome", "reason", title="conformance", title_justify="left")
    for check, outcome, reason in checks:
        table.add_row(check, outcome, reason)
    out.print(table)


def outcomes(options: argparse.Namespace) -> list[tuple[str, str, str]]:
    """Check, outcome and reason: found now with ``--run``, else as committed."""
    from lra.conformance import examine, load
    from lra.results.csv_io import read_csv
    from lra.results.schema import ConformanceRow

    if options.run:
        found = examine(load(options.name, options.overrides))
        return [(outcome.check, outcome.status, outcome.reason) for outcome in found]
    path = options.results / "measured" / "conformance.csv"
    rows = read_csv(path, ConformanceRow) if path.exists() else []
    return [(row.check, row.status, row.reason or "") for row in rows if row.model == options.name]
