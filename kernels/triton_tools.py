"""What every Triton backend shares: where it runs, its configurations, and what to compile of it.

Kernels of an op stand in ``kernels/<op>/triton_kernels.py``; ``kernels/<op>/triton_.py`` launches
them. With ``TRITON_INTERPRET=1``, set before the first import of triton, they run on CPU tensors,
slowly: one mode a process.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch


def interpreted() -> bool:
    """Whether this process emulates Triton on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def available() -> str | None:
    """Why no Triton kernel runs here, or None."""
    if find_spec("triton") is None:
        return "triton is not installed (extra `gpu`)"
    if not interpreted() and not torch.cuda.is_available():
        return "it needs a GPU (TRITON_INTERPRET=1 emulates one, slowly)"
    return None


def supports_device(x: torch.Tensor) -> str | None:
    """Why a tensor's device does not suit, or None."""
    if x.device.type == "cpu" and not interpreted():
        return "its tensors must be on a GPU"
    if x.dtype in (torch.float64, torch.complex128):
        return "it has no fp64"
    return None


@dataclass(frozen=True)
class Tuned:
    """A jitted kernel with its configurations, the default one first.

    ``tuned[grid](*args, **constants)`` launches the fastest on a GPU, as ``triton.autotune`` finds
    it for each value of ``key``, and the default one in the interpreter, which has no clock.

    Args:
        fn: the kernel.
        configs: constants, warps and stages that it may run with.
        key: names of the arguments that may change which is fastest.
    """

    fn: Any
    configs: Sequence[Any]
    key: Sequence[str]
    _tuner: list[Any] = field(default_factory=list)

    def __getitem__(self, grid: Any) -> Any:
        if interpreted():
            constants = self.configs[0].kwargs

            def launch(*args: Any, **kwargs: Any) -> Any:
                size = grid({**constants, **kwargs}) if callable(grid) else grid
                return self.fn[size](*args, **kwargs, **constants)

            return launch
        if not self._tuner:
            import triton

            self._tuner.append(triton.autotune(list(self.configs), list(self.key))(self.fn))
        return self._tuner[0][grid]


@dataclass(frozen=True)
class Variant:
    """One specialisation of a kernel, for the compile gate. ``triton_kernels.variants()`` of an op
    yields them: those of ``configs[0]`` are ``default``, at most two more configurations follow.

    Attributes:
        kernel: its name.
        fn: the jitted function.
        signature: type of each argument: ``*fp16``, ``fp32``, ``i32``, ``constexpr``.
        constants: value of each ``constexpr``.
        dtype: of the tensors, as in a table: ``float16``.
        config: short name of the configuration.
        warps, stages: as in ``triton.Config``.
        default: whether a spill or an overflow fails the gate.
    """

    kernel: str
    fn: Any
    signature: Mapping[str, str]
    constants: Mapping[str, Any]
    dtype: str
    config: str
    warps: int
    stages: int
    default: bool
