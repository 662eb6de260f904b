"""Which blocks of keys each block of queries sees, and which pairs inside them.

Legend: L list heads, R query blocks, C key blocks, b positions of a block, E stored blocks.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Int32, Int64
from torch import Tensor

from kernels.geometry import geometry

# pairs looked at together while a layout is built
CHUNK = 1 << 20

T = TypeVar("T")
# (head, query position, key position), broadcasting -> whether the query sees the key
Visible = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Layout:
    """Lists of key blocks. Query block r of list head h sees the key blocks

        indices[offsets[h, r]] ... indices[offsets[h, r + 1] - 1],   ascending,

    and entry e of them through ``masks[mask_ids[e]]``, where True is visible. Mask 0 is all True.
    The masks of the last key block hide what lies behind the last key.

    Attributes:
        block: positions of a block; the last one of queries or keys may be shorter.
        n_queries, n_keys: N and M, the lengths that are covered.
        offsets: one row of lists for every head (L = 1), for each head (L = H), or for each head of
            each example (L = B H).
        indices: key blocks, list after list.
        mask_ids: the mask of each of them.
        masks: every different mask once.
    """

    block: int
    n_queries: int
    n_keys: int
    offsets: Int32[Tensor, "L _"]
    indices: Int32[Tensor, " E"]
    mask_ids: Int32[Tensor, " E"]
    masks: Bool[Tensor, "P b b"]
    _kept: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if min(self.block, self.n_queries, self.n_keys) < 1:
            raise ValueError(
                "block, n_queries and n_keys must be at least 1, "
                f"got {self.block}, {self.n_queries}, {self.n_keys}"
            )
        if self.masks.shape[1:] != (self.block, self.block):
            got = tuple(self.masks.shape)
            raise ValueError(f"masks must be (P, block, block), block {self.block}, got {got}")
        if self.offsets.shape[1] != self.rows + 1:
            raise ValueError(
                f"{self.n_queries} queries need offsets of {self.rows} + 1 in blocks of "
                f"{self.block}, got {tuple(self.offsets.shape)}"
            )
        if self.offsets.device.type == "cpu":
            self._check_lists()

    def _check_lists(self) -> None:
        flat = self.offsets.flatten()
        ends = torch.equal(self.offsets[1:, 0], self.offsets[:-1, -1])
        if flat[0] != 0 or flat[-1] != len(self.indices) or (flat.diff() < 0).any() or not ends:
            raise ValueError("offsets must rise from 0 to the number of indices")
        if ((self.indices < 0) | (self.indices >= self.columns)).any():
            raise ValueError(f"indices must be key blocks 0 .. {self.columns - 1}")
        if (self.places().diff() <= 0).any():
            raise ValueError("the indices of each list must rise: no key block twice")
        if ((self.mask_ids < 0) | (self.mask_ids >= len(self.masks))).any():
            raise ValueError(f"mask_ids must be 0 .. {len(self.masks) - 1}")

    @property
    def heads(self) -> int:
        """L: 1, H or B H."""
        return self.offsets.shape[0]

    @property
    def rows(self) -> int:
        """R: query blocks."""
        return -(-self.n_queries // self.block)

    @property
    def columns(self) -> int:
        """C: key blocks."""
        return -(-self.n_keys // self.block)

    @property
    def density(self) -> float:
        """Share of the blocks that is stored, which is the share of dense attention's work."""
        return len(self.indices) / (self.heads * self.rows * self.columns)

    def places(self) -> Int64[Tensor, " E"]:
        """``(head R + row) C + column`` of each entry, ascending."""
        lists = torch.arange(self.heads * self.rows, device=self.offsets.device)
        per_list = self.offsets.diff(dim=1).flatten()
        return torch.repeat_interleave(lists, per_list) * self.columns + self.indices

    def matrix(self) -> Bool[Tensor, "L N M"]:
        """True where a query sees a key: everything at once, for tests and references."""
        sizes = (self.heads * self.rows, self.columns, self.block, self.block)
        full = torch.zeros(sizes, dtype=torch.bool, device=self.masks.device)
        full.flatten(0, 1)[self.places()] = self.masks[self.mask_ids]
        full = full.transpose(1, 2).reshape(self.heads, self.rows * self.block, -1)
        return full[:, : self.n_queries, : self.n_keys]

    def to(self, device: torch.device) -> "Layout":
        """The layout on a device; the copy is kept."""
        if self.masks.device == device:
            return self
        names = ("offsets", "indices", "mask_ids", "masks")

        def moved() -> "Layout":
            parts = {name: getattr(self, name).to(device) for name in names}
            return replace(self, **parts, _kept={})

        return self.keep(device, moved)

    @geometry
    def keep(self, name: Hashable, make: Callable[[], T]) -> T:
        """What a backend derives from the layout: made once, and kept as long as the layout."""
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]

    def transposed(
        self,
    ) -> tuple[Int32[Tensor, "L _"], Int32[Tensor, " E"], Int32[Tensor, " E"]]:
        """Offsets, query blocks and mask ids of the lists that belong to each key block."""

        def make() -> tuple[Tensor, Tensor, Tensor]:
            row, column = self.places() // self.columns, self.indices.long()
            lists = row // self.rows * self.columns + column
            order = torch.sort(lists, stable=True).indices
            ends = torch.bincount(lists, minlength=self.heads * self.columns).cumsum(0)
            ends = torch.cat([ends.new_zeros(1), ends]).int()
            starts = torch.arange(self.heads, device=ends.device)[:, None] * self.columns
            at = starts + torch.arange(self.columns + 1, device=ends.device)
            return ends[at], (row % self.rows)[order].int(), self.mask_ids[order]

        return self.keep("transposed", make)

    @geometry
    def where(self, visible: Visible) -> "Layout":
        """Only those pairs of the layout that ``visible(head, query, key)`` keeps."""
        return assemble(self, self.heads, self.places(), lambda p: self.masks_at(p), visible)

    def causal(self) -> "Layout":
        """Only keys that are not behind the query; the last query sits beside the last key."""
        offset = self.n_keys - self.n_queries
        return self.keep("causal", lambda: self.where(lambda h, i, j: j <= i + offset))

    @geometry
    def __or__(self, other: "Layout") -> "Layout":
        """What either layout shows. One with a single list head counts for all of them."""
        sizes = [(x.block, x.n_queries, x.n_keys) for x in (self, other)]
        heads = (self.heads, other.heads)
        if sizes[0] != sizes[1] or (heads[0] != heads[1] and 1 not in heads):
            raise ValueError(
                "only layouts of one block, length and number of heads can be united: "
                f"(block, n_queries, n_keys) {sizes[0]} and {sizes[1]}, heads {heads}"
            )
        most = max(heads)
        both = torch.cat([x._places_of(most) for x in (self, other)]).unique()
        return assemble(self, most, both, lambda p: self.masks_at(p) | other.masks_at(p))

    def _places_of(self, heads: int) -> Int64[Tensor, " _"]:
        """Places in a layout of so many heads."""
        if heads == self.heads:
            return self.places()
        each = torch.arange(heads)[:, None] * (self.rows * self.columns)
        return (each + self.places()).flatten()

    def masks_at(self, places: Int64[Tensor, " E2"]) -> Bool[Tensor, "E2 b b"]:
        """Masks of any places; nothing is visible where no block is stored."""
        if self.heads == 1:
            places = places % (self.rows * self.columns)
        own = self.places()
        if len(own) == 0:
            return self.masks.new_zeros(len(places), self.block, self.block)
        found = torch.searchsorted(own, places).clamp_(max=len(own) - 1)
        return self.masks[self.mask_ids[found]] & (own[found] == places)[:, None, None]


