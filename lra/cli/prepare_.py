"""Builds a task's data ahead of time, under the knobs of a protocol."""

import argparse
from pathlib import Path

from lra import presets
from lra.cli.main import console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", help="a task of `python -m lra list`")
    parser.add_argument("--protocol", default="laptop", help="whose sizes (default: laptop)")
    parser.add_argument("--source", type=Path, help="folder of the official files")
    parser.add_argument("--root", type=Path, help="where built data goes (default: data)")


def run(options: argparse.Namespace) -> None:
    presets.check_name("task", options.task)
    presets.check_name("protocol", options.protocol)
    overrides = [f"task={options.task}", f"protocol={options.protocol}"]
    if options.source is not None:
        overrides.append(f"task.source='{options.source.resolve()}'")
    if options.root is not None:
        overrides.append(f"paths.data='{options.root.resolve()}'")
    from lra.app import set_up_logging
    from lra.config import load
    from lra.runner import make_task
    from lra.tasks.spec import SPLITS

    set_up_logging()
    task = make_task(load(presets.compose(*overrides)))
    out = console()
    for split in SPLITS:
        dataset = task.build(split)
        out.print(f"{split}: {len(dataset):,} examples ({task.spec.tier})")
    for name, value in task.baselines().items():
        out.print(f"{name}: {100 * value:.2f} % of test, a trivial baseline")
    files = {Path(file["filename"]).parent for file in dataset.cache_files}
    out.print("in " + ", ".join(str(path) for path in sorted(files)))
