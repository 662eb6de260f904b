"""What came out of one backend in one pass, on its way to a row."""

from dataclasses import dataclass

from kernels.tolerance import Closeness
from lra.measurement.attempt import Attempt


@dataclass(kw_only=True)
class Entry(Attempt):
    """One (backend, pass) of a case.

    Attributes:
        closest: the result that came closest to its tolerance.
        chosen: the backend that `auto` took.
        copy_ms: a copy of as many bytes, timed in turns with it.
    """

    backend: str
    closest: Closeness | None = None
    chosen: str | None = None
    moved_bytes: int | None = None
    copy_ms: float | None = None

    @property
    def name(self) -> str:
        return f"{self.backend} {self.pass_}"

    def close(self, closest: Closeness) -> None:
        """Keeps the worse of two comparisons."""
        if self.closest is None or closest.rel_error > self.closest.rel_error:
            self.closest = closest
