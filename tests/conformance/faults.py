"""Tiny mixers with one fault each, which a check must find."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kernels.errors import Unsupported
from models.card import Equals
from tests.conformance.specimens import CARD, Sound, SoundBackbone, SoundDecay


class NoLink(Sound):
    card = replace(CARD, link="example.org")


class ListsAnOpThatNeverRuns(Sound):
    card = replace(CARD, ops=("attention",))


class LosesAPosition(Sound):
    def forward(self, x, mask=None, **context):  # type: ignore[override]
        return super().forward(x, mask, **context)[:, : x.shape[1] // 2 + 1]


class HasAnIdleParameter(Sound):
    def __init__(self, dim: int, **standard: Any):
        super().__init__(dim, **standard)
        self.idle = nn.Parameter(torch.zeros(dim))


class HasAWrongGradient(Sound):
    def attend(self, q, k, v, mask):
        y = super().attend(q, k, v, mask)
        return 2 * y.detach() - y


class WantsMultiplesOfFour(Sound):
    def attend(self, q, k, v, mask):
        if k.shape[2] % 4 and k.shape[2] > 4:
            raise RuntimeError("shape mismatch")
        return super().attend(q, k, v, mask)


class WantsTwoHeads(Sound):
    def attend(self, q, k, v, mask):
        return super().attend(q, k, v, mask) / (8 - self.heads)


class FixesTheLengthUnsaid(Sound):
    def __init__(self, dim: int, **standard: Any):
        super().__init__(dim, **standard)
        self.table = nn.Parameter(torch.randn(self.max_len))


class SeesThePaddedLength(Sound):
    def attend(self, q, k, v, mask):
        return super().attend(q, k, v, mask) * q.shape[2]


class IgnoresTheMask(Sound):
    def weights(self, q, k, mask):
        return super().weights(q, k, None)


class IgnoresHoles(SoundDecay):
    def forward(self, x, mask=None, **rest):  # type: ignore[override]
        if mask is not None:
            # geometry from the last real token: everything before it counts as real
            mask = mask.flip(1).cumsum(1).flip(1) > 0
        return super().forward(x, mask, **rest)


class LeaksNaN(Sound):
    def forward(self, x, mask=None, **context):  # type: ignore[override]
        kept = x if mask is None else x * mask[..., None]
        return super().forward(x, mask, **context) + 0 * kept.sum(1, keepdim=True)


class CouplesTheBatch(Sound):
    def attend(self, q, k, v, mask):
        return super().attend(q, k, v, mask) / k.detach().abs().max()


class LeaksTheFuture(Sound):
    def weights(self, q, k, mask):
        was, self.causal = self.causal, False
        try:
            return super().weights(q, k, mask)
        finally:
            self.causal = was


class LooksBackOnly(Sound):
    def weights(self, q, k, mask):
        was, self.causal = self.causal, True
        try:
            return super().weights(q, k, mask)
        finally:
            self.causal = was


class MixesNothing(Sound):
    def attend(self, q, k, v, mask):
        return v


class ForgetsItsCache(Sound):
    def attend_step(self, q, k, v, state):
        return self.attend(q, k, v, None), state


class GrowsItsState(SoundDecay):
    """Right, but it keeps what it no longer needs."""

    def step(self, x_t, state):
        h, _ = super().step(x_t, state[-len(x_t) :])
        return h, torch.cat([state, h])


class DecodesAgainstItsCard(Sound):
    card = replace(CARD, recurrent=False)


class DropsItsState(SoundDecay):
    def forward(self, x, mask=None, *, state=None, **rest):  # type: ignore[override]
        empty = None if state is None else torch.zeros_like(state)
        return super().forward(x, mask, state=empty, **rest)


class DoesNotRotate(Sound):
    def use_rotary(self) -> None:
        pass


class DoesNotBias(Sound):
    positions = ("rope", "alibi")


class IgnoresTheContext(Sound):
    def forward(self, x, mask=None, *, context=None, context_mask=None):
        return super().forward(x, mask)


class TakesAContextUnsaid(Sound):
    card = replace(CARD, cross=False)

    def check(self, x: Tensor, mask: Tensor | None, context: Tensor | None = None) -> None:
        super().check(x, mask)


class ClaimsAnEquality(Sound):
    """Equals the transformer but for the scale of the scores."""

    card = replace(CARD, equals=(Equals("transformer", lambda n: {}),))

    def weights(self, q, k, mask):
        return super().weights(2 * q, k, mask)

    def dense_at(self, n: int) -> bool:
        return True


class ClaimsToBeDense(Sound):
    card = replace(CARD, family="sparse")

    def dense_at(self, n: int) -> bool:
        return True


class HasAnotherMatrix(Sound):
    def reference_matrix(self, x, mask=None):
        return 2 * super().reference_matrix(x, mask)


class ClaimsLinearTime(Sound):
    card = replace(CARD, time="N d")


class CostsItsLongestLength(SoundDecay):
    def __init__(self, dim: int, **standard: Any):
        super().__init__(dim, **standard)
        self.register_buffer("table", torch.zeros(dim, self.max_len), persistent=False)

    def forward(self, x, mask=None, **rest):  # type: ignore[override]
        return super().forward(x, mask, **rest) + (x @ self.table).sum(-1, keepdim=True)


class ClaimsQuadraticTime(SoundDecay):
    card = replace(SoundDecay.card, time="N^2 d")


class ClaimsQuadraticMemory(SoundDecay):
    card = replace(SoundDecay.card, memory="N^2")


class ClaimsLinearMemory(Sound):
    card = replace(CARD, memory="N d")


class CancelsInBf16(Sound):
    def attend(self, q, k, v, mask):
        return super().attend(q, k, v + 1000, mask) - 1000


class DrawsInEvaluation(Sound):
    def attend(self, q, k, v, mask):
        return super().attend(q, k, v, mask) + 0.01 * torch.randn(v.shape[-1], dtype=v.dtype)


class IgnoresDropout(Sound):
    def attend(self, q, k, v, mask):
        return self.weights(q, k, mask) @ v


class DoesNotSaveWhatItDrew(Sound):
    def __init__(self, dim: int, **standard: Any):
        super().__init__(dim, **standard)
        self.register_buffer("drawn", torch.randn(self.head_dim), persistent=False)

    def attend(self, q, k, v, mask):
        return super().attend(q * self.drawn, k, v, mask)


class BreaksOnStep(Sound):
    card = replace(CARD, randomised=True)

    def on_step(self, step: int) -> None:
        self.query.weight.data.fill_(float("nan"))


class NeverDrawsAnew(DoesNotSaveWhatItDrew):
    card = replace(CARD, randomised=True)


class DrawsTheSameForEverySeed(Sound):
    card = replace(CARD, randomised=True, drawn_once=True)

    def attend(self, q, k, v, mask):
        luck = torch.rand(self.head_dim, generator=torch.Generator().manual_seed(self.layer))
        return super().attend(q * luck.to(q), k, v, mask)


class DrawsAnewUnsaid(Sound):
    card = replace(CARD, randomised=True, drawn_once=True)

    def attend(self, q, k, v, mask):
        luck = torch.rand(self.head_dim) if self.training else torch.ones(self.head_dim)
        return super().attend(q * luck.to(q), k, v, mask)


class TakesAnyMask(Sound):
    def check(self, x: Tensor, mask: Tensor | None, context: Tensor | None = None) -> None:
        pass


class TakesAnyLength(Sound):
    card = replace(CARD, length_bound=("table",))

    def check(self, x: Tensor, mask: Tensor | None, context: Tensor | None = None) -> None:
        if mask is not None and mask.shape != x.shape[:2] or x.shape[-1] != self.dim:
            raise ValueError("wrong shape")


class TakesAnyKnob(SoundDecay):
    def __init__(self, dim: int, *, order: int = 1, **standard: Any):
        super().__init__(dim, order=max(order, 1), **standard)


class RefusesWhatItClaims(Sound):
    def forward(self, x, mask=None, **context):  # type: ignore[override]
        if mask is not None:
            raise Unsupported("takes no mask; use sequences of one length")
        return super().forward(x, mask, **context)


class LeakyBackbone(SoundBackbone):
    """Adds the last position of the batch, which is padding for a shorter example."""

    def forward(self, x, mask, *, tokens=None):
        y, mask = super().forward(x, mask)
        return y + x[:, -1:], mask
