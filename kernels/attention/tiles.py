"""How attention is cut so that the scores of every pair are never held: geometry, no numbers.

A tile is G blocks of b successive queries, and each block sees L successive keys. Full attention
takes one block at a time with all the keys that it can see. A narrow window takes many blocks at
once: the keys of neighbouring blocks overlap, and a strided view shows them without a copy.

Legend: Z heads taken at once, G blocks, b queries of a block, L keys of a block, N queries, M keys.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

# fewer rows than this make poor matrix products; more see keys that a window hides
ROWS = 64

At = tuple[slice, slice]  # examples and heads


@dataclass(frozen=True)
class Tile:
    """``blocks`` blocks of ``rows`` queries from ``query`` on; the first sees ``keys`` keys from
    ``key`` on, each later one ``rows`` further. All of it lies inside the sequence."""

    query: int
    blocks: int
    rows: int
    key: int
    keys: int

    @property
    def scores(self) -> int:
        return self.blocks * self.rows * self.keys


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

    def tiles(self, budget: int, blocked: bool) -> list[Tile]:
        """Tiles that cover the queries, each of about ``budget`` scores of one head.

        ``blocked`` allows tiles of several blocks, where the window is narrow enough for them.
        """
        if self.left is None or self.right is None or not blocked:
            return self._dense(0, self.queries, budget)
        rows = min(ROWS, max(16, -(-max(self.left, self.right) // 16) * 16))
        before, after = -(-self.left // rows), -(-self.right // rows)
        keys = (before + 1 + after) * rows
        # block i starts at key (i - before) rows + offset: those that lie inside
        start = -(-self.offset // rows)
        first = max(0, before - start if self.offset % rows == 0 else before + 1 - start)
        last = min((self.keys - keys - self.offset) // rows + before, self.queries // rows - 1)
        if 2 * keys > self.keys or last < first:
            return self._dense(0, self.queries, budget)
        most = max(1, budget // (rows * keys))
        blocks = last + 1 - first
        each = -(-blocks // -(-blocks // most))
        inside = [
            Tile(i * rows, min(each, last + 1 - i), rows, (i - before) * rows + self.offset, keys)
            for i in range(first, last + 1, each)
        ]
        ends = (0, first * rows), ((last + 1) * rows, self.queries)
        return inside + [tile for end in ends for tile in self._dense(*end, rows * keys)]

    def _dense(self, begin: int, end: int, budget: int) -> list[Tile]:
        """Tiles of one block, with the keys that its queries see between them."""
        rows = max(ROWS, budget // self.keys)
        if self.right is not None:
            # a block computes what it hides behind its diagonal, too
            rows = min(rows, 2 * ROWS)
        tiles = []
        for start in range(begin, end, rows):
            stop = min(start + rows, end)
            low, high = 0, self.keys
            if self.left is not None:
                low = min(max(0, start + self.offset - self.left), self.keys - 1)
            if self.right is not None:
                high = min(self.keys, stop + self.offset + self.right)
            # a block that sees nothing gets one hidden key
            tiles.append(Tile(start, 1, stop - start, low, max(high - low, 1)))
        return tiles

    def relative(self, tile: Tile, device: torch.device) -> Int[Tensor, "b L"]:
        """Key minus query position of each pair of a block; the same in every block."""
        start = tile.key - tile.query - self.offset
        row = torch.arange(tile.rows, device=device)
        return torch.arange(start, start + tile.keys, device=device) - row[:, None]

    def diagonals(self, tile: Tile, device: torch.device) -> Int[Tensor, " D"]:
        """The distances of ``relative``, each once, from the smallest on."""
        start = tile.key - tile.query - self.offset
        return torch.arange(start + 1 - tile.rows, start + tile.keys, device=device)

    def hides(self, tile: Tile) -> bool:
        """Whether the band hides any pair of the tile."""
        start = tile.key - tile.query - self.offset
        left = self.left is not None and start - (tile.rows - 1) < -self.left
        return left or (self.right is not None and start + tile.keys - 1 > self.right)

    def columns_with_hidden(self, tile: Tile) -> slice:
        """The keys of a block that the band hides from any of its rows, and perhaps more."""
        if self.left is not None or self.right is None:
            return slice(0, tile.keys)
        return slice(max(0, self.right + 1 - (tile.key - tile.query - self.offset)), tile.keys)

    def hidden(self, tile: Tile, device: torch.device) -> Bool[Tensor, "b L"]:
        """True where the band hides a pair of a block."""
        relative = self.relative(tile, device)
        hidden = torch.zeros_like(relative, dtype=torch.bool)
        if self.left is not None:
            hidden |= relative < -self.left
        if self.right is not None:
            hidden |= relative > self.right
        return hidden

    def may_be_empty(self, tile: Tile) -> bool:
        """Whether the band leaves a row of the tile without any key."""
        return self.right is not None and tile.query + self.offset + self.right < 0


def groups(batch: int, heads: int, at_once: int) -> Iterator[At]:
    """Cuts B x H: several examples with all their heads, or some heads of one example."""
    examples, some = max(1, at_once // heads), min(heads, max(1, at_once))
    for b in range(0, batch, examples):
        for h in range(0, heads, some):
            yield slice(b, b + examples), slice(h, h + some)


def cut(
    x: Shaped[Tensor, "B H N *K"], at: At, start: int, blocks: int, step: int, length: int
) -> Shaped[Tensor, "Z G L *K"]:
    """Slices of ``length`` from ``start`` on, each ``step`` further; a view if memory allows."""
    part = x[at][:, :, start : start + (blocks - 1) * step + length].flatten(0, 1)
    if blocks == 1:
        return part.unsqueeze(1)
    return part.unfold(1, length, step).movedim(-1, 2)


def add_cut(
    x: Shaped[Tensor, "B H N K"], at: At, start: int, step: int, slices: Shaped[Tensor, "Z G L K"]
) -> None:
    """Adds overlapping slices back into x in place (the adjoint of ``cut``)."""
    blocks, length = slices.shape[1:3]
    width = step if blocks > 1 else length
    whole = x[at]
    for shift in range(0, length, width):
        low = start + shift
        part = whole[:, :, low : low + blocks * width].unflatten(2, (blocks, width))
        part += slices[:, :, shift : shift + width].unflatten(0, whole.shape[:2])


def put(whole: Tensor, part: Tensor, at: At, tile: Tile) -> None:
    """Writes the rows of a tile ``(Z, G, b, ...)`` where they belong in ``(B, H, N, ...)``."""
    where = whole[at][:, :, tile.query : tile.query + tile.blocks * tile.rows]
    where.copy_(part.reshape(where.shape))
