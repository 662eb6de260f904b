"""Keys and values of a sequence that is decoded token by token."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

# slots of the smallest memory
FIRST = 16


class Slots:
    """Memory for more keys and values than there are, so that a new one is written, not copied
    with all before it. Shared by the successive states of one sequence."""

    def __init__(self, keys: Tensor, values: Tensor):
        self.keys, self.values = keys, values

    def write(self, at: int, k: Tensor, v: Tensor, *, most: int | None) -> None:
        """One more token into slot ``at``; the memory doubles, up to ``most`` slots, if need be."""
        if at >= self.keys.shape[2]:
            size = max(2 * self.keys.shape[2], FIRST)
            size = size if most is None else min(size, most)
            self.keys, self.values = (
                _grown(old, new, size) for old, new in ((self.keys, k), (self.values, v))
            )
        self.keys[:, :, at] = k[:, :, 0].detach()
        self.values[:, :, at] = v[:, :, 0].detach()


def _grown(old: Tensor, new: Tensor, size: int) -> Tensor:
    """``old`` at the beginning of a memory of ``size`` slots, of the kind of ``new``."""
    grown = new.new_empty(*new.shape[:2], size, new.shape[3])
    grown[:, :, : old.shape[2]] = old.detach()
    return grown


@dataclass
class KeyValueCache:
    """Keys and values so far, ``(B, H, n, K)``; with a ``limit`` of the last so many tokens, in a
    ring: token t lies in slot t mod ``limit``. They are kept without their gradients.

    ``append`` may be called again on the same state, as a benchmark does: the results share their
    memory, in which the later token takes the place of the earlier one.
    """

    keys: Float[Tensor, "B H n K"]
    values: Float[Tensor, "B H n V"]
    limit: int | None = None

    def __post_init__(self) -> None:
        self.count, self.slots = self.keys.shape[2], Slots(self.keys, self.values)

    def append(self, k: Float[Tensor, "B H 1 K"], v: Float[Tensor, "B H 1 V"]) -> "KeyValueCache":
        """The state after one more token."""
        slot = self.count if self.limit is None else self.count % self.limit
        self.slots.write(slot, k, v, most=self.limit)
        held = slice(self.count + 1 if self.limit is None else min(self.count + 1, self.limit))
        after = KeyValueCache(
            self.slots.keys[:, :, held], self.slots.values[:, :, held], self.limit
        )
        after.count, after.slots = self.count + 1, self.slots
        return after

    def ages(self) -> Int64[Tensor, " n"]:
        """How many tokens came after that of each slot."""
        ages = self.count - 1 - torch.arange(self.keys.shape[2], device=self.keys.device)
        return ages if self.limit is None else ages % self.limit
