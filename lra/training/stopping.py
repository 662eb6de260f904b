"""SIGTERM and SIGINT as an exception at a safe point: never in the middle of a step or a write."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """Somebody asked the run to stop."""


class Stopping:
    """Turns the first SIGTERM or SIGINT into ``Interrupted``.

    Args:
        deferring: never raise from the handler; whoever looks at ``asked`` acts on it. Several
            processes need this, since they must stop at the same step.
    """

    def __init__(self, *, deferring: bool = False) -> None:
        self.asked: str | None = None
        self._deferring = deferring

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked is None:
            self.asked = signal.Signals(number).name
            if not self._deferring:
                raise Interrupted(self.asked)

    @contextlib.contextmanager
    def listening(self) -> Iterator["Stopping"]:
        """Listens to the signals inside; elsewhere than in the main thread there are none."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self._handle) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def uninterrupted(self) -> Iterator[None]:
        """A step or a write: a signal inside is acted on at its end."""
        deferring, asked = self._deferring, self.asked
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = deferring
        if self.asked != asked and not deferring:
            raise Interrupted(self.asked)
