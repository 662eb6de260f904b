"""What a training step of a model costs on this device: time, memory, FLOPs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import cycle
from typing import Any, TypeVar

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from kernels.flops import count_flops
from lra.measurement.allocator import allocator_peak_mib
from lra.measurement.lock import DeviceLock
from lra.measurement.memory import peak_memory_mib, predict_memory_mib, reason_of
from lra.measurement.step import StepFns
from lra.measurement.timing import OVERHEAD_LIMIT, Summary, overhead_frac, sample_ms

T = TypeVar("T")
SCRATCH_LIMIT = 0.05  # share of the tracked peak beyond which scratch is noted
BATCHES = 4  # different inputs that the samples take in turn


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The measured columns of ``runs.csv``, and what lies behind them.

    Attributes:
        forward_ms: inference: eval mode, no graph. The other two are training.
        peak_mem_mib, pred_mem_mib, step_gflop, flop_coverage: of a full step; None: see ``notes``.
        passes: ``forward``, ``forward_backward`` and ``step`` with quantiles.
        notes: what is missing or doubtful, and why.
    """

    forward_ms: float
    forward_backward_ms: float
    step_ms: float
    step_ms_cv: float
    steps_per_s: float
    tokens_per_s: float
    peak_mem_mib: float | None
    pred_mem_mib: float | None
    step_gflop: float | None
    flop_coverage: float | None
    passes: Mapping[str, Summary] = field(metadata={"column": False})
    notes: tuple[str, ...] = field(metadata={"column": False})

    def columns(self) -> dict[str, float | None]:
        """Column name -> value, for ``RunRow``."""
        own = [f.name for f in fields(self) if f.metadata.get("column", True)]
        return {name: getattr(self, name) for name in own}


def measure(
    step: StepFns,
    batches: Callable[[], Any],
    *,
    tokens: int,
    device: torch.device | str,
    budget_s: float = 2.0,
    warmup: int = 2,
    min_samples: int = 5,
    max_samples: int = 100,
) -> Measured:
    """Times the passes with the device to itself, then tracks memory and counts FLOPs.

    Model, optimiser and random state are afterwards as they were: everything runs on copies.

    Args:
        step: the training step.
        batches: gives a fresh batch on the device at each call, all of one shape.
        tokens: padded positions of a batch.
        budget_s: of the timing, beyond its ``warmup`` and ``min_samples``.
    """
    device, lock = torch.device(device), DeviceLock(device)
    with torch.random.fork_rng(devices=_cuda_index(device)):
        copied, inputs = step.copied(), [batches() for _ in range(BATCHES)]
        with lock.exclusive():
            samples = sample_ms(
                _passes(copied, inputs), device=device, warmup=warmup, budget_s=budget_s,
                min_samples=min_samples, max_samples=max_samples,
                setup=lambda name: copied.model.train(name != "forward"),
            )  # fmt: skip
        copied.model.train()
        counted, notes = _counted(copied, inputs[0], device, lock)
    lock.close()
    if (share := overhead_frac(samples)) > OVERHEAD_LIMIT:
        notes.append(f"the timer takes {share:.1%} of the smallest time")
    passes = {name: Summary.of(taken) for name, taken in samples.items()}
    full = passes["step"]
    return Measured(
        forward_ms=passes["forward"].median,
        forward_backward_ms=passes["forward_backward"].median,
        step_ms=full.median, step_ms_cv=full.cv, steps_per_s=1e3 / full.median,
        tokens_per_s=tokens * 1e3 / full.median, **counted, passes=passes, notes=tuple(notes),
    )  # fmt: skip


def _counted(
    step: StepFns, batch: Any, device: torch.device, lock: DeviceLock
) -> tuple[dict[str, float | None], list[str]]:
    """What needs no clock, and notes. Shares the lock: it is work that others must not measure."""
    notes: list[str] = []
    with lock.shared():
        flops = _or_note(notes, "FLOPs", lambda: count_flops(lambda: step.full_step(batch)))
    with lock.shared():
        peak = _or_note(notes, "memory", lambda: _peak_mib(step, batch, device, notes))
    with lock.shared():
        predicted = predict_memory_mib(lambda mode: _faked(step, mode, batch), device=device)
    if predicted.reason is not None:
        notes.append(f"no predicted memory: {predicted.reason}")
    if flops is not None and flops.unknown:
        notes.append(f"no FLOP formula: {', '.join(flops.unknown)}")
    columns = {
        "peak_mem_mib": peak, "pred_mem_mib": predicted.mib,
        "step_gflop": None if flops is None else flops.total_gflop,
        "flop_coverage": None if flops is None else flops.coverage,
    }  # fmt: skip
    return columns, notes


def _passes(step: StepFns, inputs: Sequence[Any]) -> dict[str, Callable[[], None]]:
    """Each pass as a function that takes the next input at each call."""

    def turning(run: Callable[[Any], None]) -> Callable[[], None]:
        turns = cycle(inputs)
        return lambda: run(next(turns))

    return {
        "forward": turning(step.forward),
        "forward_backward": turning(step.forward_backward),
        "step": turning(step.full_step),
    }


def _peak_mib(step: StepFns, batch: Any, device: torch.device, notes: list[str]) -> float:
    """Tracked; a note says where the allocator's own peak is another one."""
    held = (step.model, step.optimizer, batch)

    def run() -> None:
        step.full_step(batch)

    step.model.zero_grad(set_to_none=True)
    peak = peak_memory_mib(run, *held, device=device)
    if device.type == "cpu":
        step.model.zero_grad(set_to_none=True)
        allocated = allocator_peak_mib(run, *held)
        if abs(allocated / peak - 1) > SCRATCH_LIMIT:
            notes.append(f"with scratch inside ops the peak is {allocated:.4g} MiB")
    return peak


def _faked(
    step: StepFns, mode: FakeTensorMode, batch: Any
) -> tuple[Callable[[], None], Sequence[object]]:
    fake, fake_batch = step.faked(mode, batch)
    held = (fake.model, fake.optimizer, fake_batch)
    return lambda: fake.full_step(fake_batch), held


def _or_note(notes: list[str], what: str, function: Callable[[], T]) -> T | None:
    """The result, or None and a note: ops that no dispatch mode can watch raise under one."""
    try:
        return function()
    except Exception as error:
        notes.append(f"no {what}: {reason_of(error)}")
        return None


def _cuda_index(device: torch.device) -> list[int]:
    """Devices whose random state is restored beside the CPU's."""
    if device.type != "cuda":
        return []
    return [torch.cuda.current_device() if device.index is None else device.index]
