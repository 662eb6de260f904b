"""One cell from data to row: build, train, select, test once, measure. Always one row."""

import functools
import inspect
import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from lightning_fabric import Fabric

from kernels.dispatch import all_ops
from lra.cell_run import CellRun, Outcome
from lra.config import RunConfig
from lra.device import find_device
from lra.errors import UserError, nearest
from lra.model import build
from lra.results.cell import Cell, check_writable
from lra.results.fingerprint import fingerprint
from lra.saved import load_model
from lra.tasks.spec import SPLITS, Task, data_root
from lra.training import checkpoint
from lra.training.loop import Data
from lra.training.stopping import Stopping


def run_cell(config: RunConfig, *, on_cell: Callable[[Cell], Any]) -> Outcome | None:
    """Runs a cell to its row, or finds it finished; None in a process beside the first.

    Args:
        config: validated.
        on_cell: called with the cell as soon as it is known.

    Raises:
        UserError: wrong input, nothing is half-written; or the system does not do that, which the
            row says too.
    """
    fabric = make_fabric(config)
    outcome = _outcome(config, fabric, on_cell)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # its threads would be running still when the interpreter ends, which may abort the process
        torch.distributed.destroy_process_group()
    return outcome


def _outcome(config: RunConfig, fabric: Fabric, on_cell: Callable[[Cell], Any]) -> Outcome | None:
    stopping = Stopping(deferring=fabric.world_size > 1)
    with stopping.listening():
        saved = load_model(config.checkpoint) if config.checkpoint else None
        if saved is not None:
            config = saved.config(config)
        task = make_task(config)
        # what is wrong must be said before data is built
        check_backend(config.backend)
        built = build(config, task.spec, saved)
        start = load_model(config.init) if config.init else None
        if start is not None and built.model is not None:
            start.begin(built.model, task.spec)
        if fabric.is_global_zero:
            check_writable(config.results)
        splits = build_splits(fabric, task)
        marks = fingerprint(fabric.device.type, n_processes=fabric.world_size)
        run = CellRun(config, fabric, task, splits, built, marks, saved, start, stopping)
        if not fabric.is_global_zero:
            # the first process alone decides, writes and keeps the lock
            run.follow()
            return None
        with run.cell.alone():
            on_cell(run.cell)
            if config.rerun:
                checkpoint.clear(run.cell.folder)
            done = None if config.rerun else run.cell.finished()
            fabric.broadcast(done is not None)
            if done is not None:
                checkpoint.clear(run.cell.folder)
                return Outcome(done, task.baselines(), run.files(), was_finished=True)
            return run.lead()


def make_fabric(config: RunConfig) -> Fabric:
    """Fabric for this process: one device, or those that torchrun started."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    accelerator = find_device(config.device).type
    fabric = Fabric(
        accelerator=accelerator, devices=int(os.environ.get("LOCAL_WORLD_SIZE", world)),
        num_nodes=world // int(os.environ.get("LOCAL_WORLD_SIZE", world)),
        strategy="ddp" if world > 1 else "auto", precision=config.recipe.precision,  # type: ignore[arg-type]
    )  # fmt: skip
    fabric.launch()
    if config.recipe.batch % (world * config.recipe.accumulate):
        raise UserError(
            f"recipe.batch={config.recipe.batch} must be a multiple of {world} processes x "
            f"recipe.accumulate={config.recipe.accumulate}"
        )
    return fabric


def check_backend(wish: str | dict[str, str]) -> None:
    """Raises UserError where no op, or not the named one, has that backend."""
    ops = all_ops()
    every = {name for op in ops.values() for name in op.backends}
    for op, backend in (wish if isinstance(wish, dict) else {"": wish}).items():
        if op and op not in ops:
            raise nearest(op, ops, kind="op in backend")
        known = {"auto", *(ops[op].backends if op else every)}
        if backend not in known:
            raise nearest(str(backend), known, kind=f"backend of {op}" if op else "backend")


def make_task(config: RunConfig) -> Task:
    """The task that the configuration names, with its knobs."""
    knobs = dict(config.task)
    target = str(knobs.pop("_target_", ""))
    module, _, name = target.rpartition(".")
    knobs.pop("name", None)
    try:
        kind = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"cannot find task._target_ '{target}': {error}") from error
    known = [key for key in inspect.signature(kind).parameters if key != "root"]
    for knob in knobs:
        if knob not in known:
            raise nearest(knob, known, kind=f"knob of {name}")
    task: Task = kind(root=data_root(config.data), **knobs)
    return task


def build_splits(fabric: Fabric, task: Task) -> dict[str, Data]:
    """The splits, built by the first process if need be."""
    if fabric.is_global_zero:
        for name in SPLITS:
            task.build(name)
    fabric.barrier()
    splits = {}
    for name in SPLITS:
        dataset = task.build(name)
        splits[name] = Data(len(dataset), functools.partial(task.collate, dataset))
    return splits
