"""How attention is cut so that scores of every pair are never held: geometry without numbers.

A tile is G blocks of b successive queries; block number g sees L successive keys. Full attention
takes one block at a time with all the keys it can see. A narrow window takes many blocks at once:
the keys of neighbouring blocks overlap, and a strided view shows them without a copy.

Legend: Z heads taken at once, G blocks, b queries of a block, L keys of a block, N queries, M keys.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Shaped
from torch import Tensor

# fewer rows than this make poor matrix products, more see keys that the window hides
ROWS = 64


@dataclass(frozen=True)
class Tile:
    """``blocks`` blocks of ``rows`` queries from ``query`` on; the first sees ``keys`` keys from
    ``key`` on, each later one ``rows`` further. Both may reach outside the sequence."""

    query: int
    blocks: int
    rows: int
    key: int
    keys: int


@dataclass(frozen=True)
class Band:
    """Query i sees key j iff -left <= j - (i + M - N) <= right; None is no bound.

    The last query sits beside the last key.
    """

    queries: int
    keys: int
    left: int | None
    right: int | None

    @property
    def offset(self) -> int:
        return self.keys - self.queries

    def narrow(self) -> bool:
        """Whether blocks of ``ROWS`` queries see less than half of the keys."""
        if self.left is None or self.right is None or self.queries <= ROWS:
            return False
        return 2 * (self.left + self.right + ROWS) <= self.keys

    def tiles(self, budget: int, one_block: bool) -> tuple[list[Tile], int]:
        """Tiles that cover the queries, and how many heads to take at once.

        Args:
            budget: scores to hold at once, about.
            one_block: no tile of several blocks.
        """
        if self.narrow() and not one_block:
            return self._blocked(budget)
        rows = min(self.queries, max(ROWS, budget // self.keys))
        tiles = []
        for start in range(0, self.queries, rows):
            stop = min(start + rows, self.queries)
            low, high = self._seen(start), self._seen(stop - 1)
            # a block that sees nothing gets one hidden key
            first = min(low[0], self.keys - 1)
            tiles.append(Tile(start, 1, stop - start, first, max(high[1] - first, 1)))
        return tiles, max(1, budget // (rows * self.keys))

    def _blocked(self, budget: int) -> tuple[list[Tile], int]:
        assert self.left is not None and self.right is not None
        rows = min(ROWS, max(16, -(-max(self.left, self.right) // 16) * 16))
        before, after = -(-self.left // rows), -(-self.right // rows)
        keys, blocks = (before + 1 + after) * rows, -(-self.queries // rows)
        most = min(blocks, max(1, budget // (rows * keys)))
        each = -(-blocks // -(-blocks // most))
        tiles = [
            Tile(i * rows, min(each, blocks - i), rows, (i - before) * rows + self.offset, keys)
            for i in range(0, blocks, each)
        ]
        return tiles, max(1, budget // (each * rows * keys))

    def _seen(self, query: int) -> tuple[int, int]:
        """First and last key (plus one) that a query sees, inside the sequence."""
        at = query + self.offset
        first = 0 if self.left is None else max(0, at - self.left)
        return first, self.keys if self.right is None else min(self.keys, at + self.right + 1)

    def relative(self, tile: Tile, device: torch.device) -> Tensor:
        """Key minus query position of each pair of a block, ``(b, L)``; the same in every block."""
        start = tile.key - tile.query - self.offset
        row = torch.arange(tile.rows, device=device)
        return torch.arange(start, start + tile.keys, device=device) - row[:, None]

    def hides(self, tile: Tile) -> bool:
        """Whether the band hides any pair of the tile (ends of the sequence apart)."""
        start = tile.key - tile.query - self.offset
        left = self.left is not None and start - (tile.rows - 1) < -self.left
        return left or (self.right is not None and start + tile.keys - 1 > self.right)

    def columns_with_hidden(self, tile: Tile) -> slice:
        """The keys of a block that the band hides from any of its rows, and perhaps more."""
        if self.left is not None or self.right is None:
            return slice(0, tile.keys)
        return slice(max(0, self.right + 1 - (tile.key - tile.query - self.offset)), tile.keys)

    def hidden(self, tile: Tile, device: torch.device) -> Tensor:
        """True where the band hides a pair of a block, ``(b, L)``."""
        relative = self.relative(tile, device)
        hidden = torch.zeros_like(relative, dtype=torch.bool)
        if self.left is not None:
            hidden |= relative < -self.left
        if self.right is not None:
            hidden |= relative > self.right
        return hidden

    def overhangs(self, tile: Tile) -> bool:
        """Whether the tile names keys outside the sequence."""
        return tile.key < 0 or tile.key + (tile.blocks - 1) * tile.rows + tile.keys > self.keys

    def may_be_empty(self, tile: Tile) -> bool:
        """Whether the band may leave a row of the tile without any key."""
        too_early = self.right is not None and tile.query + self.offset + self.right < 0
        return too_early or tile.query + tile.blocks * tile.rows > self.queries


def cut(
    x: Shaped[Tensor, "Z N *K"], start: int, blocks: int, step: int, length: int, fill: float = 0.0
) -> Shaped[Tensor, "Z G L *K"]:
    """Slices of ``length`` from ``start`` on, each ``step`` further; ``fill`` outside the sequence.

    A view where nothing reaches outside.
    """
    n, total = x.shape[1], (blocks - 1) * step + length
    low, high = (min(max(edge, 0), n) for edge in (start, start + total))
    part = x[:, low:high]
    if high - low < total:
        before = min(max(-start, 0), total)
        pad = [0, 0] * (x.ndim - 2) + [before, total - before - (high - low)]
        part = F.pad(part, pad, value=fill)
    if blocks == 1:
        return part.unsqueeze(1)
    slices = part.unfold(1, length, step)
    return slices if x.ndim == 2 else slices.transpose(-1, -2)


def add_cut(
    x: Shaped[Tensor, "Z N K"], slices: Shaped[Tensor, "Z G L K"], start: int, step: int
) -> None:
    """Adds overlapping slices back into x in place (the adjoint of ``cut``)."""
    blocks, length = slices.shape[1:3]
    width = step if blocks > 1 else length
    for shift in range(0, length, width):
        piece = slices[:, :, shift : shift + width]
        low, high = start + shift, start + shift + blocks * width
        if low >= 0 and high <= x.shape[1]:
            x[:, low:high].unflatten(1, (blocks, width)).add_(piece)
        elif high > 0 and low < x.shape[1]:
            inside = slice(max(low, 0), min(high, x.shape[1]))
            x[:, inside] += piece.flatten(1, 2)[:, inside.start - low : inside.stop - low]
