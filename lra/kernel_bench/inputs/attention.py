"""Inputs of exact attention."""

import numpy as np

from lra.errors import UserError
from lra.kernel_bench.draw import Draw, Inputs


def attention(draw: Draw, *, causal: bool = False, window: list[int] | None = None) -> Inputs:
    """``window``: [left, right], inclusive."""
    if window is not None and (not isinstance(window, list) or len(window) != 2):
        raise UserError(f"op.variants: window must be [left, right], got {window}")
    edges = None if window is None else (int(window[0]), int(window[1]))
    case = draw.case
    pairs = case.batch * case.heads * visible(case.length, causal, edges)
    # two products forward; backward the scores again, and four products for the gradients
    forward = 2 * 2 * pairs * case.head_dim / 1e9
    return Inputs(
        tensors={name: draw.normal(*draw.heads_first) for name in "qkv"},
        options={"causal": causal, "window": edges}, causal=causal, window=edges,
        gflop={"forward": forward, "forward_backward": 3.5 * forward},
    )  # fmt: skip


def visible(length: int, causal: bool, window: tuple[int, int] | None) -> int:
    """Pairs of a query and a key that it sees."""
    left, right = (length, length) if window is None else window
    at = np.arange(length)
    before, after = np.minimum(at, left), np.minimum(length - 1 - at, 0 if causal else right)
    return int((1 + before + after).sum())
