"""What every Triton backend shares: where it runs, its configurations, and what to compile of it.

Kernels of an op stand in ``kernels/<op>/triton_kernels.py``; ``kernels/<op>/triton_.py`` launches
them. With ``TRITON_INTERPRET=1``, set before the first import of triton, they run on CPU tensors,
slowly: one mode a process.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch

# a tensor's dtype as in a table -> as in a Triton signature
DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


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

    def variants(
        self,
        dtype: str,
        constants: Mapping[str, Any],
        kind: Callable[[str], str],
        *,
        name: str | None = None,
    ) -> "Iterator[Variant]":
        """What to compile: the first three configurations.

        Args:
            dtype: of the caller's tensors, as in a table: ``float16``.
            constants: of the kernel, beside those of a configuration; others are left out.
            kind: Triton's type of an argument that is no constant; ``*`` is a tensor of ``dtype``.
            name: of the kernel with what it is specialised for; None: its own.
        """
        for place, config in enumerate(self.configs[:3]):
            known = {**constants, **config.kwargs}
            own = {key: value for key, value in known.items() if key in self.fn.arg_names}
            signature = {}
            for argument in self.fn.arg_names:
                found = "constexpr" if argument in own else kind(argument)
                signature[argument] = f"*{DTYPES[dtype]}" if found == "*" else found
            label = [f"{key}{value}" for key, value in config.kwargs.items()]
            yield Variant(
                name or self.fn.__name__, self.fn, signature, own, dtype,
                "-".join([*label, f"w{config.num_warps}"]), config.num_warps, config.num_stages,
                place == 0,
            )  # fmt: skip


def pointer_kind(inputs: str = "", fp64: str = "") -> Callable[[str], str]:
    """Kinds of arguments where a tensor's name ends in ``_ptr``: those named in ``inputs`` are the
    caller's, those in ``fp64`` double precision, the others fp32; what is no tensor is i32."""
    kinds = dict.fromkeys(inputs.split(), "*") | dict.fromkeys(fp64.split(), "*fp64")

    def kind(argument: str) -> str:
        stem = argument.removesuffix("_ptr")
        return "i32" if stem == argument else kinds.get(stem, "*fp32")

    return kind


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
