"""How block-sparse attention is cut: query blocks with lists of like length are worked on together.

Legend: L list heads, R query blocks, C key blocks, b positions of a block; G lists of a tile with
W key blocks each (shorter lists are filled up with hidden ones).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from kernels.block_sparse_attention.layout import Layout

# lists are filled up to at most this much more than the shortest of their tile
FILL = 1.25


@dataclass(frozen=True)
class Tile:
    """Some lists.

    Attributes:
        lists: ``head R + row`` of each.
        keys: ``head C + key block`` of every entry, list after list.
        masks: number of each entry's mask; a single row where all lists have the same, None where
            everything is visible.
        may_be_empty: whether a query may see none of the keys.
    """

    lists: Int64[Tensor, " G"]
    keys: Int64[Tensor, " GW"]
    masks: Int64[Tensor, "G1 W"] | None
    may_be_empty: bool


def tiles(layout: Layout, share: int, budget: int) -> list[Tile]:
    """Tiles of every list that is not empty.

    Args:
        layout: on any device.
        share: how many heads use each list.
        budget: scores of a tile over all of these heads.
    """
    lists, device = layout.to(torch.device("cpu")), layout.masks.device
    return layout.keep(("tiles", share, budget), lambda: _tiles(lists, share, budget, device))


def masks_with_nothing(layout: Layout, dtype: torch.dtype) -> Float[Tensor, "P1 b b"]:
    """The layout's masks and one more of nothing, as ceilings: +inf where visible, else -inf."""

    def make() -> Tensor:
        masks = torch.cat([layout.masks, torch.zeros_like(layout.masks[:1])])
        full = torch.full(masks.shape, torch.inf, dtype=dtype, device=masks.device)
        return full.masked_fill_(~masks, -torch.inf)

    return layout.keep(("ceilings", dtype), make)


def _tiles(layout: Layout, share: int, budget: int, device: torch.device) -> list[Tile]:
    starts = layout.offsets[:, :-1].flatten().long()
    lengths = layout.offsets.diff(dim=1).flatten().long()
    # lists with the same masks side by side: their tile needs the masks of one of them
    entry = torch.arange(len(layout.indices)) - starts.repeat_interleave(lengths)
    print_ = torch.zeros_like(lengths).index_add_(
        0,
        torch.arange(len(lengths)).repeat_interleave(lengths),
        (entry + 1) * 0x9E3779B1 * layout.mask_ids,
    )
    order = print_.argsort(stable=True)
    order = order[lengths[order].argsort(stable=True)]
    order = order[lengths[order] > 0]
    made, begin = [], 0
    sizes = lengths[order].tolist()
    while begin < len(sizes):
        end = begin + 1
        while (
            end < len(sizes)
            and sizes[end] <= FILL * sizes[begin]
            and (end + 1 - begin) * sizes[end] * layout.block**2 * share <= budget
        ):
            end += 1
        made.append(_tile(layout, order[begin:end], starts, lengths, device))
        begin = end
    return made


def _tile(
    layout: Layout,
    lists: Int64[Tensor, " G"],
    starts: Int64[Tensor, " LR"],
    lengths: Int64[Tensor, " LR"],
    device: torch.device,
) -> Tile:
    width = int(lengths[lists].max())
    at = torch.arange(width)
    real = at < lengths[lists, None]
    entries = (starts[lists, None] + at).where(real, 0)
    keys = lists[:, None] // layout.rows * layout.columns + layout.indices[entries].where(real, 0)
    masks = layout.mask_ids[entries].long().where(real, len(layout.masks))
    if (masks == masks[:1]).all():
        masks = masks[:1]
    may_be_empty = not _rows_with_keys(layout)[masks].any(1).all()
    return Tile(
        lists.to(device),
        keys.flatten().to(device),
        masks.to(device) if masks.any() else None,
        may_be_empty,
    )


def _rows_with_keys(layout: Layout) -> Bool[Tensor, "P1 b"]:
    """Which queries see a key through each mask (and through none, the last)."""
    masks = layout.masks.any(2)
    return torch.cat([masks, torch.zeros_like(masks[:1])])
