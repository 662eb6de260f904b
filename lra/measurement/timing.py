"""Time of functions compared with each other: interleaved samples, robust summary, resolution."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy import stats

from lra.errors import UserError

# share of the smallest reported time that the timer itself may take
OVERHEAD_LIMIT = 0.02
# below this many samples a bootstrap of the median says nothing
MIN_RESOLVABLE = 5

Samples = dict[str, list[float]]
Functions = Mapping[str, Callable[[], object]]


def sample_ms(
    functions: Functions,
    *,
    device: torch.device | str,
    setup: Callable[[str], object] = lambda name: None,
    warmup: int = 3,
    min_samples: int = 5,
    max_samples: int = 200,
    budget_s: float = 2.0,
) -> Samples:
    """Samples of each function's time in milliseconds, taken in turns in this process.

    Every function is warmed up before any is timed. On the CPU a sample is one call, with the
    garbage collector stopped; on CUDA a turn is a run of ``triton.testing.do_bench``, which clears
    the L2 cache before each call, waits for the device and gives one sample a call.

    Args:
        functions: what to time, by name.
        device: where they run.
        setup: called with the name before each turn, untimed.
        warmup: calls of each function before the first sample.
        min_samples: rounds at least, whatever they cost.
        max_samples: rounds at most.
        budget_s: no round starts later than this after the first.
    """
    if warmup < 1 or not 1 <= min_samples <= max_samples:
        raise UserError(
            f"timing needs warmup >= 1 and 1 <= min_samples <= max_samples, got warmup={warmup}, "
            f"min_samples={min_samples}, max_samples={max_samples}"
        )
    device = torch.device(device)
    take: Callable[[Callable[[], object]], list[float]] = _cpu_turn
    if device.type == "cuda":
        take = partial(_cuda_turn, device, budget_s / min_samples / max(len(functions), 1))
    for name, function in functions.items():
        setup(name)
        for _ in range(warmup):
            function()
    names, samples = list(functions), {name: list[float]() for name in functions}
    with collector_stopped():
        end = time.perf_counter() + budget_s
        for done in range(max_samples):
            if done >= min_samples and time.perf_counter() > end:
                break
            # a step that leaves cycles behind must not fill the memory
            gc.collect()
            # turned each round, so that none always follows the same other one
            for name in names[done % len(names) :] + names[: done % len(names)]:
                setup(name)
                samples[name] += take(functions[name])
    return samples


def _cpu_turn(function: Callable[[], object]) -> list[float]:
    start = time.perf_counter_ns()
    function()
    return [(time.perf_counter_ns() - start) / 1e6]


def _cuda_turn(device: torch.device, turn_s: float, function: Callable[[], object]) -> list[float]:
    from triton.testing import do_bench

    with torch.cuda.device(device):
        torch.cuda.synchronize()
        return list(do_bench(function, warmup=1, rep=turn_s * 1e3, return_mode="all"))


@contextmanager
def collector_stopped() -> Iterator[None]:
    """No garbage collection by itself inside, and a quick one by hand: what exists already is left
    alone."""
    enabled = gc.isenabled()
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()


@dataclass(frozen=True)
class Summary:
    """Of one function's samples. ``cv`` is robust: the median absolute deviation, scaled to be the
    standard deviation of normal noise, over the median; a few interrupted calls do not move it."""

    median: float
    p20: float
    p80: float
    cv: float
    n: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Summary":
        if not samples:
            raise UserError("no samples to summarise")
        p20, median, p80 = np.quantile(samples, (0.2, 0.5, 0.8))
        spread = stats.median_abs_deviation(samples, scale="normal")
        cv = spread / median if median > 0 else float("inf")
        return cls(float(median), float(p20), float(p80), float(cv), len(samples))


@dataclass(frozen=True)
class Ratio:
    """Median of a over median of b, with its bootstrap interval."""

    value: float
    low: float
    high: float
    n: int

    @property
    def resolvable(self) -> bool:
        """Whether a and b differ beyond the noise of this run."""
        return self.n >= MIN_RESOLVABLE and not self.low <= 1 <= self.high

    def __str__(self) -> str:
        if not self.resolvable:
            return "not resolvable"
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"


def ratio(a: Sequence[float], b: Sequence[float], *, confidence: float = 0.95) -> Ratio:
    """How a's time compares with b's. Says nothing of the noise between runs."""
    n = min(len(a), len(b))
    if n == 0:
        raise UserError("no samples to compare")
    value = float(np.median(a) / np.median(b))
    if n == 1:
        return Ratio(value, 0.0, float("inf"), n)

    def statistic(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        return np.median(a, axis=axis) / np.median(b, axis=axis)

    interval = stats.bootstrap(
        (a, b), statistic, n_resamples=2000, confidence_level=confidence,
        method="percentile", rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return Ratio(value, float(interval.low), float(interval.high), n)


def resolvable(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether two sample sets differ beyond noise; False is 'not resolvable'."""
    return ratio(a, b).resolvable


def timer_overhead_ms() -> float:
    """What an empty call measures: the part of every sample that is the timer's own."""
    return Summary.of([_cpu_turn(lambda: None)[0] for _ in range(1000)]).median


def overhead_frac(samples: Mapping[str, Sequence[float]]) -> float:
    """Share of the smallest reported time that is the timer's; above ``OVERHEAD_LIMIT`` flag it."""
    return timer_overhead_ms() / min(Summary.of(taken).median for taken in samples.values())
