"""The block: one layer of an encoder. By default a mixer and a feed-forward network, each on a
residual branch; a system that replaces the whole layer, or hands a second sequence from layer to
layer, is a block of its own."""

from collections.abc import Callable
from typing import Any, ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn

from kernels.errors import Unsupported
from models.card import Card
from models.mixer import Mixer
from models.spec import LayerSpec

# makes the mixer of a layer; a block may ask for another width, length or direction
MakeMixer = Callable[[LayerSpec], Mixer]


class Block(nn.Module):
    """Base of every block.

    Args:
        spec: sizes and switches of this layer.
        make_mixer: makes a mixer for a ``LayerSpec``; a block that replaces the mixer ignores it.

    Attributes:
        card: None where the mixer's card says everything.
        cross: ``forward`` also takes ``context`` and ``context_mask`` and hands them to its mixer.
    """

    card: ClassVar[Card | None] = None
    cross: ClassVar[bool] = False

    def __init__(self, spec: LayerSpec, make_mixer: MakeMixer):
        super().__init__()
        self.spec = spec

    def forward(
        self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None, carry: Any = None
    ) -> tuple[Float[Tensor, "B N D"], Any]:
        """x of the next layer, and what the next block of the same kind gets as ``carry``."""
        raise NotImplementedError

    def init_state(self, batch: int) -> Any:
        """The state before the first token, for ``step``."""
        raise Unsupported(f"{type(self).__name__} does not decode step by step")

    def step(self, x_t: Float[Tensor, "B D"], state: Any) -> tuple[Float[Tensor, "B D"], Any]:
        """One token in, one out, with the next state; equals ``forward`` when causal."""
        raise Unsupported(f"{type(self).__name__} does not decode step by step")

    def dense_at(self, n: int) -> bool:
        """True where every mixer in it is plain dense attention at length n."""
        mixers = [module for module in self.modules() if isinstance(module, Mixer)]
        return bool(mixers) and all(mixer.dense_at(n) for mixer in mixers)

    def aux_loss(self) -> Tensor | None:
        """A term of its own for the training loss, from the last forward."""
        return None

    def on_step(self, step: int) -> None:
        """Called after each optimiser step of training."""
