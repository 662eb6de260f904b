"""Loss and accuracy of a batch, as sums, so that parts of a batch and processes add up."""

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = -100


def loss_sum(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of cross entropies in fp32 and number of scored labels; -100 is not scored."""
    total = F.cross_entropy(
        logits.float().flatten(0, -2), y.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return total, (y != IGNORED).sum()


@torch.no_grad()
def correct_sum(logits: Tensor, y: Tensor) -> Tensor:
    """Number of labels that are the largest logit: none that is not scored, -100, is one."""
    return (logits.argmax(-1) == y).sum()
