"""The mixer: the one part of a model that moves information along the sequence.

Legend: B batch, N length, D width, H heads, K/V head widths. Head-first ``(B, H, N, K)``.
Masks are ``(B, N)`` bool, True = real token.
"""

from typing import Any, ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn

from kernels.errors import Unsupported
from models.alibi import alibi_slopes
from models.card import Card


class Mixer(nn.Module):
    """Base of every mixer: the standard constructor, the checks that all share, the optional parts.

    A subclass writes ``forward`` (free form) or inherits from ``QKVMixer`` and writes ``attend``.
    Its own knobs are keyword arguments after the standard ones, with the same names as the keys of
    its file in ``conf/mixer``.

    Args:
        dim: width D of input and output.
        heads: number of heads H.
        max_len: longest sequence it will see; sizes length-bound parameters.
        causal: position i sees positions <= i only.
        layer, depth: index of this layer and number of layers, for patterns that change by layer.
        dropout: on attention weights where they exist, else on the mixed features.
        qkv_dim: total width of queries, keys and values; ``dim`` if None.
        grid: (rows, cols) of a 2-D input flattened row by row.

    Attributes:
        positions: which positions act inside it: ``rope`` turns queries and keys, ``alibi``
            biases the scores ``(H,)`` slopes x distance, by whoever computes them. Others are
            refused, also where the method has queries, keys or scores that could take them.

    Raises:
        Unsupported: the card says that it cannot be causal, or cannot be bidirectional.
    """

    card: ClassVar[Card]
    positions: ClassVar[tuple[str, ...]] = ()
    alibi: Tensor | None

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        max_len: int,
        causal: bool,
        layer: int = 0,
        depth: int = 1,
        dropout: float = 0.0,
        qkv_dim: int | None = None,
        grid: tuple[int, int] | None = None,
    ):
        super().__init__()
        name = type(self).__name__
        if causal and self.card.causality == "no":
            raise Unsupported(f"{name} cannot be causal; choose a task that is not")
        if not causal and not self.card.bidirectional:
            raise Unsupported(f"{name} is causal only; build it with causal=true")
        if dim < 1 or heads < 1 or max_len < 1:
            raise ValueError(f"{name}: dim, heads and max_len must be at least 1")
        if (qkv_dim or dim) % heads:
            raise ValueError(
                f"{name}: heads={heads} must divide {qkv_dim or dim}, the width of all heads"
            )
        self.dim, self.heads, self.max_len, self.causal = dim, heads, max_len, causal
        self.layer, self.depth, self.dropout = layer, depth, dropout
        self.qkv_dim, self.grid = qkv_dim or dim, grid
        self.register_buffer("alibi", None, persistent=False)

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B N"] | None = None,
        *,
        context: Float[Tensor, "B M D"] | None = None,
        context_mask: Bool[Tensor, "B M"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        """Mixes x along N; keys and values come from ``context`` if given (``card.cross``).

        What it returns at padded positions is finite and means nothing.
        """
        raise NotImplementedError

    def check(self, x: Tensor, mask: Tensor | None, context: Tensor | None = None) -> None:
        """The errors that every forward owes its user."""
        name = type(self).__name__
        if x.ndim != 3 or x.shape[-1] != self.dim:
            raise ValueError(f"{name}: x must be (B, N, {self.dim}), got {tuple(x.shape)}")
        if mask is not None and mask.shape != x.shape[:2]:
            raise ValueError(
                f"{name}: mask must be (B, N) = {tuple(x.shape[:2])}, got {tuple(mask.shape)}"
            )
        if self.card.length_bound and x.shape[1] > self.max_len:
            raise Unsupported(
                f"{name} was built for at most {self.max_len} positions, got {x.shape[1]}: "
                f"its {', '.join(self.card.length_bound)} fix the length; train it at that length"
            )
        if context is not None and not self.card.cross:
            raise Unsupported(f"{name} cannot take keys and values from another sequence")

    # -- optional parts ----------------------------------------------------------------------

    def reference_matrix(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The N x N matrix that this mixer applies, ``(B, H, N, N)``, where one exists."""
        raise Unsupported(f"{type(self).__name__} has no N x N matrix")

    def dense_at(self, n: int) -> bool:
        """True where the knobs make it plain dense attention at length n."""
        return False

    def init_state(self, batch: int) -> Any:
        """The state before the first token, for ``step``."""
        raise Unsupported(f"{type(self).__name__} does not decode step by step")

    def step(self, x_t: Float[Tensor, "B D"], state: Any) -> tuple[Float[Tensor, "B D"], Any]:
        """One token in, one out, with the next state; equals ``forward`` when causal."""
        raise Unsupported(f"{type(self).__name__} does not decode step by step")

    def use_rotary(self) -> None:
        """Switches rotary positions on."""
        raise self._takes_no("rotary positions")

    def use_alibi(self) -> None:
        """Switches ALiBi's penalty on distances on."""
        if "alibi" not in self.positions:
            raise self._takes_no("ALiBi")
        self.alibi = alibi_slopes(self.heads)

    def _takes_no(self, what: str) -> Unsupported:
        taken = ", ".join([*self.positions, "sinusoidal", "learned"])
        name = type(self).__name__
        return Unsupported(f"{name} takes no {what}: its recipe.positions are {taken} or none")

    def aux_loss(self) -> Tensor | None:
        """A term of its own for the training loss, from the last forward."""
        return None

    def on_step(self, step: int) -> None:
        """Called after each optimiser step of training (redrawing features, annealing)."""
