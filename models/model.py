"""A model: embedding, backbone, head."""

from dataclasses import replace
from functools import cached_property
from typing import Any

from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from models.backbone import Backbone, MakeBlock
from models.block import Block
from models.embedding import Embedding
from models.head import ClassifyHead, MatchHead, TokenHead
from models.mixer import Mixer
from models.spec import ModelSpec


class Model(nn.Module):
    """Logits from ids ``(B, N)`` or scalars ``(B, N, F)``; matching takes ``(B, 2, N)``."""

    def __init__(self, spec: ModelSpec, make_backbone: Any, make_block: MakeBlock):
        super().__init__()
        cls = spec.pooling == "cls"
        layer = replace(spec.layer, cls=cls)
        self.kind = spec.kind
        self.embedding = Embedding(
            layer.dim, vocab=spec.vocab, features=spec.features, max_len=layer.max_len - int(cls),
            positions=spec.positions, cls=cls, std=spec.embedding_std,
            position_std=spec.position_std, dropout=layer.dropout,
        )  # fmt: skip
        self.backbone: Backbone = make_backbone(layer, make_block)
        common: dict[str, Any] = {
            "classes": spec.classes, "kind": spec.head, "hidden": spec.head_dim,
            "pooling": spec.pooling,
        }  # fmt: skip
        self.head: nn.Module
        if spec.kind == "classify":
            self.head = ClassifyHead(layer.dim, **common)
        elif spec.kind == "match":
            self.head = MatchHead(layer.dim, pairing=spec.pairing, **common)
        else:
            if cls:
                raise ValueError("pooling=cls has no meaning for a task that labels positions")
            self.head = TokenHead(layer.dim, classes=spec.classes)

    def forward(
        self, x: Shaped[Tensor, "B ..."], mask: Bool[Tensor, "B ..."]
    ) -> Float[Tensor, "B ..."]:
        """Logits ``(B, C)``, or ``(B, N, C)`` for a task that labels positions."""
        if mask.shape != x.shape[: 3 if self.kind == "match" else 2]:
            raise ValueError(f"mask {tuple(mask.shape)} does not fit inputs {tuple(x.shape)}")
        if self.kind == "match":
            x, mask = x.flatten(0, 1), mask.flatten(0, 1)
        y, y_mask = self.embedding(x, mask)
        y, y_mask = self.backbone(y, y_mask, tokens=x)
        return self.head(y, y_mask)

    def mixers(self) -> list[Mixer]:
        """Every mixer, in order."""
        return [module for module in self.modules() if isinstance(module, Mixer)]

    @cached_property
    def parts(self) -> list[Mixer | Block | Backbone]:
        """Everything that may have a loss of its own or act after a step: asked at every step."""
        return [m for m in self.modules() if isinstance(m, (Mixer, Block, Backbone))]

    def aux_loss(self) -> Tensor | None:
        """Sum of the parts' own losses from the last forward, or None."""
        losses = [loss for part in self.parts if (loss := part.aux_loss()) is not None]
        return sum(losses[1:], losses[0]) if losses else None

    def on_step(self, step: int) -> None:
        """Tells every part that an optimiser step is done."""
        for part in self.parts:
            part.on_step(step)

    def dense_at(self, n: int) -> bool:
        """True where it is plain dense attention in disguise: every mixer is, and none says so."""
        mixers = self.mixers()
        disguised = any(mixer.card.family != "exact" for mixer in mixers)
        return disguised and all(mixer.dense_at(n) for mixer in mixers)
