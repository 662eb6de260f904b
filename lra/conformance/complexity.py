"""Checks of declared complexity by counting, not by timing: operations and live bytes at N, 2N, 4N.

Operations are a sum, so the growth of their *differences* is fitted: constants (a pseudo-inverse)
drop out, and terms of lower degree pull it down a little. The peak of memory is a maximum over the
phases of a pass, with buffers of constant size: it may grow slower than claimed at these lengths,
never faster.
"""

import math
from collections.abc import Callable

import torch

from kernels.flops import count_flops
from lra.conformance.probe import inputs
from lra.conformance.subject import Mode, Subject, System
from lra.measurement.memory import peak_memory_mib
from lra.results.expression import degree, most

# the first N of N, 2N and 4N; greater ones are tried where the smaller do not hold
BASES = (256, 1024, 2048)


def time(subject: Subject) -> None:
    """Operations of forward and backward grow with N as the card's time says."""

    def growth(counts: list[float]) -> float:
        return power(counts[1] - counts[0], counts[2] - counts[1])

    for mode in _modes(subject):
        told = subject.card.time
        if mode == "causal":
            told = subject.card.causal_time or told
        claimed = degree(told)
        low = claimed.power - (0.2 if claimed.power > 1 else 0.05)
        _hold(subject, mode, "time", told, operations, growth, low, most(claimed))


def memory(subject: Subject) -> None:
    """The peak of live bytes in forward and backward grows with N no faster than the card's memory
    says; above linear, nor far slower."""
    claimed = degree(subject.card.memory)
    # less than linear is never claimed, so there is nothing to overstate below
    low = claimed.power - 0.6 if claimed.power > 1 else 0.0

    def growth(counts: list[float]) -> float:
        return power(counts[1], counts[2])

    told = subject.card.memory
    for mode in _modes(subject):
        _hold(subject, mode, "memory", told, peak_bytes, growth, low, most(claimed))


def _modes(subject: Subject) -> list[Mode]:
    return [mode for mode in subject.modes() if mode != "two_way"]


def _hold(
    subject: Subject,
    mode: Mode,
    what: str,
    expression: str,
    measure: Callable[[System, int], float],
    growth: Callable[[list[float]], float],
    low: float,
    high: float,
) -> None:
    """Growth lies between the two powers; at the latest at the greatest lengths, where a buffer of
    constant size is full and lower powers no longer outweigh the highest."""
    for base in BASES:
        sizes = (base, 2 * base, 4 * base)
        # built for each length: what grows with the longest one counts, too
        counts = [measure(subject.build(mode, max_len=n, dtype=torch.float32), n) for n in sizes]
        grown = growth(counts)
        if low <= grown <= high:
            break
    told = f"{mode}: {what} is declared as '{expression}', counted {counts} at {sizes}"
    assert low <= grown <= high, f"{told}: N^{grown:.2f}"


def power(first: float, second: float) -> float:
    """The power of N that a quantity grows as from one size to its double."""
    return math.log2(second / first) if first > 0 and second > 0 else 0.0


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
