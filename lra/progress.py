"""Progress of a long job: a live bar on a terminal, else a plain log line every few seconds."""

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

log = logging.getLogger(__name__)

LINE_EVERY_S = 10.0


class Progress(Protocol):
    """What ``progress`` gives."""

    def update(self, done: int, **fields: Any) -> None:
        """``done`` units in all, and what else to show by name (loss, accuracy)."""


@contextmanager
def progress(title: str, total: int, *, unit: str = "", start: int = 0) -> Iterator[Progress]:
    """Shows how far a job is, how fast, and how long it will still take, on standard error.

    Args:
        title: what is being done.
        total: units at the end.
        unit: name of what is counted, in the plural.
        start: units done by an earlier process: they count as done, not for the rate.
    """
    clock = _Clock(start)
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _bar() as bar:
            task = bar.add_task(title, total=total, completed=start, shown=unit)
            yield _Bar(bar, task, unit, clock)
    else:
        lines = _Lines(title, total, unit, clock)
        yield lines
        lines.close()


class _Clock:
    def __init__(self, start: int) -> None:
        self.start, self._begun = start, time.monotonic()

    def spent_s(self) -> float:
        return max(time.monotonic() - self._begun, 1e-9)

    def rate(self, done: int) -> float:
        return (done - self.start) / self.spent_s()


def _show(fields: dict[str, Any]) -> list[str]:
    return [
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in fields.items()
    ]


def _bar() -> "RichProgress":
    from rich import progress as rich
    from rich.console import Console

    return rich.Progress(
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TextColumn("{task.fields[shown]}"),
        rich.TimeRemainingColumn(),
        console=Console(stderr=True),
    )


class _Bar:
    def __init__(self, bar: "RichProgress", task: "TaskID", unit: str, clock: _Clock) -> None:
        self._bar, self._task, self._unit, self._clock = bar, task, unit, clock

    def update(self, done: int, **fields: Any) -> None:
        shown = [self._unit, f"{self._clock.rate(done):,.1f}/s", *_show(fields)]
        self._bar.update(self._task, completed=done, shown=", ".join(shown))


class _Lines:
    def __init__(self, title: str, total: int, unit: str, clock: _Clock) -> None:
        self._title, self._total, self._unit, self._clock = title, total, unit, clock
        self._done, self._fields = clock.start, dict[str, Any]()
        self._written: int | None = None
        self._written_s = 0.0

    def update(self, done: int, **fields: Any) -> None:
        self._done, self._fields = done, fields
        if self._clock.spent_s() - self._written_s >= LINE_EVERY_S:
            self._write()

    def close(self) -> None:
        """Says the end, unless the last line did."""
        if self._done != self._written:
            self._write()

    def _write(self) -> None:
        self._written = self._done
        self._written_s, rate = self._clock.spent_s(), self._clock.rate(self._done)
        if self._done >= self._total or rate <= 0:
            time_left = f"{timedelta(seconds=round(self._written_s))} spent"
        else:
            time_left = f"{timedelta(seconds=round((self._total - self._done) / rate))} left"
        count = f"{self._done:,}/{self._total:,} {self._unit}".rstrip()
        parts = [count, f"{rate:,.1f}/s", time_left, *_show(self._fields)]
        log.info("%s: %s", self._title, ", ".join(parts))
