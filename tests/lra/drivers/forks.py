"""Runs ``run.py`` again and again in forks of one process that has imported everything, and kills a
run at a chosen moment. Orders come as lines of JSON on standard input:

    {"runs": [[argument, ...], ...], "folder": path, "at": moment, "count": n, "signal": name}

Several runs of an order run at the same time; without a moment none is killed. The answer is a line
of JSON for each order: exit codes, negative for a signal. Output goes to ``<folder>/<number>.out``
and ``.err``.
"""

import json
import os
import runpy
import signal
import sys
import traceback
from types import SimpleNamespace

import datasets  # noqa: F401
import hydra._internal.hydra  # noqa: F401
import pandas  # noqa: F401
import pyarrow.compute  # noqa: F401
from hydra._internal import logging_config

import lra.cell_run
import lra.data.writer
import lra.report
import lra.results.cell
import lra.runner
import lra.training.loop
from lra.resolvers import checkout
from lra.training import checkpoint

RUN = f"{checkout()}/run.py"
# Hydra would silence every logger that exists already: in a fresh process none does
logging_config.configure_logging = lambda config: None
# its own view of os, so that only its renames are a moment
checkpoint.os = SimpleNamespace(getpid=os.getpid, fsync=os.fsync, replace=os.replace)

# each moment: the function around which a run is killed, before or after it
MOMENTS = {
    "building data": (lra.data.writer.Writer, "append", "after"),
    "finishing data": (lra.data.writer.Writer, "close", "after"),
    "first row": (lra.results.cell.Cell, "write_row", "after"),
    "step": (lra.training.loop.Trainer, "train_step", "after"),
    "checkpoint": (checkpoint, "save", "after"),
    "writing a checkpoint": (checkpoint.os, "replace", "before"),
    "validation": (lra.training.loop.Trainer, "_check_time", "after"),
    "test": (lra.training.loop.Trainer, "use_selected", "after"),
    "saving the model": (lra.cell_run, "save_model", "after"),
    "measuring": (lra.cell_run.CellRun, "_measure", "before"),
    "between the rows": (lra.results.cell, "write_row", "after"),
    "clearing": (checkpoint, "clear", "before"),
}


def strike_at(moment: str, count: int, name: str) -> None:
    """Sends the signal to this process at the ``count``-th coming of the moment."""
    holder, attribute, when = MOMENTS[moment]
    inner, left = getattr(holder, attribute), [count]

    def outer(*args, **kwargs):
        if when == "after":
            result = inner(*args, **kwargs)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.Signals[name])
        return result if when == "after" else inner(*args, **kwargs)

    setattr(holder, attribute, outer)


def fork(arguments: list[str], order: dict, number: int) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        for fd, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{order['folder']}/{number}.{name}", os.O_CREAT | os.O_WRONLY), fd)
        os.chdir(order["folder"])
        sys.argv = ["run.py", *arguments]
        # every step: a kill then costs nothing, and every moment has its checkpoint
        lra.training.loop.CHECKPOINT_S = 0.0
        if order.get("at") != "measuring":
            lra.cell_run.CellRun._measure = lambda self, trainer: None
        if order.get("at"):
            strike_at(order["at"], order["count"], order["signal"])
        runpy.run_path(RUN, run_name="__main__")
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        children = [fork(run, order, number) for number, run in enumerate(order["runs"])]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(codes), flush=True)


if __name__ == "__main__":
    main()
