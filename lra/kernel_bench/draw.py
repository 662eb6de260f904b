"""Inputs of an op at one shape: drawn once from a seed, the same values on every device."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kernels.errors import Unsupported


@dataclass(frozen=True, kw_only=True)
class Case:
    """One op at one shape, variant and dtype: what all its backends are compared on.

    Attributes:
        variant: options of the function that makes the inputs.
    """

    op: str
    variant: Mapping[str, Any]
    dtype: str
    batch: int
    heads: int
    length: int
    head_dim: int

    @property
    def options(self) -> str:
        """The variant in words; what is false is not said."""
        return " ".join(
            name if value is True else f"{name}={str(value).replace(' ', '')}"
            for name, value in self.variant.items()
            if value not in (False, None)
        )

    def __str__(self) -> str:
        return " ".join(filter(None, [f"N={self.length}", self.dtype, self.options]))


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Arguments of one call.

    Attributes:
        tensors: arguments by name; those that are floating or complex get a gradient.
        options: other arguments by name.
        constants: names of tensors that get no gradient.
        causal, window, key_length: for the row; the length of the queries if there are no keys.
        gflop: 1e9 operations that a pass cannot do without, by pass, where there is a formula.
    """

    tensors: Mapping[str, Tensor]
    options: Mapping[str, Any] = field(default_factory=dict)
    constants: tuple[str, ...] = ()
    causal: bool = False
    window: tuple[int, int] | None = None
    key_length: int | None = None
    gflop: Mapping[str, float] | None = None

    @property
    def wanted(self) -> list[str]:
        """Names of the tensors that get a gradient."""
        return [
            name for name, x in self.tensors.items()
            if name not in self.constants and (x.is_floating_point() or x.is_complex())
        ]  # fmt: skip


class Draw:
    """Random tensors of a case, on its device.

    Args:
        case: gives the sizes and the dtype.
        device: where the tensors go; they are drawn on the CPU.
        seed: another one gives other values.
    """

    def __init__(self, case: Case, device: torch.device, seed: int):
        self.case, self.device = case, device
        self.dtype: torch.dtype = getattr(torch, case.dtype)
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def channels(self) -> int:
        """Width of all heads."""
        return self.case.heads * self.case.head_dim

    @property
    def heads_first(self) -> tuple[int, int, int, int]:
        """(B, H, N, K)."""
        return (self.case.batch, self.case.heads, self.case.length, self.case.head_dim)

    def normal(self, *shape: int, scale: float = 1.0, wide: bool = False) -> Tensor:
        """Normal values; ``wide`` keeps parameters in fp32 whatever the case's dtype."""
        return self.put(torch.randn(shape, generator=self._generator) * scale, wide=wide)

    def uniform(self, low: float, high: float, *shape: int, wide: bool = False) -> Tensor:
        """Values between ``low`` and ``high``."""
        x = torch.rand(shape, generator=self._generator)
        return self.put(low + (high - low) * x, wide=wide)

    def complex_normal(self, *shape: int) -> Tensor:
        """Complex values with normal parts.

        Raises:
            Unsupported: the case wants half precision.
        """
        if self.dtype != torch.float32:
            raise Unsupported("complex numbers have no half precision: op.dtypes=[float32]")
        return torch.complex(self.normal(*shape, wide=True), self.normal(*shape, wide=True))

    def put(self, x: Tensor, *, wide: bool = False) -> Tensor:
        """A tensor on the case's device and in its dtype (integers and complex stay what they are);
        ``wide`` leaves the dtype."""
        keep = wide or not x.is_floating_point()
        return x.to(self.device) if keep else x.to(self.device, self.dtype)