@geometry
def build(
    n_queries: int,
    n_keys: int,
    block: int,
    blocks: Bool[Tensor, "L R C"],
    visible: Visible | None = None,
) -> Layout:
    """A layout of the listed blocks, and in them of the pairs that ``visible`` shows.

    Args:
        n_queries, n_keys: N and M.
        block: positions of a block.
        blocks: which key blocks each query block of each list head may see.
        visible: ``(head, query, key) -> bool``, over positions 0 .. of whole blocks, broadcasting;
            everything if None. Blocks without a visible pair are not stored.
    """
    rows, columns = -(-n_queries // block), -(-n_keys // block)
    if blocks.shape[1:] != (rows, columns):
        raise ValueError(
            f"blocks must be (L, {rows}, {columns}) for {n_queries} queries and {n_keys} keys in "
            f"blocks of {block}, got {tuple(blocks.shape)}"
        )
    empty = torch.zeros(0, dtype=torch.int32)
    ones = torch.ones(1, block, block, dtype=torch.bool)
    offsets = torch.zeros(1, rows + 1, dtype=torch.int32)
    like = Layout(block, n_queries, n_keys, offsets, empty, empty, ones)
    places = blocks.flatten().nonzero().flatten()
    return assemble(like, len(blocks), places, lambda p: ones.expand(len(p), -1, -1), visible)


def assemble(
    like: Layout,
    heads: int,
    places: Int64[Tensor, " E"],
    masks_at: Callable[[Tensor], Tensor],
    visible: Visible | None = None,
) -> Layout:
    """A layout of the size of ``like`` from ascending places and their masks, chunk by chunk."""
    block, rows, columns = like.block, like.rows, like.columns
    within = torch.arange(block)
    table, kept, ids = _Table(block), [], []
    for some in places.split(max(1, CHUNK // block**2)):
        row, column = some // columns % rows, some % columns
        query = row[:, None, None] * block + within[:, None]
        key = column[:, None, None] * block + within
        seen = masks_at(some) & (key < like.n_keys)
        if visible is not None:
            seen = seen & visible((some // (rows * columns))[:, None, None], query, key)
        some_kept = (seen & (query < like.n_queries)).flatten(1).any(1)
        kept.append(some[some_kept])
        ids.append(table.ids(seen[some_kept]))
    places = torch.cat(kept) if kept else places
    counts = torch.bincount(places // columns, minlength=heads * rows)
    ends = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int()
    at = torch.arange(heads)[:, None] * rows + torch.arange(rows + 1)
    mask_ids = torch.cat(ids) if ids else torch.zeros(0, dtype=torch.int32)
    return Layout(
        block,
        like.n_queries,
        like.n_keys,
        ends[at],
        (places % columns).int(),
        mask_ids,
        table.masks,
    )


class _Table:
    """Every different mask once, found again by a 64-bit fingerprint that is then checked."""

    def __init__(self, block: int):
        generator = torch.Generator().manual_seed(0)
        self.weights = torch.randint(-(2**62), 2**62, (block * block,), generator=generator)
        self.masks = torch.zeros(0, block, block, dtype=torch.bool)
        self.numbers: dict[int, int] = {}
        self.ids(torch.ones(1, block, block, dtype=torch.bool))

    def ids(self, masks: Bool[Tensor, "E b b"]) -> Int32[Tensor, " E"]:
        prints = (masks.flatten(1) * self.weights).sum(1)
        values, inverse = prints.unique(return_inverse=True)
        # one entry of each fingerprint, whichever
        first = torch.zeros_like(values).scatter_(0, inverse, torch.arange(len(prints)))
        fresh = [i for i, value in enumerate(values.tolist()) if value not in self.numbers]
        for i in fresh:
            self.numbers[int(values[i])] = len(self.numbers)
        self.masks = torch.cat([self.masks, masks[first[fresh]]])
        numbers = torch.tensor([self.numbers[v] for v in values.tolist()], dtype=torch.int32)
        ids = numbers[inverse]
        assert torch.equal(self.masks[ids], masks), "two masks with one fingerprint"
        return ids
