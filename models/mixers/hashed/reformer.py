"""Reformer: each token attends to those that a random hash puts near it."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor, nn

from kernels.attention import attention
from kernels.attention.score import Score
from kernels.merge_attention import merge_attention
from kernels.merge_attention.rows import look_around, permute_rows, sort_by_bucket, take_rows
from models.card import Card
from models.mixer import Mixer
from models.padding import zero_padding
from models.rotary import Rotary

# score of a token with itself: it counts only where nothing else is seen. No larger than need be:
# what is added to it loses as many digits
ONLY_SELF = -1e3
PAIRS = 1 << 18  # of a query and a key, in the rounds that are computed together


class Reformer(Mixer):
    """softmax(Q K^T / sqrt(K)) V with k_j = q_j / |q_j|, over the tokens of one bucket.

    Kitaev et al. 2020, section 2. Buckets are argmax([x R; -x R]) for random rotations R, N /
    bucket_size of them: where that is more than 2 bucket_size, the number of a bucket has several
    digits, each with rotations of its own (the factored buckets of the authors' code), or hashing
    alone would take N^2 d / bucket_size. Tokens are sorted by bucket, then position, and cut into
    chunks; a chunk sees itself and the one before it, inside a bucket. ``n_hashes`` rounds are
    merged by their log-sum-exps; a pair that c rounds show counts once: each weighs it 1 / c. No
    token sees itself unless it sees nothing else.

    Causal, a token sees the ``bucket_size`` tokens before it in the sorted order, inside its
    bucket: they are earlier ones, whatever follows, while a later token may move the ends of all
    chunks. As many buckets as the longest sequence has, since the true length is the future, too.

    Args:
        n_hashes: rounds of hashing.
        bucket_size: tokens of a chunk, and of a bucket on average.
    """

    card = Card(
        title="Reformer: The Efficient Transformer",
        authors="Kitaev, Kaiser, Levskaya",
        year=2020,
        link="https://arxiv.org/abs/2001.04451",
        family="hashed",
        time="N log N bucket_size d + N d^2",
        memory="N d",
        causality="masked",
        bidirectional=True,
        randomised=True,
        length_bound=("rotations",),
        ops=("attention", "merge_attention"),
        deviations=(
            "causal, a token sees the bucket_size tokens before it in the sorted order of its "
            "bucket; the paper's sees earlier tokens of its chunk and the one before, whose ends "
            "depend on later tokens, which masking cannot hide",
            "causal, the number of buckets follows the longest length, not the true one",
            "the first chunk does not see the last one",
            "more than 2 bucket_size buckets have numbers of several digits, hashed apart, as in "
            "the authors' code",
            "backbone=reversible makes layers reversible; the preset does not, as in LRA's code",
            "dropout acts on the mixed features",
        ),
    )
    positions: ClassVar[tuple[str, ...]] = ("rope",)

    def __init__(self, dim: int, *, n_hashes: int = 8, bucket_size: int = 64, **standard: Any):
        super().__init__(dim, **standard)
        if n_hashes < 1 or bucket_size < 1:
            raise ValueError("Reformer: n_hashes and bucket_size must be at least 1")
        self.n_hashes, self.bucket_size = n_hashes, bucket_size
        self.head_dim = self.qkv_dim // self.heads
        self.query = nn.Linear(dim, self.qkv_dim, bias=False)
        self.value = nn.Linear(dim, self.qkv_dim, bias=False)
        self.output = nn.Linear(self.qkv_dim, dim, bias=False)
        for linear in (self.query, self.value, self.output):
            nn.init.xavier_uniform_(linear.weight)
        # pairs of opposite buckets, and digits of a bucket's number, for the longest sequence
        pairs = -(-self.max_len // (2 * bucket_size))
        self.digits = 1
        while (2 * bucket_size) ** self.digits < 2 * pairs:
            self.digits += 1
        columns = self.digits * min(pairs, bucket_size)
        self.rotations: Tensor
        self.register_buffer("rotations", torch.randn(n_hashes, self.head_dim, columns))
        self.rotary: Rotary | None = None

    def use_rotary(self) -> None:
        self.rotary = Rotary(self.head_dim)

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B N"] | None = None,
        *,
        context: Float[Tensor, "B M D"] | None = None,
        context_mask: Bool[Tensor, "B M"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        self.check(x, mask, context)
        x = zero_padding(x, mask)
        q, v = (
            f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.value)
        )
        if self.rotary is not None:
            q = self.rotary(q)
        real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
        buckets = self.hash(q, real)
        orders = sort_by_bucket(buckets.flatten(0, 1), real.repeat(self.n_hashes, 1))
        order, inverse = (rows.unflatten(0, (self.n_hashes, -1)) for rows in orders)
        cells = self._cells(buckets, inverse)
        few = max(1, PAIRS // (2 * self.chunk(x.shape[1]) * buckets[0].numel()))
        k = F.normalize(q, dim=-1)
        outputs: list[Tensor] = []
        lses: list[Tensor] = []
        for start in range(0, self.n_hashes, few):
            part = slice(start, start + few)
            y, lse = self._rounds(q, k, v, real, cells, order[part], inverse[part], start)
            outputs.extend(y)
            lses.extend(lse)
        y, _ = merge_attention(outputs, lses)
        y = F.dropout(y, self.dropout, self.training)
        return self.output(y.transpose(1, 2).flatten(2))

    def chunk(self, n: int) -> int:
        """Tokens of a chunk."""
        return min(self.bucket_size, n)

    @torch.no_grad()
    def hash(
        self, q: Float[Tensor, "B H N K"], real: Bool[Tensor, "B N"]
    ) -> Int64[Tensor, "R B H N"]:
        """The bucket of every token in each round; how many there are follows the true length, or
        the longest one if causal."""
        rotations = self.rotations
        if self.training:
            rotations = torch.randn_like(rotations)
        held = real.sum(1)
        if self.causal:
            held = torch.full_like(held, self.max_len)
        digits, pairs = self._base(held)
        whole = (held > self.bucket_size)[:, None, None]
        return self._numbers(q, rotations.to(q), digits, pairs) * whole

    def _base(self, held: Int64[Tensor, " B"]) -> tuple[Int64[Tensor, " B"], Int64[Tensor, " B"]]:
        """Digits of a bucket's number and pairs of opposite values of a digit, for a sequence that
        holds so many tokens: about held / bucket_size buckets."""
        buckets = 2 * (-(-held // (2 * self.bucket_size))).clamp(min=1)
        digits = torch.ones_like(held)
        for more in range(1, self.digits):
            digits = digits + (buckets > (2 * self.bucket_size) ** more)
        # a root that is a whole number may come out a rounding above it
        pairs = (buckets.double().pow(1 / digits.double()) / 2 - 1e-9).ceil().long()
        return digits, pairs.clamp(1, self.rotations.shape[-1] // self.digits)

    def _numbers(
        self, q: Tensor, rotations: Tensor, digits: Tensor, pairs: Tensor
    ) -> Int64[Tensor, "R B H N"]:
        """The bucket of every token in every round."""
        parts = rotations.unflatten(-1, (self.digits, -1)).unbind(2)
        width = parts[0].shape[-1]
        allowed = (torch.arange(width, device=q.device) < pairs[:, None])[:, None, None]
        digits, pairs = digits[:, None, None], pairs[:, None, None]
        number = torch.zeros(len(rotations), *q.shape[:3], dtype=torch.long, device=q.device)
        for at, part in enumerate(parts):
            turned = q @ part.transpose(0, 1).flatten(1)
            turned = turned.unflatten(-1, (-1, width)).movedim(-2, 0)
            best = turned.abs().masked_fill(~allowed, -1).argmax(-1, keepdim=True)
            opposite = turned.gather(-1, best) < 0
            digit = (best + opposite * pairs[..., None]).squeeze(-1)
            number = number + digit * ((2 * pairs) ** at * (digits > at))
        return number

    def _cells(
        self, bucket: Int64[Tensor, "R B H N"], inverse: Int64[Tensor, "R B H N"]
    ) -> Int[Tensor, "R B H N"]:
        """Two numbers of every token in one: its bucket, and its chunk or, causal, its place in the
        sorted order. A token sees its own number and the one before it, causal: the ``chunk`` ones
        before it; so many after the last number of a bucket belong to no token."""
        n = bucket.shape[-1]
        chunk = self.chunk(n)
        place, places, reach = inverse, n, chunk
        if not self.causal:
            place, places, reach = inverse // chunk, -(-n // chunk), 1
        cells = bucket * (places + reach) + place
        buckets = (2 * self.rotations.shape[-1] // self.digits) ** self.digits
        return cells.int() if buckets * (places + reach) < 1 << 31 else cells

    def _rounds(
        self,
        q: Float[Tensor, "B H N K"],
        k: Float[Tensor, "B H N K"],
        v: Float[Tensor, "B H N V"],
        real: Bool[Tensor, "B N"],
        cells: Int[Tensor, "R B H N"],
        order: Int64[Tensor, "r B H N"],
        inverse: Int64[Tensor, "r B H N"],
        start: int,
    ) -> tuple[Float[Tensor, "r B H N V"], Float[Tensor, "r B H N"]]:
        """Some rounds of hashing, from ``start`` on: outputs and log-sum-exps in the order of the
        sequence."""
        n, chunk = q.shape[2], self.chunk(q.shape[2])

        def cut(x: Tensor) -> Tensor:
            """Chunks (rB, H, C, c, ...) of sorted rows (r, B, H, N, ...)."""
            missing = [0, 0] * (x.ndim - 4) + [0, -n % chunk]
            return F.pad(x.flatten(0, 1), missing).unflatten(2, (-1, chunk))

        real = real[:, None].expand(-1, q.shape[1], -1)
        seen = look_around(cut(take_rows(real, order)))[..., None, :]
        count = torch.zeros((), dtype=torch.short, device=q.device)
        own_rounds = []
        for r, cell in enumerate(cells, start=-start):
            own = cut(take_rows(cell, order))
            apart = own[..., :, None] - look_around(own)[..., None, :]
            if self.causal:
                together = (apart >= 0) & (apart <= chunk)
            else:
                together = apart.bitwise_right_shift_(1) == 0  # 0 or 1
            count = count + together
            if 0 <= r < len(order):
                own_rounds.append(together.unflatten(0, (len(order), -1))[r])
        seen = seen & torch.cat(own_rounds)
        bias = count.to(q.dtype).log_().neg_()
        bias.diagonal(chunk, -2, -1).add_(ONLY_SELF)
        bias.masked_fill_(~seen, -torch.inf)
        qs, ks, vs = (cut(permute_rows(x, order, inverse)) for x in (q, k, v))
        chunks = qs.shape[:3]
        y, lse = attention(
            *(x.flatten(0, 2)[:, None] for x in (qs, look_around(ks), look_around(vs))),
            score=Score(bias=bias.flatten(0, 2)[:, None]),
            return_lse=True,
        )
        y, lse = (x[:, 0].unflatten(0, chunks).flatten(2, 3)[:, :, :n] for x in (y, lse))
        order, inverse = order.flatten(0, 1), inverse.flatten(0, 1)
        y, lse = permute_rows(y, inverse, order), take_rows(lse, inverse)
        return y.unflatten(0, (-1, len(q))), lse.unflatten(0, (-1, len(q)))
