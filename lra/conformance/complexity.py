"""Checks of declared complexity by counting, not by timing: operations and live bytes at N, 2N, 4N.

Operations are a sum, so the growth of their *differences* is fitted: constants (a pseudo-inverse)
drop out, and terms of lower degree pull it down a little. The peak of memory is a maximum over the
phases of a pass, with buffers of constant size: it may grow slower than claimed at these lengths,
never faster.
"""

import math
from collections.abc import Callable, Iterator

import torch

from kernels.flops import count_flops
from lra.conformance.expression import Degree, degree
from lra.conformance.probe import inputs
from lra.conformance.subject import Mode, Subject, System
from lra.measurement.memory import peak_memory_mib

BASE = 256
SIZES = (BASE, 2 * BASE, 4 * BASE)


def time(subject: Subject) -> None:
    """Operations of forward and backward grow with N as the card's time says."""
    claimed = degree(subject.card.time)
    slack = 0.3 if claimed.power > 1 else 0.05
    low, high = claimed.power - slack, most(claimed)
    for mode, counts in _measured(subject, operations):
        grown = power(counts[1] - counts[0], counts[2] - counts[1])
        assert low <= grown <= high, _told(mode, "time", subject.card.time, counts, grown)


def memory(subject: Subject) -> None:
    """The peak of live bytes in forward and backward grows with N no faster than the card's memory
    says; above linear, nor far slower."""
    claimed = degree(subject.card.memory)
    # less than linear is never claimed, so there is nothing to overstate below
    low = claimed.power - 0.75 if claimed.power > 1 else 0.0
    for mode, counts in _measured(subject, peak_bytes):
        grown = power(counts[1], counts[2])
        if grown > most(claimed):
            # buffers of constant size may only just be full: four times the length tells
            system = subject.build(mode, max_len=4 * SIZES[-1], dtype=torch.float32)
            counts = [peak_bytes(system, 4 * n) for n in SIZES]
            grown = power(counts[1], counts[2])
        told = _told(mode, "memory", subject.card.memory, counts, grown)
        assert low <= grown <= most(claimed), told


def _measured(
    subject: Subject, measure: Callable[[System, int], float]
) -> Iterator[tuple[Mode, list[float]]]:
    for mode in [mode for mode in subject.modes() if mode != "two_way"]:
        system = subject.build(mode, max_len=SIZES[-1], dtype=torch.float32)
        yield mode, [measure(system, n) for n in SIZES]


def most(claimed: Degree) -> float:
    """The fastest growth that a claim allows; a log factor adds up to a third at these sizes."""
    return claimed.power + 0.05 + 0.3 * claimed.logs


def power(first: float, second: float) -> float:
    """The power of N that a quantity grows as from one size to its double."""
    return math.log2(second / first) if first > 0 and second > 0 else 0.0


def _told(mode: Mode, what: str, expression: str, counts: list[float], grown: float) -> str:
    return (
        f"{mode}: {what} is declared as '{expression}', counted {counts} at {SIZES}: N^{grown:.2f}"
    )


def operations(system: System, n: int) -> float:
    """Operations of one forward and backward pass over (1, N, D), all of them counted."""
    x = inputs(1, n, dtype=torch.float32).requires_grad_()
    counted = count_flops(lambda: system(x)[0].sum().backward())
    assert not counted.unknown, f"operations without a formula: {', '.join(counted.unknown)}"
    return counted.total_gflop * 1e9


def peak_bytes(system: System, n: int) -> float:
    """Peak of live tensor bytes in one forward and backward pass over (1, N, D)."""
    x = inputs(1, n, dtype=torch.float32).requires_grad_()
    return peak_memory_mib(lambda: system(x)[0].sum().backward(), system, x, device="cpu") * 2**20
