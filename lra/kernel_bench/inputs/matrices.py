"""Inputs of ops on small matrices."""

import torch

from lra.kernel_bench.draw import Draw, Inputs


def iterative_pinv(draw: Draw, *, iterations: int = 6) -> Inputs:
    """Attention among landmarks: the softmax matrices that Nystromformer inverts."""
    q, k = (draw.normal(*draw.heads_first, wide=True) for _ in range(2))
    scores = q @ k.transpose(-1, -2) * draw.case.head_dim**-0.5
    a = draw.put(torch.softmax(scores, dim=-1))
    return Inputs(tensors={"a": a}, options={"iterations": iterations})
