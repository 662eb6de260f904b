"""Columns of stored rows: opened once, read by row number, nothing else copied.

Legend: B batch, N values of the longest row.
"""

import functools
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

if TYPE_CHECKING:
    import datasets


class Lists:
    """A column of lists, of equal or unequal length: ``column[rows]`` is a view of each.

    A batch is fetched between two steps, when no cache is warm: what counts is not how many rows it
    has but how much code it runs, so the chunks are opened here and not for each batch. Arrow's own
    ``take`` copies whole chunks first.
    """

    def __init__(self, dataset: "datasets.Dataset", name: str) -> None:
        chunks = _table(dataset).column(name).chunks
        self._views = [_view(chunk) for chunk in chunks]
        self._begin = np.cumsum([0] + [len(chunk) for chunk in chunks]).tolist()

    def __len__(self) -> int:
        return int(self._begin[-1])

    def __getitem__(self, rows: Iterable[int]) -> list[np.ndarray]:
        """Those rows, in that order.

        Raises:
            IndexError: there is no such row.
        """
        return [self._row(int(row)) for row in rows]

    def _row(self, row: int) -> np.ndarray:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of a column of {len(self)}")
        chunk = bisect_right(self._begin, row) - 1
        values, offsets = self._views[chunk]
        at = row - self._begin[chunk]
        return values[offsets[at] : offsets[at + 1]]


@functools.lru_cache(maxsize=32)
def lists(dataset: "datasets.Dataset", name: str) -> Lists:
    """A column of lists of a dataset (its rows as stored: no selection, no shuffling)."""
    return Lists(dataset, name)


@functools.lru_cache(maxsize=32)
def labels(dataset: "datasets.Dataset") -> np.ndarray:
    """Column ``y`` of a dataset with one label a row."""
    return _table(dataset).column("y").to_numpy()


def pad(
    rows: Sequence[np.ndarray],
    *,
    fill: int = 0,
    end: int | None = None,
    length: int | None = None,
) -> tuple[Shaped[Tensor, "B N"], Bool[Tensor, "B N"]]:
    """Rows side by side (int64), ``fill`` after each one's end, and the mask of what is real.

    Args:
        rows: of equal or unequal length.
        fill: id of padding.
        end: id put after the last one of each row; it is real.
        length: N, no row being longer; None: that of the longest row.
    """
    longest = max(map(len, rows), default=0) + (end is not None)
    shape = (len(rows), longest if length is None else length)
    padded, mask = np.full(shape, fill, np.int64), np.zeros(shape, bool)
    for into, real, row in zip(padded, mask, rows, strict=True):
        last = len(row)
        into[:last] = row
        if end is not None:
            into[last] = end
            last += 1
        real[:last] = True
    return torch.from_numpy(padded), torch.from_numpy(mask)


def padded(
    dataset: "datasets.Dataset",
    rows: np.ndarray,
    *,
    end: int | None = None,
    length: int | None = None,
) -> tuple[Shaped[Tensor, "B N"], Bool[Tensor, "B N"], Shaped[Tensor, " B"]]:
    """Ids, mask and labels of some rows with lists ``x`` and one label ``y``; see ``pad``."""
    y = labels(dataset)[rows].astype(np.int64)
    return *pad(lists(dataset, "x")[rows], end=end, length=length), torch.from_numpy(y)


def _table(dataset: "datasets.Dataset") -> pa.Table:
    assert dataset._indices is None, "give the rows instead of selecting"
    return dataset.data.table


def _view(chunk: pa.ListArray | pa.FixedSizeListArray) -> tuple[np.ndarray, np.ndarray]:
    """Values and offsets, not copied."""
    if isinstance(chunk, pa.FixedSizeListArray):
        size = chunk.type.list_size
        return chunk.flatten().to_numpy(), np.arange(0, size * (len(chunk) + 1), size)
    return chunk.values.to_numpy(), chunk.offsets.to_numpy()
