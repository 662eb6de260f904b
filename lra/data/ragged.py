"""From rows of unequal length to a padded batch. B rows, N tokens of the longest."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

if TYPE_CHECKING:
    import datasets


def ragged(
    rows: "pa.Table | datasets.Dataset", indices: Sequence[int] | np.ndarray | None, column: str
) -> tuple[np.ndarray, np.ndarray]:
    """A list column of some rows: all values one after the other, and each row's length.

    Arrow's own ``take`` copies whole chunks first; this copies only the rows.

    Args:
        rows: an Arrow table, or a dataset (its rows as stored: no selection, no shuffling).
        indices: which rows, in which order; None: all.
        column: name of a list column.
    """
    if not isinstance(rows, pa.Table):
        assert rows._indices is None, "give the indices to ragged instead of selecting"
        rows = rows.data.table
    chunks = rows.column(column).chunks
    begin = np.cumsum([0] + [len(chunk) for chunk in chunks])
    index = np.arange(begin[-1]) if indices is None else np.asarray(indices)
    if index.size and (index.min() < 0 or index.max() >= begin[-1]):
        raise IndexError(f"rows {index.min()}..{index.max()} of a table of {begin[-1]}")
    of_chunk = np.searchsorted(begin, index, side="right") - 1
    views = {int(i): _view(chunks[i]) for i in np.unique(of_chunk)}
    parts, lengths = [], np.empty(len(index), np.int32)
    for i, (chunk, row) in enumerate(zip(of_chunk, index - begin[of_chunk], strict=True)):
        values, offsets = views[chunk]
        parts.append(values[offsets[row] : offsets[row + 1]])
        lengths[i] = len(parts[-1])
    return np.concatenate(parts) if parts else np.empty(0, np.int64), lengths


def _view(chunk: pa.ListArray) -> tuple[np.ndarray, np.ndarray]:
    """Values and offsets of a list array, not copied."""
    return chunk.values.to_numpy(), chunk.offsets.to_numpy()


def pad(
    values: np.ndarray,
    lengths: np.ndarray,
    *,
    fill: float = 0,
    dtype: torch.dtype = torch.int64,
) -> tuple[Shaped[Tensor, "B N"], Bool[Tensor, "B N"]]:
    """Rows side by side, ``fill`` after each one's end, and the mask of what is real.

    Args:
        values: of all rows, one after the other.
        lengths: ``(B,)``.
        fill: what stands where nothing is.
        dtype: of the padded rows.
    """
    mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
    padded = np.full(mask.shape, fill, torch.empty(0, dtype=dtype).numpy().dtype)
    padded[mask] = values
    return torch.from_numpy(padded), torch.from_numpy(mask)
