"""The fastest that this device could be, measured beside what is compared with it: a matrix product
for operations, a copy of as many bytes for memory."""

from collections.abc import Callable

import torch

from lra.measurement.lock import DeviceLock
from lra.measurement.timing import Summary, sample_ms

SIDE = {"cpu": 1024, "cuda": 8192}  # of the matrices
TOO_FAST = 1.1  # times the roofline: more than its own noise


# what this process has measured: by device, dtype and threads
_peaks: dict[tuple[torch.device, torch.dtype, int], float] = {}


class Roofline:
    """Operations a second of a device by dtype, each measured once in a process."""

    def __init__(self, device: torch.device, lock: DeviceLock):
        self._device, self._lock = device, lock

    def tflop_per_s(self, dtype: torch.dtype) -> float:
        """The fastest fifth of square products; in fp32 on CUDA with the tensor cores, which ops
        may use as long as they are exact enough."""
        key = (self._device, dtype, torch.get_num_threads())
        if key not in _peaks:
            side = SIDE.get(self._device.type, SIDE["cpu"])
            a, b = (torch.randn(side, side, device=self._device).to(dtype) for _ in range(2))
            before = torch.get_float32_matmul_precision()
            try:
                if self._device.type == "cuda":
                    torch.set_float32_matmul_precision("high")
                with self._lock.exclusive():
                    samples = sample_ms(
                        {"matmul": lambda: a @ b}, device=self._device, budget_s=0.5
                    )
            finally:
                torch.set_float32_matmul_precision(before)
            _peaks[key] = 2 * side**3 / 1e9 / Summary.of(samples["matmul"]).p20
        return _peaks[key]


def copying(moved_bytes: int, device: torch.device) -> Callable[[], object]:
    """A copy that reads half of the bytes and writes the other half."""
    source = torch.zeros(max(moved_bytes // 2, 1), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def ideal_ms(gflop: float | None, tflop_per_s: float, copy_ms: float) -> float:
    """The least time of a call on this device: that of its operations or of its bytes."""
    return max((gflop or 0.0) / tflop_per_s, copy_ms)
