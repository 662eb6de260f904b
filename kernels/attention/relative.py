"""A bias by relative position from a table, without the N x M tensor that it stands for.

All pairs on a diagonal have one distance: a tile of b queries and L keys reads b + L - 1 entries of
the table, and the gradient of an entry is the sum along the diagonals that read it. Distances
beyond the table share its end entries (Shaw et al. 2018, arXiv 1803.02155, section 3.2).

Legend: H heads, R entries of the table, D = b + L - 1 diagonals.
"""

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad


def entry(table: Float[Tensor, "H R"], distance: Int[Tensor, "*S"]) -> Int[Tensor, "*S"]:
    """The entry of each distance, key minus query position."""
    farthest = table.shape[1] // 2
    return distance.clamp(-farthest, farthest) + farthest


def from_diagonals(x: Float[Tensor, "H D"], rows: int) -> Float[Tensor, "H b L"]:
    """A tile of that many rows from its diagonals, smallest distance first."""
    return x.unfold(1, x.shape[1] - rows + 1, 1).flip(1)


def onto_diagonals(x: Float[Tensor, "H b L"]) -> Float[Tensor, "H D"]:
    """Sums along the diagonals of a tile (the adjoint of ``from_diagonals``)."""
    rows = x.shape[1]
    # each row filled up by b, then read as if by b - 1: one step further right in every next row
    skewed = pad(x.flip(1), (0, rows)).flatten(1)[:, :-rows]
    return skewed.unflatten(1, (rows, -1)).sum(1)
