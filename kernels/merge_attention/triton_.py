"""Merged attention in Triton, forward and backward; compiled and emulated so far.

The parts are copied behind each other, and not kept so. Log-sum-exps are fp32 inside, and so is the
output that the backward pass reads. It can be differentiated once.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.merge_attention.triton_kernels import WIDEST, tuned
from kernels.triton_tools import available as available
from kernels.triton_tools import supports_device


def supports(*parts: Tensor) -> str | None:
    """Why the kernels cannot do this call, or None."""
    if parts[0].shape[-1] > WIDEST:
        return f"its rows are at most {WIDEST} wide, not {parts[0].shape[-1]}"
    return supports_device(parts[0]) or supports_device(parts[-1])


def run(*parts: Tensor) -> tuple[Tensor, Tensor]:
    return Merge.apply(*parts)


class Merge(torch.autograd.Function):
    """Outputs of the parts, then their log-sum-exps."""

    @staticmethod
    def forward(ctx: Any, *parts: Tensor) -> tuple[Tensor, Tensor]:
        outputs, lses = _stacked(parts)
        out = torch.empty_like(outputs[0], dtype=torch.float32)
        lse = torch.empty_like(lses[0])
        widths = _widths(outputs)
        tuned("forward", widths["PADDED_V"])[_grid(lse)](
            outputs, lses, out, lse, len(lses), lse.numel(), **widths
        )
        ctx.save_for_backward(*parts, out, lse)
        return out.to(parts[0].dtype), lse.to(parts[-1].dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor, d_lse: Tensor) -> tuple[Tensor, ...]:
        *parts, out, lse = ctx.saved_tensors
        outputs, lses = _stacked(parts)
        d_outputs, d_lses = torch.empty_like(outputs), torch.empty_like(lses)
        widths = _widths(outputs)
        tuned("backward", widths["PADDED_V"])[_grid(lse)](
            outputs, lses, out, lse, d_out.contiguous(), d_lse.float().contiguous(), d_outputs,
            d_lses, len(lses), lse.numel(), **widths,
        )  # fmt: skip
        return *d_outputs.unbind(), *d_lses.to(parts[-1].dtype).unbind()


def _stacked(parts: Any) -> tuple[Tensor, Tensor]:
    count = len(parts) // 2
    # stacking may keep the order of dimensions in memory
    outputs, lses = torch.stack(parts[:count]), torch.stack(parts[count:])
    return outputs.contiguous(), lses.float().contiguous()


def _grid(lse: Tensor) -> Any:
    return lambda at: (-(-lse.numel() // at["BM"]),)


def _widths(outputs: Tensor) -> dict[str, int]:
    width = outputs.shape[-1]
    return {"V": width, "PADDED_V": 1 << (width - 1).bit_length()}
