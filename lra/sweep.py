"""A swept cell: a child process of its own, with a memory and a time limit, that a crash cannot
take the others with, and that does not outlive its parent."""

import contextlib
import ctypes
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from lra.app import run_here, set_up_logging
from lra.config import model_name
from lra.errors import CellFailed, UserError
from lra.limits import limit_memory
from lra.resolvers import checkout, from_checkout, register
from lra.sweep_clock import place

if TYPE_CHECKING:
    from lra.results.cell import Cell

log = logging.getLogger(__name__)
GRACE_S = 600.0  # making data and measuring, which the time limit leaves out, may take so long
LAST_WORDS_S = 20  # a child whose parent died has this long to save and end
PR_SET_PDEATHSIG = 1


def run_in_child(cfg: DictConfig, changed: list[str], *, number: int) -> None:
    """Runs a cell in a child and waits for it.

    Raises:
        UserError: the child said that its input is wrong.
        CellFailed: the cell ended otherwise than ``ok`` or ``unsupported``.
    """
    set_up_logging()
    log.info("cell %s: %s", place(number, cfg), " ".join(changed) or "defaults")
    if OmegaConf.is_missing(cfg.mixer, "_target_"):
        # `model=glob(*)` means every model that there is
        log.info("skipped: %s is a mixer of your own, mixer._target_=...", cfg.model.name)
        return
    if multiprocessing.current_process().name != "MainProcess":
        # a launcher's worker would outlive a sweep that is killed, and its cell with it
        _die_with_parent(os.getppid())
    code, killed, cell = _run(cfg, changed)
    if OmegaConf.select(cfg, "task.name") in ("kernels", "lengths"):
        code, killed, cell = _go_on(cfg, changed, (code, killed, cell))
    if code < 0 or killed:
        _record_death(cell, -code, killed)
    if code == 0 or (code == 2 and _is_unsupported(cell)):
        return
    raise CellFailed(f"exit code {code}", code if code in (2, 130) else 1)


def _run(cfg: DictConfig, changed: list[str]) -> tuple[int, bool, str]:
    """Exit code of a child, whether time ran out, and the cell that it told of."""
    order = json.dumps({"cfg": OmegaConf.to_container(cfg, resolve=True), "changed": changed})
    read, write = os.pipe()
    with os.fdopen(read) as told:
        child = subprocess.Popen(
            [sys.executable, "-m", "lra.sweep", str(write), str(os.getpid())],
            stdin=subprocess.PIPE, pass_fds=(write,), env=_environment(), text=True,
        )  # fmt: skip
        os.close(write)
        code, killed = _wait(child, order, cfg.limits.time_s)
        return code, killed, told.read()


def _go_on(
    cfg: DictConfig, changed: list[str], end: tuple[int, bool, str]
) -> tuple[int, bool, str]:
    """Another child as long as a backend or a pass has ended the last one: it is left out, the rest
    runs."""
    from lra.results.schema import KernelRow, LengthRow
    from lra.results.store import Store

    results = Path(from_checkout(cfg.paths.results))
    if OmegaConf.select(cfg, "task.name") == "lengths":
        tree: Any = OmegaConf.to_container(cfg, resolve=True)
        store = Store(results, f"lengths_{model_name(tree)}", LengthRow)
    elif cfg.op.name is not None:
        store = Store(results, f"kernels_{cfg.op.name}", KernelRow)
    else:
        return end
    before: tuple[str, str] | None = None
    cfg = cfg.copy()
    # what is finished by now must not be forgotten again
    cfg.rerun = False
    while (note := store.died_at()) and (death := (note["case"], note["who"])) != before:
        code, killed, _ = end
        if code < 0 or killed:
            store.explain(*_cause(-code, killed))
        if killed:
            # its time is up: what hung gets its row, nothing else is begun
            cfg.limits.time_s = 1.0
        before, end = death, _run(cfg, changed)
    return end


def _wait(child: "subprocess.Popen[str]", order: str, time_s: float | None) -> tuple[int, bool]:
    """The child's exit code (negative: the signal that ended it), and whether time ran out."""
    timeout = None if time_s is None else time_s + GRACE_S
    try:
        child.communicate(order, timeout=timeout)
        return child.returncode, False
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
        return child.returncode, True
    except BaseException:
        # asked to stop: the child saves and ends first
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(LAST_WORDS_S)
        child.kill()
        child.wait()
        raise


def _cell(told: str) -> "Cell | None":
    """The cell that a child told of, or None where it did not come so far."""
    from lra.results.cell import Cell

    if not told:
        return None
    facts = json.loads(told)
    return Cell(facts["id"], facts["name"], Path(facts["results"]))


def _is_unsupported(told: str) -> bool:
    """Whether a child that refused its input has put on record that its system cannot do it."""
    cell = _cell(told)
    row = None if cell is None else cell.row()
    return row is not None and row.status == "unsupported"


def _record_death(told: str, number: int, timeout: bool) -> None:
    """The row of a child that could not write its own end."""
    cell = _cell(told)
    if cell is None:
        return
    status: Any
    status, reason = _cause(number, timeout)
    with cell.alone():
        row = cell.row()
        # another process may have finished the cell meanwhile
        if row is not None and row.status == "interrupted":
            cell.write_row(replace(row, status=status, reason=reason))


def _cause(number: int, timeout: bool) -> tuple[str, str]:
    """Status and reason of a process that a signal ended."""
    if timeout:
        return "timeout", "did not end in time and was killed"
    if number == signal.SIGKILL:
        return "oom", "killed by the system, most likely for want of memory"
    return "error", f"killed by {signal.Signals(number).name}"


def _environment() -> dict[str, str]:
    paths = [checkout(), *filter(None, [os.environ.get("PYTHONPATH")]), *filter(None, sys.path[:1])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


def child(row_fd: int, parent: int) -> int:
    """The child's side: reads its order from standard input, runs, exits as ``run.py`` does."""
    _die_with_parent(parent)
    register()
    order = json.load(sys.stdin)
    cfg = OmegaConf.create(order["cfg"])
    limit_memory(cfg.limits.memory_gib)
    with os.fdopen(row_fd, "w") as file:

        def tell(cell: "Cell") -> None:
            file.write(json.dumps(asdict(cell), default=str))
            file.flush()

        try:
            run_here(cfg, order["changed"], on_cell=tell)
        except CellFailed as failure:
            # what a system cannot do is an answer
            return 0 if failure.status == "unsupported" else failure.exit_code
        except UserError as error:
            log.error("error: %s", error)
            return 2
        except KeyboardInterrupt:
            return 130
    return 0


def _die_with_parent(parent: int) -> None:
    """When the parent dies the kernel sends SIGTERM: the cell is saved and ends."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(child(int(sys.argv[1]), int(sys.argv[2])))
