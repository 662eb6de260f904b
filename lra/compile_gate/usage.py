"""What a kernel needs of a GPU, what a GPU has, and the row that says whether they fit."""

from dataclasses import dataclass
from typing import Any

from lra.results.schema import CompileRow, Status

KIB = 1024
# shared memory that one block can have, in bytes
SHARED_BYTES = {
    "sm_80": 163 * KIB,
    "sm_89": 99 * KIB,
    "sm_90": 227 * KIB,
    "sm_100": 227 * KIB,
    "gfx942": 64 * KIB,
}
DEFAULT_TARGETS = tuple(SHARED_BYTES)
# of configurations that are not the default
OTHER_TARGETS = ("sm_80", "sm_90")
CUDA_TARGETS = ("sm_80", "sm_90", "sm_100")


@dataclass(frozen=True)
class Usage:
    """Of one thread: registers, and bytes of the instructions that spill them or load them back
    (None where the compiler does not say). Of one block: bytes of shared memory."""

    registers: int
    spill_stores: int
    spill_loads: int | None
    shared_bytes: int


def judged(usage: Usage, **named: Any) -> CompileRow:
    """The row of a kernel that compiles; ``named`` are the columns that say which.

    Spills are a fault of a default configuration: another one that spills is only slow. One that
    does not fit into shared memory cannot run.
    """
    default, target = named["default"], named["target"]
    status: Status = "ok"
    reason = None
    if usage.shared_bytes > SHARED_BYTES[target]:
        status = "error" if default else "unsupported"
        reason = f"{usage.shared_bytes} bytes of shared memory, {target} has {SHARED_BYTES[target]}"
    elif usage.spill_stores or usage.spill_loads:
        status = "error" if default else "ok"
        reason = f"spills registers ({usage.spill_stores} bytes)"
    return CompileRow(
        **named, status=status, reason=reason, registers=usage.registers,
        spill_stores=usage.spill_stores, spill_loads=usage.spill_loads,
        shared_bytes=usage.shared_bytes,
    )  # fmt: skip
