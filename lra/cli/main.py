"""The command line: one sub-command a file, imported when it is called."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from lra.errors import UserError, nearest

if TYPE_CHECKING:
    from rich.console import Console

COMMANDS = {
    "doctor": "which backends and libraries work on this machine, and why not",
    "list": "the models, tasks and protocols",
    "show": "a model's card and which conformance checks it passed",
    "prepare": "build a task's data ahead of time",
    "collect": "finished cells to CSV; --publish makes the committed pack of this device",
    "merge": "take in result packs from elsewhere, checked against the schema",
    "conformance": "run the conformance checks and write models.csv and conformance.csv",
    "compile": "compile every GPU kernel, without a GPU, and write compile.csv",
}


class Parser(argparse.ArgumentParser):
    """One line for a mistake, exit code 2."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UserError(f"{message}; `{self.prog} --help` says how")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a sub-command; a mistake is one line and exit code 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print("usage: python -m lra COMMAND [--help]\n")
            print("\n".join(f"  {name:12} {about}" for name, about in COMMANDS.items()))
            return 0
        name = arguments[0]
        if name not in COMMANDS:
            raise nearest(name, COMMANDS, kind="command")
        module = import_module(f"lra.cli.{name}_")
        parser = Parser(prog=f"python -m lra {name}", description=module.__doc__)
        module.add_arguments(parser)
        return int(module.run(parser.parse_args(arguments[1:])) or 0)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def console() -> "Console":
    """Where commands print: a path stays on one line, and brackets are text."""
    from rich.console import Console

    return Console(soft_wrap=True, highlight=False, markup=False)


def results_argument(parser: argparse.ArgumentParser) -> None:
    """``--results DIR``, the checkout's by default."""
    from pathlib import Path

    from lra.resolvers import checkout

    default = Path(checkout()) / "results"
    parser.add_argument("--results", type=Path, default=default, help="the results folder")
