"""Perceiver: a few latent vectors read the sequence, and think among themselves."""

import math
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from kernels.errors import Unsupported
from models.backbone import Backbone, MakeBlock
from models.card import Card
from models.norm import make_norm
from models.padding import zero_padding
from models.spec import LayerSpec


class Perceiver(Backbone):
    """Z <- Z + cross(Z, X), then layers on Z; ``cross_repeats`` times. Features are Z.

    Jaegle et al. 2021, section 3: X carries Fourier features of its position, sines and cosines of
    ``fourier_bands`` frequencies up to half of ``max_len``, and the position itself.

    Args:
        num_latents: vectors of Z.
        cross_repeats: how often Z reads X.
        self_per_cross: layers on Z after each; None: the depth.
        fourier_bands: 0 leaves the position features out.
        weight_share: repeats share their layers.
    """

    card = Card(
        title="Perceiver: General Perception with Iterative Attention",
        authors="Jaegle, Gimeno, Brock, Zisserman, Vinyals, Carreira",
        year=2021,
        link="https://arxiv.org/abs/2103.03206",
        family="whole_model",
        time="N num_latents d",
        memory="N d",
        causality="no",
        bidirectional=True,
        ops=("attention",),
        deviations=(
            "Fourier features are added to the input by a linear map, beside the model's positions",
            "with weight_share the first reading shares its parameters, too",
        ),
    )
    cross = True

    def __init__(
        self,
        spec: LayerSpec,
        make_block: MakeBlock,
        *,
        num_latents: int = 512,
        cross_repeats: int = 1,
        self_per_cross: int | None = None,
        fourier_bands: int = 64,
        weight_share: bool = True,
    ):
        super().__init__(spec, make_block)
        if spec.causal:
            raise Unsupported(
                "Perceiver's latents read the whole sequence, so it cannot be causal; choose "
                "another task"
            )
        if spec.rotary or spec.alibi:
            raise Unsupported(
                "Perceiver's latents have no positions: set recipe.positions=sinusoidal, learned "
                "or none"
            )
        thinking = spec.depth if self_per_cross is None else self_per_cross
        if num_latents < 1 or cross_repeats < 1 or thinking < 0 or fourier_bands < 0:
            raise ValueError(
                "Perceiver: num_latents and cross_repeats must be at least 1, self_per_cross and "
                "fourier_bands at least 0"
            )
        self.repeats, self.bands = cross_repeats, fourier_bands
        self.latents = nn.Parameter(torch.randn(num_latents, spec.dim) * 0.02)
        self.fourier: nn.Linear | None = None
        if fourier_bands:
            self.fourier = nn.Linear(2 * fourier_bands + 1, spec.dim, bias=False)
        reads = replace(spec, layer=0, max_len=max(spec.max_len, num_latents))
        thinks = replace(spec, max_len=num_latents)
        self.turns = nn.ModuleList(
            nn.ModuleList(
                [make_block(reads)]
                + [make_block(replace(thinks, layer=i % spec.depth)) for i in range(thinking)]
            )
            for _ in range(1 if weight_share else cross_repeats)
        )
        self.norm = make_norm(spec.norm, spec.dim) if spec.norm_position == "pre" else None

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B N"],
        *,
        tokens: Tensor | None = None,
    ) -> tuple[Float[Tensor, "B M D"], Bool[Tensor, "B M"]]:
        x = zero_padding(x, mask)
        if self.fourier is not None:
            x = x + self.fourier(self.position_features(x.shape[1]).to(x.dtype))
        z = self.latents.expand(len(x), -1, -1).to(x.dtype)
        real = mask.new_ones(z.shape[:2])
        for turn in range(self.repeats):
            blocks: Any = self.turns[turn % len(self.turns)]
            for i, block in enumerate(blocks):
                source = {} if i else {"context": x, "context_mask": mask}
                z, _ = block(z, real, **source)
        return (z if self.norm is None else self.norm(z, real)), real

    def position_features(self, n: int) -> Float[Tensor, "N F"]:
        """The position in [-1, 1], and its sines and cosines (section 3.2)."""
        place = torch.arange(n, dtype=torch.float64, device=self.latents.device)
        place = 2 * place / max(self.spec.max_len - 1, 1) - 1
        most = max(self.spec.max_len / 2, 1.0)
        bands = torch.linspace(1.0, most, self.bands, dtype=torch.float64, device=place.device)
        angle = math.pi * place[:, None] * bands
        return torch.cat([place[:, None], angle.sin(), angle.cos()], dim=-1).float()
