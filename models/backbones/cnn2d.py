"""A plain residual convolutional network on the grid: a control for tasks made of images.

Legend: B batch, N positions, D width, C channels, R x S rows and columns.
"""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.errors import Unsupported
from models.backbone import Backbone, MakeBlock
from models.card import Card
from models.norm import BatchNorm
from models.padding import zero_padding
from models.spec import LayerSpec


class Conv(nn.Module):
    """activation -> mask -> 3 x 3 convolution -> batch norm, on positions ``(B, R S, C)``.

    What the mask hides is 0 to the convolution, as is everything beyond the edge.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, active: bool = True):
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm = BatchNorm(outputs)
        self.active = active

    def forward(
        self,
        x: Float[Tensor, "B RS C"],
        mask: Bool[Tensor, "B RS"],
        grid: tuple[int, int],
        out: Bool[Tensor, "B QT"],
    ) -> Float[Tensor, "B QT C2"]:
        """``mask`` and ``grid`` are of x, ``out`` is the mask of the result."""
        x = zero_padding(F.gelu(x) if self.active else x, mask)
        image = x.mT.unflatten(2, grid)
        return self.norm(self.convolution(image).flatten(2).mT, out)


class Stage(nn.Module):
    """A convolution of stride 2, then residual blocks of two convolutions each."""

    def __init__(self, inputs: int, channels: int, *, blocks: int, first: bool, dropout: float):
        super().__init__()
        self.entry = Conv(inputs, channels, stride=2, active=not first)
        self.firsts = nn.ModuleList(Conv(channels, channels) for _ in range(blocks))
        self.seconds = nn.ModuleList(Conv(channels, channels) for _ in range(blocks))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "B RS C"], mask: Bool[Tensor, "B RS"], grid: tuple[int, int]
    ) -> tuple[Float[Tensor, "B QT C2"], Bool[Tensor, "B QT"], tuple[int, int]]:
        """x, mask and grid of half the sides."""
        coarse, half_grid = halved(mask, grid)
        x = self.entry(x, mask, grid, coarse)
        for first, second in zip(self.firsts, self.seconds, strict=True):
            y = first(x, coarse, half_grid, coarse)
            x = x + self.dropout(second(y, coarse, half_grid, coarse))
        return x, coarse, half_grid


class Cnn2d(Backbone):
    """x + conv(conv(x)) at ever coarser grids (He et al. 2015, with a stem that halves the grid).

    It makes no block: the mixer and the block of the configuration are not used.

    Args:
        channels: of every convolution; a last map leads back to the model's width.
        stages: each begins with a convolution of stride 2.
        blocks: residual blocks of a stage.
    """

    card = Card(
        title="Deep Residual Learning for Image Recognition",
        authors="He, Zhang, Ren, Sun",
        year=2015,
        link="https://arxiv.org/abs/1512.03385",
        family="whole_model",
        time="N d^2",
        memory="N d",
        causality="no",
        bidirectional=True,
        grid=True,
        deviations=(
            "a control, no model of the paper: as many channels in every stage, a stem of stride 2",
            "masked positions are 0 to every convolution and enter no statistic",
        ),
    )
    hosts: ClassVar[bool] = False

    def __init__(
        self,
        spec: LayerSpec,
        make_block: MakeBlock,
        *,
        channels: int = 32,
        stages: int = 3,
        blocks: int = 2,
    ):
        super().__init__(spec, make_block)
        if spec.causal:
            raise Unsupported("Cnn2d sees the whole image; choose a task that is not causal")
        if spec.grid is None:
            raise Unsupported("Cnn2d needs a task with rows and columns, such as pathfinder")
        if spec.max_len > spec.grid[0] * spec.grid[1]:
            raise Unsupported(
                f"Cnn2d has no place for a CLS vector on its {spec.grid[0]} x {spec.grid[1]} grid: "
                "set recipe.pooling=mean"
            )
        if channels < 1 or stages < 1 or blocks < 1:
            raise ValueError("Cnn2d: channels, stages and blocks must be at least 1")
        self.columns = spec.grid[1]
        self.stages = nn.ModuleList(
            Stage(
                channels if stage else spec.dim, channels, blocks=blocks, first=stage == 0,
                dropout=spec.dropout,
            )
            for stage in range(stages)
        )  # fmt: skip
        self.output = nn.Linear(channels, spec.dim)

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B N"],
        *,
        tokens: Tensor | None = None,
    ) -> tuple[Float[Tensor, "B M D"], Bool[Tensor, "B M"]]:
        """Features of the coarsest grid; any N, read row by row."""
        grid = (-(-x.shape[1] // self.columns), self.columns)
        fill = grid[0] * grid[1] - x.shape[1]
        x, mask = F.pad(zero_padding(x, mask), (0, 0, 0, fill)), F.pad(mask, (0, fill))
        for stage in self.stages:
            x, mask, grid = stage(x, mask, grid)
        return self.output(F.gelu(x)), mask


def halved(
    mask: Bool[Tensor, "B RS"], grid: tuple[int, int]
) -> tuple[Bool[Tensor, "B QT"], tuple[int, int]]:
    """The mask of a grid of half the sides: real where any of its four positions is."""
    image = mask.to(torch.float32).unflatten(1, grid)[:, None]
    coarse = F.max_pool2d(image, 2, ceil_mode=True)
    return coarse.flatten(1) > 0, (coarse.shape[2], coarse.shape[3])
