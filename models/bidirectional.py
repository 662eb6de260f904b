"""Both directions for a causal-only mixer: two sets of parameters, the second reading the sequence
flipped inside its true length; the two results are summed."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from models.mixer import Mixer
from models.padding import flip_inside


class TwoWay(Mixer):
    """Wraps a causal mixer so that every position sees both sides.

    Args:
        make: makes one causal mixer; called twice.
    """

    def __init__(self, make: Callable[[], Mixer]):
        forward, backward = make(), make()
        self.card = replace(  # type: ignore[misc]  # this instance's own card
            forward.card, bidirectional=True, causality="no", recurrent=False, cross=False
        )
        super().__init__(
            forward.dim, heads=forward.heads, max_len=forward.max_len, causal=False,
            layer=forward.layer, depth=forward.depth, dropout=forward.dropout,
            qkv_dim=forward.qkv_dim, grid=forward.grid,
        )  # fmt: skip
        self.left, self.right = forward, backward

    def use_rotary(self) -> None:
        self.left.use_rotary()
        self.right.use_rotary()

    def use_alibi(self) -> None:
        self.left.use_alibi()
        self.right.use_alibi()

    def dense_at(self, n: int) -> bool:
        return self.left.dense_at(n)

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B N"] | None = None,
        *,
        context: Any = None,
        context_mask: Any = None,
    ) -> Float[Tensor, "B N D"]:
        self.check(x, mask, context)
        flipped_mask = None if mask is None else flip_inside(mask[..., None], mask)[..., 0]
        backward = self.right(flip_inside(x, mask), flipped_mask)
        return self.left(x, mask) + flip_inside(backward, mask)
