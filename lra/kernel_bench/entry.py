"""What came out of one backend in one pass, on its way to a row; and how errors end it."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from kernels.errors import Unsupported
from kernels.tolerance import Closeness
from lra.kernel_bench.call import Wrong
from lra.measurement.memory import out_of_memory, reason_of


@dataclass
class Entry:
    """One (backend, pass) of a case.

    Attributes:
        notes: what is doubtful about it although it is ``ok``.
        closest: the result that came closest to its tolerance.
        samples: in milliseconds.
        chosen: the backend that `auto` took.
        copy_ms: a copy of as many bytes, timed in turns with it.
    """

    backend: str
    pass_: str
    status: str = "ok"
    reason: str | None = None
    notes: list[str] = field(default_factory=list)
    closest: Closeness | None = None
    peak_mem_mib: float | None = None
    samples: list[float] = field(default_factory=list)
    chosen: str | None = None
    moved_bytes: int | None = None
    gflop: float | None = None
    copy_ms: float | None = None

    @property
    def name(self) -> str:
        return f"{self.backend} {self.pass_}"

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    def end(self, status: str, reason: str) -> None:
        """It was not timed, or its times count for nothing."""
        self.status, self.reason, self.samples = status, reason, []

    def fail(self, error: BaseException) -> None:
        self.end(*ending(error))

    def close(self, closest: Closeness) -> None:
        """Keeps the worse of two comparisons."""
        if self.closest is None or closest.rel_error > self.closest.rel_error:
            self.closest = closest


class CallTooLong(BaseException):
    """A call did not end in time. No ``Exception``: compilers swallow those."""


class DeviceLost(Exception):
    """After an error the device answers nothing in this process any more."""

    deadly = True  # what was at work stays on record


def ending(error: BaseException) -> tuple[str, str]:
    """Status and reason of a call that raised."""
    if isinstance(error, Unsupported):
        return "unsupported", str(error)
    if isinstance(error, CallTooLong):
        return "timeout", str(error)
    if isinstance(error, Wrong):
        return "wrong", str(error)
    return ("oom" if out_of_memory(error) else "error"), reason_of(error)  # type: ignore[arg-type]


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raises ``CallTooLong`` inside after so long; a call into a library is not interrupted before
    it returns. Only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: Any) -> None:
        raise CallTooLong(f"the first call took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
