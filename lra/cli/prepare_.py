"""Builds a task's data ahead of time, under the knobs of a protocol."""

import argparse
from pathlib import Path
from typing import Any

from lra import presets
from lra.cli.main import console
from lra.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", help="a task of `python -m lra list`")
    parser.add_argument(
        "knobs",
        nargs="*",
        default=[],
        metavar="task.KNOB=VALUE",
        help="as of run.py, right after the task",
    )
    parser.add_argument("--protocol", default="laptop", help="whose sizes (default: laptop)")
    parser.add_argument("--source", type=Path, help="folder of the official files")
    parser.add_argument("--root", type=Path, help="where built data goes (default: data)")


def run(options: argparse.Namespace) -> None:
    presets.check_name("task", options.task)
    presets.check_name("protocol", options.protocol)
    for knob in options.knobs:
        if not knob.startswith("task.") or "=" not in knob:
            raise UserError(f"{knob}: prepare takes task.KNOB=VALUE only, as task.n_train=1000")
    overrides = [f"task={options.task}", f"protocol={options.protocol}", *options.knobs]
    if options.source is not None:
        overrides.append(f"task.source='{options.source.resolve()}'")
    if options.root is not None:
        overrides.append(f"paths.data='{options.root.resolve()}'")
    from lra.app import set_up_logging
    from lra.config import load
    from lra.runner import make_task
    from lra.tasks.spec import SPLITS

    set_up_logging()
    config = load(presets.compose(*overrides))
    task = make_task(config)
    splits = {split: task.build(split) for split in SPLITS}
    out = console()
    out.print(
        f"{task.spec.name}, protocol {options.protocol}: {_changed(options.task, config.task)}; "
        "other data: --protocol NAME or task.KNOB=VALUE"
    )
    for split, dataset in splits.items():
        out.print(f"{split}: {len(dataset):,} examples ({task.spec.tier})")
    for name, value in task.baselines().items():
        out.print(f"{name}: {100 * value:.2f} % of test, a trivial baseline")
    files = {Path(file["filename"]).parent for data in splits.values() for file in data.cache_files}
    out.print("in " + ", ".join(str(path) for path in sorted(files)))


def _changed(name: str, knobs: dict[str, Any]) -> str:
    """The knobs that are not as the task itself has them, which is the full published size."""
    from omegaconf import OmegaConf

    full: Any = OmegaConf.to_container(OmegaConf.load(presets.CONF / "task" / f"{name}.yaml"))
    changed = [f"{key}={value}" for key, value in knobs.items() if value != full.get(key)]
    return " ".join(changed) or "the full size"
