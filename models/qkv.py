"""Mixers made of queries, keys and values: everything but the attention itself."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn

from models.mixer import Mixer
from models.padding import zero_padding
from models.rotary import Rotary


@dataclass
class Decoding:
    """State of a decoding ``QKVMixer``: the next position and what ``attend_step`` keeps."""

    position: int
    inner: Any


class QKVMixer(Mixer):
    """Owns projections, heads, rotary positions and output; a variant writes only ``attend``.

    Projections have no bias and are Xavier-initialised, as in LRA's code.
    """

    positions: ClassVar[tuple[str, ...]] = ("rope",)

    def __init__(self, dim: int, *, heads: int, max_len: int, causal: bool, **standard: Any):
        super().__init__(dim, heads=heads, max_len=max_len, causal=causal, **standard)
        self.head_dim = self.qkv_dim // heads
        self.query = nn.Linear(dim, self.qkv_dim, bias=False)
        self.key = nn.Linear(dim, self.qkv_dim, bias=False)
        self.value = nn.Linear(dim, self.qkv_dim, bias=False)
        self.output = nn.Linear(self.qkv_dim, dim, bias=False)
        for linear in (self.query, self.key, self.value, self.output):
            nn.init.xavier_uniform_(linear.weight)
        self.rotary: Rotary | None = None

    def use_rotary(self) -> None:
        if "rope" not in self.positions:
            super().use_rotary()
        self.rotary = Rotary(self.head_dim)

    def attend(
        self,
        q: Float[Tensor, "B H N K"],
        k: Float[Tensor, "B H M K"],
        v: Float[Tensor, "B H M V"],
        mask: Bool[Tensor, "B M"] | None,
    ) -> Float[Tensor, "B H N V"]:
        """Attention itself; ``mask`` is of the keys."""
        raise NotImplementedError

    def heads_of(self, x: Float[Tensor, "B N Q"]) -> Float[Tensor, "B H N K"]:
        return x.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B N"] | None = None,
        *,
        context: Float[Tensor, "B M D"] | None = None,
        context_mask: Bool[Tensor, "B M"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        q, k, v, mask = self.project(x, mask, context, context_mask)
        y = self.attend(q, k, v, mask)
        return self.output(y.transpose(1, 2).flatten(2))

    def project(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Queries, keys, values ``(B, H, N, K)`` and the keys' mask; padding is zeroed first."""
        self.check(x, mask, context)
        x = zero_padding(x, mask)
        source, source_mask = (x, mask) if context is None else (context, context_mask)
        if context is not None:
            source = zero_padding(context, context_mask)
        q = self.heads_of(self.query(x))
        k, v = self.heads_of(self.key(source)), self.heads_of(self.value(source))
        return *self.rotated(q, k), v, source_mask

    def rotated(
        self, q: Float[Tensor, "B H N K"], k: Float[Tensor, "B H M K"]
    ) -> tuple[Float[Tensor, "B H N K"], Float[Tensor, "B H M K"]]:
        """Queries and keys with rotary positions, where those are on.

        They are turned before anything else acts on them, before a feature map too.
        """
        if self.rotary is None:
            return q, k
        # queries of a longer context sit at its end, as in causal attention with a memory
        return self.rotary(q, start=max(k.shape[2] - q.shape[2], 0)), self.rotary(k)

    # -- decoding: a variant that can gives attend_state and attend_step -----------------------

    def attend_state(self, batch: int, like: Tensor) -> Any:
        """State before the first token; ``like`` gives device and dtype."""
        return super().init_state(batch)

    def attend_step(
        self,
        q: Float[Tensor, "B H 1 K"],
        k: Float[Tensor, "B H 1 K"],
        v: Float[Tensor, "B H 1 V"],
        state: Any,
    ) -> tuple[Float[Tensor, "B H 1 V"], Any]:
        """Attention of one new token, and the next state."""
        raise NotImplementedError

    def init_state(self, batch: int) -> Decoding:
        return Decoding(0, self.attend_state(batch, self.query.weight))

    def step(
        self, x_t: Float[Tensor, "B D"], state: Decoding
    ) -> tuple[Float[Tensor, "B D"], Decoding]:
        x = x_t[:, None]
        q, k, v = (self.heads_of(f(x)) for f in (self.query, self.key, self.value))
        if self.rotary is not None:
            q, k = self.rotary(q, start=state.position), self.rotary(k, start=state.position)
        y, inner = self.attend_step(q, k, v, state.inner)
        y = self.output(y.transpose(1, 2).flatten(2))[:, 0]
        return y, replace(state, position=state.position + 1, inner=inner)
