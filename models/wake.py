"""Maps that start at zero, drawn."""

import torch
from torch import nn


@torch.no_grad()
def wake(module: nn.Module) -> None:
    """Draws every matrix of zeros: behind a map that starts at zero any check would hold, and every
    input gives the same output."""
    for parameter in module.parameters():
        if parameter.ndim > 1 and not parameter.any():
            parameter.normal_(std=parameter.shape[-1] ** -0.5)
