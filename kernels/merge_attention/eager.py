"""Merged attention in torch, part by part: nothing of the size of all parts is made.

Gradients, with weights w_p = exp(lse_p - lse): d output_p = w_p d output, and
d lse_p = w_p (d output . (output_p - output) + d lse). It can be differentiated once.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def run(*parts: Tensor) -> tuple[Tensor, Tensor]:
    return Merge.apply(*parts)


class Merge(torch.autograd.Function):
    """Outputs of the parts, then their log-sum-exps."""

    @staticmethod
    def forward(ctx: Any, *parts: Tensor) -> tuple[Tensor, Tensor]:
        count = len(parts) // 2
        outputs, lses = parts[:count], parts[count:]
        wide = torch.promote_types(outputs[0].dtype, torch.float32)
        lse = _log_sum_exp(lses)
        out = torch.zeros(outputs[0].shape, dtype=wide, device=lse.device)
        for part, part_lse in zip(outputs, lses, strict=True):
            weight, unseen = _weight(part_lse, lse)
            out += _seen(part.to(wide), unseen).mul_(weight.to(wide))
        ctx.save_for_backward(*parts, lse)
        return out.to(outputs[0].dtype), lse.to(lses[0].dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor, d_lse: Tensor) -> tuple[Tensor, ...]:
        *parts, lse = ctx.saved_tensors
        count = len(parts) // 2
        outputs, lses = parts[:count], parts[count:]
        wide = torch.promote_types(d_out.dtype, torch.float32)
        d_out = d_out.to(wide)
        d_outputs, weights, each = [], [], []
        for part, part_lse in zip(outputs, lses, strict=True):
            weight, unseen = _weight(part_lse, lse)
            each.append((_seen(part.to(wide), unseen).mul_(d_out)).sum(-1, keepdim=True))
            weight = weight.to(wide)
            d_outputs.append(_seen(d_out * weight, unseen).to(part.dtype))
            weights.append(weight)
        mean = torch.stack([w * e for w, e in zip(weights, each, strict=True)]).sum(0)
        rest = d_lse.to(wide)[..., None] - mean
        d_lses = []
        for part_lse, weight, own in zip(lses, weights, each, strict=True):
            found = ((own + rest) * weight).squeeze(-1)
            d_lses.append(found.masked_fill(part_lse == -torch.inf, 0).to(part_lse.dtype))
        return *d_outputs, *d_lses


def _log_sum_exp(lses: tuple[Tensor, ...]) -> Tensor:
    """Of the parts, in fp32 or wider; -inf where none has seen a key."""
    wide = torch.promote_types(lses[0].dtype, torch.float32)
    lse = lses[0].to(wide)
    for part in lses[1:]:
        lse = torch.logaddexp(lse, part.to(wide))
    return lse


def _weight(part: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    """Weight of a part ``(B, H, N, 1)``, and where it has seen no key."""
    unseen = (part == -torch.inf)[..., None]
    weight = torch.exp(part.to(lse.dtype) - lse)[..., None]
    return weight.masked_fill(unseen, 0), unseen


def _seen(x: Tensor, unseen: Tensor) -> Tensor:
    """A copy with zeros where the part has seen no key."""
    return x.masked_fill(unseen, 0)
