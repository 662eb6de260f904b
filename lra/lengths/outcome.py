"""What came out of a pass at a length, where the next lengths stop, and whether to believe it."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lra.measurement.attempt import Attempt
from lra.results.schema import LengthRow


@dataclass(kw_only=True)
class PassRun(Attempt):
    """A pass at one length.

    Attributes:
        coverage: share of the work that ``gflop`` knows.
    """

    pred_mem_mib: float | None = None
    coverage: float | None = None
    state_mib: float | None = None
    backend: str | None = None


@dataclass
class Frontier:
    """Where a pass ran out of time or memory, or killed its process: at greater lengths it is not
    tried."""

    ends: dict[str, tuple[int, str]] = field(default_factory=dict)

    def note(self, row: LengthRow, *, killed: bool) -> None:
        if killed or row.status in ("oom", "timeout"):
            self.ends.setdefault(row.pass_, (row.length, row.status))


def trouble(
    before: list[Tensor], after: list[Tensor], timed: list[Tensor], same: list[Tensor]
) -> tuple[str, str] | None:
    """Status and reason where outputs are not what they must be.

    Args:
        before, after: of a system that was not timed, before and after the timing.
        timed: of the one that was, which has trained on.
        same: of the first one with the parameters of the other.
    """
    if not all(torch.isfinite(y).all() for y in (*after, *timed)):
        return "nan", "its output is not finite"
    if torch.equal(after[0], after[1]):
        return "error", "it gives the same output for other inputs"
    if _differ(before, after):
        return "error", "its output after timing is another one than before"
    if _differ(same, timed):
        return "error", "what was timed gives another output than what was not"
    return None


def _differ(wanted: list[Tensor], found: list[Tensor]) -> bool:
    # half precision rounds at 2^-8, and sums in another order
    rtol, atol = (1e-3, 1e-5) if wanted[0].dtype == torch.float32 else (2e-2, 1e-2)
    return not all(
        torch.allclose(a, b, rtol=rtol, atol=atol) for a, b in zip(wanted, found, strict=True)
    )
