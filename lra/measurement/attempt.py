"""One measured thing on its way to a row: what came out, or how it ended, and a time limit."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from kernels.errors import Unsupported
from lra.measurement.memory import out_of_memory, reason_of


class Wrong(Exception):
    """An output or gradient is not what it must be."""


@dataclass(kw_only=True)
class Attempt:
    """A pass of what is measured.

    Attributes:
        notes: what is doubtful about it although it is ``ok``.
        samples: in milliseconds.
        gflop: 1e9 operations of a call.
    """

    pass_: str
    status: str = "ok"
    reason: str | None = None
    notes: list[str] = field(default_factory=list)
    samples: list[float] = field(default_factory=list)
    peak_mem_mib: float | None = None
    gflop: float | None = None

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    def end(self, status: str, reason: str) -> None:
        """It was not timed, or its times count for nothing."""
        self.status, self.reason, self.samples = status, reason, []

    def fail(self, error: BaseException) -> None:
        self.end(*ending(error))


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


def look_at_device(device: torch.device) -> None:
    """After an illegal access every later call would fail, too, and be blamed for it.

    Raises:
        DeviceLost: it answers nothing any more.
    """
    if device.type != "cuda":
        return
    try:
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
    except Exception as error:
        raise DeviceLost(str(error)) from error
