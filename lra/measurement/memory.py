"""Peak memory of a function: measured, and predicted without allocating.

On CUDA the caching allocator knows its peak. Elsewhere a dispatch mode follows every storage that
an op returns by weak reference, so activations saved for backward, gradients and optimiser state
count as long as they live, views count once, and every repeat gives the same bytes, those of the
allocator's own peak. Under fake tensors the same mode predicts lengths that no device holds. What
it does not see is scratch that an op frees before it returns: nothing in most ops, tiles in CPU
attention, copies of strided FFT inputs, layouts in CPU convolutions (a third of a mixer's peak in a
depthwise one over two heads). ``allocator.py`` sees it.

``torch.distributed._tools.mem_tracker.MemTracker`` counts the same bytes. It is not used because it
refuses a model that is called twice and costs two to four times as much by hooking every module.
"""

import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lra.measurement.timing import collector_stopped

MIB = 2**20
CUDA_BLOCK = 512  # the caching allocator rounds up to it


def peak_memory_mib(
    function: Callable[[], object], *held: object, device: torch.device | str
) -> float:
    """Peak of one call.

    Args:
        function: what to run; what it creates to stay (optimiser state) must exist already.
        held: modules, optimisers, batches, tensors that exist before and are part of the figure.
        device: only its tensors count; what else lives there does not.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return _tracked_peak(function, held, device) / MIB
    with torch.cuda.device(device):
        others = torch.cuda.memory_allocated() - sum(_sizes(held, device).values())
        torch.cuda.reset_peak_memory_stats()
        function()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - others) / MIB


@dataclass(frozen=True)
class Prediction:
    """Predicted peak, or None with the reason."""

    mib: float | None
    reason: str | None = None


def predict_memory_mib(
    build: Callable[[FakeTensorMode], tuple[Callable[[], object], Sequence[object]]],
    *,
    device: torch.device | str,
    limit_s: float = 30.0,
) -> Prediction:
    """The same figure under fake tensors: nothing is computed or allocated.

    Tensors that a model caches outside itself (``lru_cache``) would be fake ones afterwards: run
    the real thing first.

    Args:
        build: called under the fake mode that it is given; returns the function and what is held.
        device: only its tensors count; it need not exist here.
        limit_s: gives up after so long (a loop over positions dispatches every op of every step).

    Returns:
        None with a reason where a value decides what runs or how large it is.
    """
    try:
        with warnings.catch_warnings(), FakeMode(allow_non_fake_inputs=True) as mode:
            warnings.simplefilter("ignore")  # about pointers that fake tensors do not have
            function, held = build(mode)
            deadline = time.monotonic() + limit_s
            return Prediction(_tracked_peak(function, held, torch.device(device), deadline) / MIB)
    # whatever a forward raises without values is the reason
    except Exception as error:
        return Prediction(None, reason_of(error))


def reason_of(error: Exception) -> str:
    """Kind and first line of an error, for a table cell."""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"[:200]


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on either kind of device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "not enough memory" in text or "can't allocate memory" in text or "alloc_cpu" in text
    )


class FakeMode(FakeTensorMode):
    """A module that copies its parts copies their tensors, which must stay in one mode."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "FakeMode":
        return self


class TooSlow(Exception):
    """The prediction took longer than its limit."""


class LiveBytes(TorchDispatchMode):
    """Bytes of live storages of one kind of device, now and at the peak."""

    def __init__(self, device: torch.device, deadline: float | None = None):
        super().__init__()
        self.device, self.deadline = device, deadline
        self.now = self.peak = 0
        self._live: dict[int, tuple[int, weakref.ref[torch.UntypedStorage]]] = {}

    def see(self, tensor: Tensor) -> None:
        """Follows the tensor's storage until it dies; a resized one counts anew."""
        if tensor.device.type != self.device.type or tensor.layout != torch.strided:
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, _allocated(storage.nbytes(), self.device)
        known = self._live.get(key)
        if known is None:
            self._live[key] = (size, weakref.ref(storage, lambda _: self._gone(key)))
            self.now += size
        elif known[0] != size:
            self._live[key] = (size, known[1])
            self.now += size - known[0]
        self.peak = max(self.peak, self.now)

    def _gone(self, key: int) -> None:
        self.now -= self._live.pop(key)[0]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in (out,) if isinstance(out, Tensor) else tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.see(leaf)
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise TooSlow("the prediction took longer than its limit")
        return out


def _tracked_peak(
    function: Callable[[], object],
    held: Sequence[object],
    device: torch.device,
    deadline: float | None = None,
) -> int:
    mode = LiveBytes(device, deadline)
    # a collection in the middle would make the figure depend on what ran before
    with collector_stopped(), mode:
        for tensor in tensors_in(held):
            mode.see(tensor)
        function()
    return mode.peak


def _sizes(held: Sequence[object], device: torch.device) -> dict[int, int]:
    """Bytes of each storage by its address."""
    storages = [t.untyped_storage() for t in tensors_in(held) if t.device.type == device.type]
    return {storage._cdata: _allocated(storage.nbytes(), device) for storage in storages}


def _allocated(size: int, device: torch.device) -> int:
    return -(-size // CUDA_BLOCK) * CUDA_BLOCK if device.type == "cuda" else size


def tensors_in(held: object) -> Iterator[Tensor]:
    """Every tensor of modules, optimisers, dataclasses and containers, gradients included."""
    if isinstance(held, Tensor):
        yield held
        if held.is_leaf and held.grad is not None:
            yield held.grad
    elif isinstance(held, nn.Module):
        yield from tensors_in([*held.parameters(), *held.buffers()])
    elif isinstance(held, Optimizer):
        yield from tensors_in([list(state.values()) for state in held.state.values()])
    elif isinstance(held, Mapping):
        yield from tensors_in(list(held.values()))
    elif isinstance(held, (list, tuple, set)):
        for part in held:
            yield from tensors_in(part)
    elif is_dataclass(held):
        yield from tensors_in([getattr(held, field.name) for field in fields(held)])
