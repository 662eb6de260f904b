"""Worker processes that make numbered chunks of data, delivered in order."""

import os
import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import count
from multiprocessing import current_process, get_context, parent_process
from typing import TypeVar

from lra.errors import UserError

T = TypeVar("T")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_map(function: Callable[[int], T], workers: int, first: int = 0) -> Generator[T]:
    """``function(first), function(first + 1), ...`` without end, computed a little ahead.

    What it yields does not depend on ``workers``. Close it to end the processes.

    Args:
        function: picklable, and a function of its argument alone.
        workers: processes; 1 computes here, as does a process that may have no children.
        first: the first argument.

    Raises:
        UserError: a worker process died.
    """
    if workers <= 1 or current_process().daemon:
        yield from map(function, count(first))
        return
    # spawn: the parent may hold threads (torch, arrow) that do not survive a fork
    with ProcessPoolExecutor(workers, get_context("spawn"), _end_with_parent) as pool:
        ahead = deque(pool.submit(function, first + i) for i in range(2 * workers))
        try:
            for i in count(first + 2 * workers):
                result = ahead.popleft().result()
                ahead.append(pool.submit(function, i))
                yield result
        except BrokenProcessPool as error:
            raise UserError("a data worker process died: free some memory and try again") from error
        finally:
            for future in ahead:
                future.cancel()


def _end_with_parent() -> None:
    """A worker whose parent was killed would otherwise wait for ever."""

    def watch() -> None:
        parent = parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
