"""BigBird: blocks nearby, blocks that see and are seen by all, and random blocks."""

import functools
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from kernels.block_sparse_attention.layout import Layout
from kernels.block_sparse_attention.layouts import bigbird
from kernels.geometry import geometry
from models.card import Card, Equals
from models.mixers.sparse.block_sparse import BlockSparseMixer
from models.padding import true_lengths


class BigBird(BlockSparseMixer):
    """``softmax(Q K^T / sqrt(K)) V`` over global, neighbouring and random blocks of keys.

    Zaheer et al. 2020, section 2 and appendix D (internal global blocks): the first and the last
    block see all and are seen by all; every block sees ``window_blocks`` around its own and
    ``num_rand_blocks`` others, drawn for each head and number of blocks from the layer's ``seed``,
    a buffer.

    Args:
        block_size: positions of a block.
        num_rand_blocks, window_blocks, global_blocks: blocks of each kind.
    """

    card = Card(
        title="Big Bird: Transformers for Longer Sequences",
        authors="Zaheer, Guruganesh, Dubey, Ainslie, Alberti, Ontanon, Pham, Ravula, Wang, et al.",
        year=2020,
        link="https://arxiv.org/abs/2007.14062",
        family="sparse",
        time="N block_size d",
        memory="N d",
        causality="no",
        bidirectional=True,
        randomised=True,
        drawn_once=True,
        ops=("block_sparse_attention",),
        equals=(Equals("transformer", lambda n: {"block_size": n}, causal=(False,)),),
        deviations=("dropout acts on the mixed features",),
    )

    def __init__(
        self,
        dim: int,
        *,
        block_size: int = 64,
        num_rand_blocks: int = 3,
        window_blocks: int = 3,
        global_blocks: int = 2,
        **standard: Any,
    ):
        super().__init__(dim, **standard)
        if block_size < 1 or min(num_rand_blocks, global_blocks) < 0:
            raise ValueError("BigBird: block_size must be at least 1, counts of blocks at least 0")
        if window_blocks < 1 or window_blocks % 2 == 0:
            raise ValueError(f"BigBird: window_blocks must be odd, got {window_blocks}")
        self.block_size = block_size
        self.counts = {
            "window_blocks": window_blocks, "global_blocks": global_blocks,
            "random_blocks": num_rand_blocks,
        }  # fmt: skip
        self.seed: Tensor
        self.register_buffer("seed", torch.randint(2**31, ()))

    def layout(self, n: int, mask: Bool[Tensor, "B N"] | None) -> Layout:
        # fake tensors, which predict memory, have no lengths: as if every example were full
        if mask is None or isinstance(mask, FakeTensor):
            return self.plan(n)
        lengths = true_lengths(mask).clamp(min=1).tolist()
        if set(lengths) == {n}:
            return self.plan(n)
        return stacked([self.plan(length) for length in lengths], n)

    def dense_at(self, n: int) -> bool:
        few = n <= self.block_size * sum(self.counts.values())
        return few and bool(self.plan(n).matrix().all())

    def plan(self, n: int) -> Layout:
        """The pattern of a sequence of n tokens."""
        counts = tuple(self.counts.items())
        # a fake tensor has no value, and every seed costs the same
        seed = 0 if isinstance(self.seed, FakeTensor) else int(self.seed)
        return _plan(n, min(self.block_size, self.max_len), self.heads, seed, counts)


@functools.lru_cache(maxsize=512)
def _plan(n: int, block: int, heads: int, seed: int, counts: Any) -> Layout:
    return bigbird(n, block, heads=heads, seed=seed, **dict(counts))


@geometry
def stacked(layouts: list[Layout], n: int) -> Layout:
    """One layout for a batch: the lists of each example's heads, one after the other; the blocks
    behind an example's end see nothing."""
    block, rows = layouts[0].block, -(-n // layouts[0].block)
    offsets, ids, entries, kinds = [], [], 0, 0
    for layout in layouts:
        own = layout.offsets + entries
        # a list that begins where the one before ends is empty
        own = torch.cat([own, own[:, -1:].expand(-1, rows - layout.rows)], dim=1)
        offsets.append(own)
        ids.append(layout.mask_ids + kinds)
        entries, kinds = entries + len(layout.indices), kinds + len(layout.masks)
    return Layout(
        block, n, n, torch.cat(offsets), torch.cat([x.indices for x in layouts]), torch.cat(ids),
        torch.cat([x.masks for x in layouts]),
    )  # fmt: skip
