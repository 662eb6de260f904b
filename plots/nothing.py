"""Why nothing could be drawn, and what to do: one line for each figure and table."""

from collections.abc import Sequence
from pathlib import Path

from lra.errors import UserError
from lra.results.schema import KernelRow, LengthRow

SWEEP = "`python run.py -m 'model=glob(*,exclude=custom)' task=lengths`"
# what a figure against length needs beyond rows, and the command that makes it
NEEDS = {
    "time_vs_length": ("time of a call", SWEEP),
    "memory_vs_length": ("peak memory", SWEEP),
    "flops_vs_length": ("counted operations", SWEEP),
    "crossover": (
        "transformer with fused or naive attention beside another system",
        "`python run.py model=transformer task=lengths`",
    ),
    "decode_vs_length": (
        "decoding",
        f"{SWEEP[:-1]} task.level=mixer task.causal=true task.passes=[decode]`",
    ),
    "lengths_table": ("time of a call", SWEEP),
    "levels_table": (
        "system timed at several levels",
        f"{SWEEP[:-1]} task.level=mixer,block,model`",
    ),
    "speed_table": (
        "training step of a whole model at 1K to 4K",
        f"{SWEEP[:-1]} task.lengths=[1024,2048,3072,4096]`",
    ),
}


def nothing(
    results: Path,
    only: str | None,
    kernel_rows: Sequence[KernelRow],
    length_rows: Sequence[LengthRow],
) -> UserError:
    """The error to raise."""
    return UserError(_said(results, only, kernel_rows, length_rows))


def _said(
    results: Path,
    only: str | None,
    kernel_rows: Sequence[KernelRow],
    length_rows: Sequence[LengthRow],
) -> str:
    if only in ("accuracy_vs_speed", "lra_table", "pairs"):
        return f"no finished seed in {results}: {only} has nothing to show"
    if only == "conformance":
        table = results / "measured" / "conformance.csv"
        return f"no checks in {table}: first `python -m lra conformance`"
    if only == "length_devices" and length_rows:
        return _one_device(length_rows, "lengths")
    if only == "length_devices" or (only in NEEDS and not length_rows):
        return f"no measured lengths in {results}: first {SWEEP}"
    if only in NEEDS:
        lacking, command = NEEDS[only]
        return f"no {lacking} in the measured lengths of {results}: first {command}"
    if only == "devices" and kernel_rows:
        return _one_device(kernel_rows, "kernels")
    return f"no timed kernels in {results}: first `python run.py task=kernels op=... backend=all`"


def _one_device(rows: Sequence[KernelRow] | Sequence[LengthRow], what: str) -> str:
    names = sorted({row.device or "unknown device" for row in rows})
    if len(names) > 1:
        return f"no two of these devices have timed the same: {', '.join(names)}"
    return (
        f"only one device has timed {what}, {names[0]}: nothing to compare; take in the pack "
        "of another with `python -m lra merge FILE`"
    )
