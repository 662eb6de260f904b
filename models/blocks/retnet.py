"""RetNet's block: retention, then a feed-forward network of half the width."""

from models.block import MakeMixer
from models.blocks.residual import ResidualBlock
from models.spec import LayerSpec


class RetNetBlock(ResidualBlock):
    """The default block with half the recipe's feed-forward network.

    Sun et al. 2023 (arXiv 2307.08621), section 3.1: retention has 8 d^2 parameters where attention
    has 4 d^2, and the feed-forward network 4 d^2 instead of 8 d^2 (inner width 2 d instead of 4 d),
    so that a layer holds what a transformer's does.

    Args:
        ffn: whether a feed-forward network follows the mixer; None: unless the mixer replaces it.
        ffn_factor: width of that network, in the recipe's ``ffn_dim``.
    """

    def __init__(
        self,
        spec: LayerSpec,
        make_mixer: MakeMixer,
        *,
        ffn: bool | None = None,
        ffn_factor: float = 0.5,
    ):
        super().__init__(spec, make_mixer, ffn=ffn, ffn_factor=ffn_factor)
