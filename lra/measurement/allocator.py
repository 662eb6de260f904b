"""The CPU allocator's own peak: the second opinion on the tracked one, scratch inside ops included.

From the events of autograd's legacy profiler, which cost little and repeat to the byte. They do not
exist under fake tensors, so the tracked peak stays the column that can be predicted.
"""

from collections.abc import Callable

from torch.autograd import (
    ProfilerConfig,
    ProfilerState,
    _disable_profiler_legacy,
    _enable_profiler_legacy,
)
from torch.profiler import _ExperimentalConfig

from lra.measurement.memory import MIB, tensors_in


def allocator_peak_mib(function: Callable[[], object], *held: object) -> float:
    """Peak of one call, as ``peak_memory_mib`` takes it.

    Args:
        function: frees nothing that it did not allocate (gradients are None before it).
        held: modules, optimisers, batches, tensors that exist before and are part of the figure.
    """
    storages = [tensor.untyped_storage() for tensor in tensors_in(held)]
    now = peak = sum({storage._cdata: storage.nbytes() for storage in storages}.values())
    _enable_profiler_legacy(
        ProfilerConfig(ProfilerState.CPU, False, True, False, False, False, _ExperimentalConfig())
    )
    try:
        function()
    finally:
        records = [record for thread in _disable_profiler_legacy() for record in thread]
    start = next(record for record in records if record.name() == "__start_profile")
    events = [record for record in records if record.kind() == "memory_alloc"]
    for event in sorted(events, key=start.cpu_elapsed_us):
        now += event.cpu_memory_usage()
        peak = max(peak, now)
    return peak / MIB
