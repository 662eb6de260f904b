"""Parameters that learn at a rate of their own."""

from torch import nn


def own_rate(
    *parameters: nn.Parameter, lr: float | None = None, lr_factor: float | None = None
) -> None:
    """No weight decay for these parameters, and a learning rate of their own, by the ``_optim``
    attribute that ``lra.training.optimiser`` reads.

    Args:
        lr: their rate; None: as all others.
        lr_factor: their rate in rates of all others, instead.
    """
    own = {"weight_decay": 0.0}
    if lr is not None:
        own["lr"] = lr
    if lr_factor is not None:
        own["lr_factor"] = lr_factor
    for parameter in parameters:
        parameter._optim = own  # type: ignore[attr-defined]
