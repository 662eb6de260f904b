"""Loss and accuracy over a whole split: every row once, no batch dropped."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from lra.tasks.spec import Batch
from lra.training.batches import evaluation_rows
from lra.training.score import correct_sum, loss_sum


@dataclass(frozen=True)
class Score:
    """Mean loss in nats, accuracy in [0, 1], number of scored labels."""

    loss: float
    acc: float
    n: int


@torch.no_grad()
def evaluate(
    fabric: Fabric,
    model: nn.Module,
    fetch: Callable[[np.ndarray], Batch],
    rows: int,
    batch: int,
    at_work: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    on_batch: Callable[[], Any] = lambda: None,
) -> Score:
    """The score of ``model`` on ``rows`` rows.

    Random features and hashes are drawn from a generator of their own, the same each time: a score
    depends on the parameters alone, and training on no score.

    Args:
        model: not wrapped for processes: these may have different numbers of batches.
        fetch: makes a batch of row numbers.
        at_work: held while a batch is computed.
        on_batch: called after each batch.
    """
    sums = torch.zeros(3, dtype=torch.float64, device=fabric.device)
    each = evaluation_rows(rows, batch, rank=fabric.global_rank, world=fabric.world_size)
    with _evaluating(model, fabric.device), fabric.autocast():
        for numbers in each:
            with at_work():
                part = fetch(numbers).to(fabric.device)
                logits = model(part.x, part.mask)
                total, count = loss_sum(logits, part.y)
                sums += torch.stack([total, correct_sum(logits, part.y), count])
            on_batch()
    total, correct, count = reduce_sum(fabric, sums).tolist()
    return Score(loss=total / max(count, 1), acc=correct / max(count, 1), n=int(count))


@contextlib.contextmanager
def _evaluating(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode with its own random numbers; afterwards all is as it was."""
    was_training = model.training
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        model.eval()
        try:
            yield
        finally:
            model.train(was_training)


def reduce_sum(fabric: Fabric, value: torch.Tensor) -> torch.Tensor:
    """The sum over processes; ``value`` itself may be overwritten."""
    if fabric.world_size == 1:
        return value
    reduced = fabric.all_reduce(value, reduce_op="sum")
    assert isinstance(reduced, torch.Tensor)
    return reduced
