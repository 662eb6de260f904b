"""Universal Transformer: one layer, applied again and again, as often as a token needs."""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from models.backbone import Backbone, MakeBlock
from models.card import Card
from models.embedding import sinusoids
from models.norm import make_norm
from models.padding import zero_padding
from models.spec import LayerSpec


class UniversalTransformer(Backbone):
    """H <- layer(H + P_t), t = 1 .. steps; P_t is the sum of the sinusoids of position and step.

    Dehghani et al. 2019, section 2.1. With ``act`` (Graves 2016) each position stops when the sum
    of its halting probabilities sigmoid(w H + b) passes the threshold; its state is then
    interpolated with the remainder as weight. The last step gives what remains to all.

    Args:
        steps: applications of the layer, the most of them with ``act``; None: the depth.
        act: adaptive computation time.
        act_threshold: sum of probabilities at which a position stops, in (0, 1).
        act_loss_weight: of the mean number of steps and remainders in the training loss.
    """

    card = Card(
        title="Universal Transformers",
        authors="Dehghani, Gouws, Vinyals, Uszkoreit, Kaiser",
        year=2019,
        link="https://arxiv.org/abs/1807.03819",
        family="whole_model",
        time="N^2 d",
        memory="N d",
        causality="masked",
        bidirectional=True,
        ops=("attention",),
        deviations=(
            "norms stand where the recipe puts them; the paper's are behind the sums",
            "positions that have stopped are computed on and left as they were",
            "the recipe's positions are added to the embedding besides P_t, which holds them, too",
            "the transition is the block's feed-forward network, never a separable convolution",
            "signals of the step are sinusoids, in the authors' code learned unless told otherwise",
            "act ends after steps applications, in the authors' code after twice its layers",
        ),
    )

    def __init__(
        self,
        spec: LayerSpec,
        make_block: MakeBlock,
        *,
        steps: int | None = None,
        act: bool = False,
        act_threshold: float = 0.99,
        act_loss_weight: float = 0.01,
    ):
        super().__init__(spec, make_block)
        if steps is not None and steps < 1:
            raise ValueError(f"UniversalTransformer: steps must be at least 1, got {steps}")
        if not 0 < act_threshold < 1:
            raise ValueError(
                f"UniversalTransformer: act_threshold must be in (0, 1), got {act_threshold}"
            )
        self.steps = steps or spec.depth
        self.block = make_block(replace(spec, layer=0, depth=1))
        self.norm = make_norm(spec.norm, spec.dim) if spec.norm_position == "pre" else None
        self.halt: nn.Linear | None = None
        self.act_threshold, self.act_loss_weight = act_threshold, act_loss_weight
        if act:
            self.halt = nn.Linear(spec.dim, 1)
            nn.init.constant_(self.halt.bias, 1.0)
        self.ponder: Tensor | None = None

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B N"],
        *,
        tokens: Tensor | None = None,
    ) -> tuple[Float[Tensor, "B N D"], Bool[Tensor, "B N"]]:
        x = zero_padding(x, mask)
        rows = sinusoids(max(x.shape[1], self.steps + 1), x.shape[2]).to(x)
        signals = rows[: x.shape[1]] + rows[1 : self.steps + 1, None]
        x = self._repeat(x, mask, signals) if self.halt is None else self._act(x, mask, signals)
        return (x if self.norm is None else self.norm(x, mask)), mask

    def _repeat(self, x: Tensor, mask: Tensor, signals: Tensor) -> Tensor:
        for signal in signals:
            x, _ = self.block(x + signal, mask)
        return x

    def _act(self, x: Tensor, mask: Tensor, signals: Tensor) -> Tensor:
        assert self.halt is not None
        spent = x.new_zeros(x.shape[:2])
        steps, running, left = torch.zeros_like(spent), mask, torch.zeros_like(spent)
        for t, signal in enumerate(signals):
            inner = x + signal
            p = self.halt(inner)[..., 0].sigmoid()
            hidden, _ = self.block(inner, mask)
            stops = running & ((spent + p > self.act_threshold) | (t == self.steps - 1))
            weight = torch.where(stops, 1 - spent, p) * running
            x = torch.lerp(x, hidden, weight[..., None])
            left = torch.where(stops, 1 - spent, left)
            spent, steps = spent + p * running, steps + running
            running = running & ~stops
        real = mask.sum().clamp(min=1)
        self.ponder = ((steps + left) * mask).sum() / real
        return x

    def aux_loss(self) -> Tensor | None:
        return None if self.ponder is None else self.act_loss_weight * self.ponder
