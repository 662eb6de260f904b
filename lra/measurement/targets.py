"""Whether the ops on a CPU are as fast as they are meant to be, beside fused attention.

``python -m lra.measurement.targets`` runs forward and backward of each op and of SDPA, by turns in
one process, at 4,096 positions, and shows how many times faster than SDPA each is, with a bootstrap
interval of the ratio of medians. The targets are meant for two cores. Exit code 1: one is missed.
Whether the ops are right, their tests and ``task=kernels`` say.
"""

import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from lra.app import set_up_logging
from lra.freed_memory import keep_freed_memory
from lra.kernel_bench.call import Call
from lra.kernel_bench.draw import Case, Draw, Inputs
from lra.kernel_bench.inputs.attention import attention
from lra.kernel_bench.inputs.convolutions import long_conv
from lra.kernel_bench.inputs.linear import linear_attention
from lra.kernel_bench.inputs.scans import selective_scan
from lra.measurement.lock import DeviceLock
from lra.measurement.timing import Ratio, Samples, Summary, ratio, sample_ms
from lra.results.fingerprint import fingerprint

log = logging.getLogger("lra.targets")
LENGTH, ROUNDS = 4096, 21
HEADER = f"{'op':40}{'ms':>8}{'asked':>34}{'measured':>12}  95 % interval"


@dataclass(frozen=True)
class Timed:
    """A call to time: the maker of its inputs, named like its op, and the options of both."""

    make: Callable[..., Inputs]
    options: Mapping[str, Any]
    backend: str = "auto"

    def __str__(self) -> str:
        name = self.make.__name__ if self.backend == "auto" else self.backend
        return " ".join([name, *(f"{key}={value}" for key, value in self.options.items())])

    def call(self, length: int) -> Callable[[], object]:
        """Forward and backward of 2 examples with 2 heads of 64, or 128 channels."""
        op = self.make.__name__
        case = Case(
            op=op, variant=self.options, dtype="float32", batch=2, heads=2, length=length,
            head_dim=64,
        )  # fmt: skip
        inputs = self.make(Draw(case, torch.device("cpu"), 0), **self.options)
        call = Call(getattr(import_module(f"kernels.{op}"), op), inputs)
        return lambda: call.run(self.backend, "forward_backward")


SDPA = Timed(attention, {}, "sdpa")
CAUSAL_SDPA = Timed(attention, {"causal": True}, "sdpa")


@dataclass(frozen=True)
class Target:
    """At least ``asked`` times faster than the rival; without one at most so many milliseconds."""

    ours: Timed
    asked: float
    rival: Timed | None = SDPA

    def judge(self, samples: Samples) -> tuple[Ratio, bool]:
        """How many times faster, or how many milliseconds, and whether that will do."""
        ours = samples[str(self.ours)]
        if self.rival is None:
            found = ratio(ours, [1.0] * len(ours))
            return found, found.value <= self.asked
        found = ratio(samples[str(self.rival)], ours)
        return found, found.value >= self.asked

    def line(self, samples: Samples) -> str:
        """Of the table."""
        found, met = self.judge(samples)
        asked = "at most" if self.rival is None else f"faster than {self.rival}"
        unit = " ms" if self.rival is None else "x"
        interval = f"{found.low:.1f} to {found.high:.1f}"
        return (
            f"{self.ours!s:40}{Summary.of(samples[str(self.ours)]).median:>8.1f}"
            f"{f'{asked} {self.asked:g}{unit}':>34}{f'{found.value:.1f}{unit}':>12}"
            f"  {interval:18}{'' if met else 'MISSED'}"
        )


TARGETS = (
    Target(Timed(linear_attention, {}), 20),
    Target(Timed(linear_attention, {"causal": True, "decay": "head"}), 7, CAUSAL_SDPA),
    Target(Timed(attention, {"window": [64, 64]}), 12),
    Target(Timed(long_conv, {}), 12),
    Target(Timed(selective_scan, {"states": 16}), 500, None),
)


def measure(length: int, rounds: int) -> Samples:
    """Milliseconds of a call of each op and each rival, by turns."""
    wanted = [one for target in TARGETS for one in (target.ours, target.rival) if one is not None]
    functions = {str(one): one.call(length) for one in wanted}
    with DeviceLock("cpu").exclusive():
        return sample_ms(functions, device="cpu", warmup=2, min_samples=rounds, max_samples=rounds)


def main() -> int:
    """Shows the table."""
    set_up_logging()
    samples = measure(LENGTH, ROUNDS)
    log.info("%s, %d threads", fingerprint("cpu").device, torch.get_num_threads())
    log.info("%s", HEADER)
    for rival in (SDPA, CAUSAL_SDPA):
        log.info("%s", f"{rival!s:40}{Summary.of(samples[str(rival)]).median:>8.1f}")
    for target in TARGETS:
        log.info("%s", target.line(samples))
    return 0 if all(target.judge(samples)[1] for target in TARGETS) else 1


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
