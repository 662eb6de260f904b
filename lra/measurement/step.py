"""A training step taken apart, so that its parts can be timed and run on copies."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode


def whole(batch: Any) -> Iterable[Any]:
    """No accumulation: the batch is its only part."""
    return (batch,)


@dataclass(frozen=True)
class StepFns:
    """Forward, forward+backward and full step of a model.

    Attributes:
        model: a bare module (not wrapped for devices or processes).
        optimizer: of its parameters; None where the full step has no update.
        loss: (model, batch) -> scalar, under autocast if training is.
        split: the parts of a batch whose gradients accumulate before one update.
        clip_norm: largest norm of all gradients together, or None.
        after: called with the model after each update.
    """

    model: nn.Module
    optimizer: Optimizer | None
    loss: Callable[[Any, Any], Tensor]
    split: Callable[[Any], Iterable[Any]] = whole
    clip_norm: float | None = None
    after: Callable[[Any], object] = lambda model: None

    def forward(self, batch: Any) -> None:
        """No graph; the mode (train or eval) is the model's."""
        with torch.no_grad():
            for part in self.split(batch):
                self.loss(self.model, part)

    def forward_backward(self, batch: Any) -> None:
        """Gradients from None to new ones."""
        self.model.zero_grad(set_to_none=True)
        for part in self.split(batch):
            self.loss(self.model, part).backward()

    def full_step(self, batch: Any) -> None:
        """Forward, backward, clip, update."""
        self.forward_backward(batch)
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        if self.optimizer is not None:
            self.optimizer.step()
        self.after(self.model)

    def copied(self) -> Self:
        """On copies of model and optimiser: running it changes nothing of this one."""
        model, optimizer = _copy((self.model, self.optimizer), _Detached())
        return replace(self, model=model, optimizer=optimizer)

    def faked(self, mode: FakeTensorMode, batch: Any) -> tuple[Self, Any]:
        """It and a batch on fake copies, the optimiser's state in place; called under ``mode``."""
        model, optimizer, batch = _copy((self.model, self.optimizer, batch), FakeCopyMode(mode))
        if optimizer is not None:
            # made anew: it reads the number of steps out of a tensor, which only its maker can
            optimizer.state.clear()
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
        model.zero_grad(set_to_none=True)
        return replace(self, model=model, optimizer=optimizer), batch


def _copy(objects: Any, mode: TorchFunctionMode) -> Any:
    with mode:
        return copy.deepcopy(objects)


class _Detached(TorchFunctionMode):
    """Lets ``deepcopy`` copy what a module keeps of its last forward, without the graph."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            args = (args[0].detach(), args[1])
        return func(*args, **(kwargs or {}))
