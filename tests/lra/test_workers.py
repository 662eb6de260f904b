"""Worker processes: ordered results, and none outlives its parent."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from itertools import islice
from operator import add
from pathlib import Path

import pytest

from lra.data.workers import cores, ordered_map
from lra.errors import UserError

CHECKOUT = Path(__file__).resolve().parents[2]


def children(pid):
    tasks = Path(f"/proc/{pid}/task")
    return [int(c) for task in tasks.iterdir() for c in (task / "children").read_text().split()]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_results_come_in_order():
    with closing(ordered_map(partial(add, 10), 2)) as results:
        assert list(islice(results, 9)) == list(range(10, 19))
    assert list(islice(ordered_map(partial(add, 10), 1), 9)) == list(range(10, 19))


def test_an_exception_in_a_worker_arrives():
    with closing(ordered_map(partial(divmod, "x"), 2)) as results, pytest.raises(TypeError):
        next(results)


def test_a_worker_that_dies_is_an_error_not_a_wait():
    with (
        closing(ordered_map(os._exit, 2)) as results,
        pytest.raises(UserError, match="worker process died"),
    ):
        next(results)


def test_cores_are_those_allowed():
    assert 1 <= cores() <= (os.cpu_count() or 1)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads children from /proc")
def test_workers_end_with_a_killed_parent():
    code = """
from lra.data.workers import ordered_map
from functools import partial
from operator import add
results = ordered_map(partial(add, 1), 2)
next(results), next(results), next(results)
print("ready", flush=True)
import time
time.sleep(100)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None and parent.stdout.readline() == "ready\n"
    workers = children(parent.pid)
    assert len(workers) >= 2
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [worker for worker in workers if alive(worker)]
