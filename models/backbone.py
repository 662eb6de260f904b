"""The backbone: everything between embedding and head. Whole-model systems are backbones that host
any mixer through the layers they ask for."""

from collections.abc import Callable
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn

from models.block import Block
from models.card import Card
from models.spec import LayerSpec

# makes the block of a layer; a backbone may ask for another width, length or direction
MakeBlock = Callable[[LayerSpec], Block]


class Backbone(nn.Module):
    """Base of every backbone.

    Args:
        spec: the layer spec of the model, with ``depth`` filled in.
        make_block: makes the block of a layer spec (its ``layer`` chooses among several).

    Attributes:
        card: None where the mixer's card says everything.
        cross: it takes keys and values from another sequence, so its mixers must too; it may depend
            on the knobs.
        hosts: whether it makes blocks at all; where it does not, the mixer and the block of a
            configuration are not used.
    """

    card: ClassVar[Card | None] = None
    cross: bool = False
    hosts: ClassVar[bool] = True

    def __init__(self, spec: LayerSpec, make_block: MakeBlock):
        super().__init__()
        self.spec = spec

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B N"],
        *,
        tokens: Tensor | None = None,
    ) -> tuple[Float[Tensor, "B M D"], Bool[Tensor, "B M"]]:
        """Features and their mask; ``tokens``: raw inputs, for systems that hash or retrieve."""
        raise NotImplementedError

    def aux_loss(self) -> Tensor | None:
        """A term of its own for the training loss, from the last forward."""
        return None

    def on_step(self, step: int) -> None:
        """Called after each optimiser step of training."""
