"""Layouts of blocks: each pattern is its definition, unions and transpositions, what is refused."""

import pytest
import torch

from kernels.block_sparse_attention import layouts
from kernels.block_sparse_attention.layout import Layout, build
from tests.kernels.attention_inputs import random_layout


def log_distance(d, local=1):
    return d < local or (d - local + 1).bit_count() == 1


# name -> (layout of n in blocks, whether query i of head h sees key j)
PATTERNS = {
    "band": (lambda n, b: layouts.band(n, b, 9, 4), lambda n, b, h, i, j: -9 <= j - i <= 4),
    "dilated window": (
        lambda n, b: layouts.band(n, b, 12, 12, dilation=3),
        lambda n, b, h, i, j: abs(i - j) <= 12 and (i - j) % 3 == 0,
    ),
    "strided": (
        lambda n, b: layouts.strided(n, b, 11),
        lambda n, b, h, i, j: 0 <= i - j < 11 or (j <= i and (i - j) % 11 == 0),
    ),
    "strided both ways": (
        lambda n, b: layouts.strided(n, b, 11, causal=False, local=False),
        lambda n, b, h, i, j: (i - j) % 11 == 0,
    ),
    "fixed": (
        lambda n, b: layouts.fixed(n, b, 10, 2),
        lambda n, b, h, i, j: j <= i and (i // 10 == j // 10 or j % 10 in (8, 9)),
    ),
    "fixed both ways": (
        lambda n, b: layouts.fixed(n, b, 10, 1, causal=False, local=False),
        lambda n, b, h, i, j: j % 10 == 9,
    ),
    "axial": (
        lambda n, b: layouts.axial(n, b, 9),
        lambda n, b, h, i, j: i // 9 == j // 9 or i % 9 == j % 9,
    ),
    "axial column": (
        lambda n, b: layouts.axial(n, b, 9, row=False),
        lambda n, b, h, i, j: i % 9 == j % 9,
    ),
    "axial causal": (
        lambda n, b: layouts.axial(n, b, 9, column=False).causal(),
        lambda n, b, h, i, j: j <= i and i // 9 == j // 9,
    ),
    "star": (
        lambda n, b: layouts.star(n, b, relays=2, reach=3),
        lambda n, b, h, i, j: abs(i - j) <= 3 or min(i, j) < 2,
    ),
    "global tokens": (
        lambda n, b: layouts.global_tokens(n, b, (0, n // 2)),
        lambda n, b, h, i, j: i == j or i in (0, n // 2) or j in (0, n // 2),
    ),
    "log sparse": (
        lambda n, b: layouts.log_sparse(n, b),
        lambda n, b, h, i, j: j <= i and log_distance(i - j),
    ),
    "log sparse with restarts": (
        lambda n, b: layouts.log_sparse(n, b, causal=False, local=3, restart=20, dense=5),
        lambda n, b, h, i, j: i < 5 or log_distance(abs(i - j) % 20, 3),
    ),
    "dilated segments": (
        lambda n, b: layouts.dilated(n, b, 14, 3, heads=4),
        lambda n, b, h, i, j: i // 14 == j // 14 and i % 14 % 3 == j % 14 % 3 == h % 3,
    ),
    "bigbird without luck": (
        lambda n, b: layouts.bigbird(n, b, random_blocks=0),
        lambda n, b, h, i, j: (
            abs(i // b - j // b) <= 1 or not {i // b, j // b}.isdisjoint({0, (n - 1) // b})
        ),
    ),
}


@pytest.mark.parametrize("n,block", [(1, 4), (2, 1), (63, 8), (100, 16), (40, 64)], ids=str)
@pytest.mark.parametrize("name", PATTERNS)
def test_a_layout_is_its_definition(name, n, block):
    make, rule = PATTERNS[name]
    layout = make(n, block)
    matrix = layout.matrix()
    wanted = [
        [[rule(n, block, h, i, j) for j in range(n)] for i in range(n)] for h in range(layout.heads)
    ]
    assert torch.equal(matrix, torch.tensor(wanted))
    assert torch.equal(layout.causal().matrix(), matrix.tril())
    # a stored block shows something
    count = -(-n // block)
    padded = torch.zeros(layout.heads, count * block, count * block, dtype=torch.bool)
    padded[:, :n, :n] = matrix
    used = padded.view(-1, count, block, count, block).any(4).any(2)
    assert layout.density == pytest.approx(used.double().mean().item())


def test_bigbird_draws_blocks_that_it_would_not_see_otherwise():
    block, count, heads = 4, 12, 3
    plain = layouts.bigbird(count * block, block, random_blocks=0)
    layout = layouts.bigbird(count * block, block, random_blocks=2, heads=heads, seed=5)
    seen = layout.matrix()[:, ::block, ::block]
    extra = seen & ~plain.matrix()[:, ::block, ::block]
    assert (extra[:, 1:-1].sum(-1) == 2).all()
    assert not torch.equal(extra[0], extra[1])
    assert torch.equal((seen & ~extra)[0], plain.matrix()[0, ::block, ::block])
    # the second row sees 4 blocks and the random ones: 4 + r blocks are all of them
    assert layouts.bigbird(6 * block, block, random_blocks=2).matrix().all()
    assert layouts.bigbird(48, 4, seed=5) is layouts.bigbird(48, 4, seed=5)
    assert not torch.equal(
        layouts.bigbird(48, 4, seed=5).matrix(), layouts.bigbird(48, 4, seed=6).matrix()
    )


def test_masks_are_stored_once():
    # the diagonals of a band look the same in every row
    layout = layouts.band(1024, 16, 20, 20)
    assert len(layout.masks) <= 6
    assert layout.density < 0.09


@pytest.mark.parametrize("heads", [(1, 1), (1, 3), (3, 1), (3, 3)], ids=str)
def test_union_and_transposition(heads):
    a, b = (random_layout(50, 70, 8, h, seed) for h, seed in zip(heads, (1, 2), strict=True))
    union = a | b
    assert torch.equal(union.matrix(), a.matrix() | b.matrix())
    offsets, rows, mask_ids = union.transposed()
    seen = torch.zeros(union.heads, 56, 72, dtype=torch.bool)
    for h in range(union.heads):
        for c in range(union.columns):
            for e in range(int(offsets[h, c]), int(offsets[h, c + 1])):
                r = int(rows[e]) * 8
                seen[h, r : r + 8, 8 * c : 8 * c + 8] = union.masks[int(mask_ids[e])]
    assert torch.equal(seen[:, :50, :70], union.matrix())
    corner = a.causal().matrix()
    assert torch.equal(corner, a.matrix().tril(70 - 50))


def ints(*values):
    return torch.tensor(values, dtype=torch.int32)


# five queries and six keys in blocks of two: one key block for each of two query blocks
GOOD = {
    "block": 2, "n_queries": 5, "n_keys": 6, "offsets": ints([0, 1, 2, 2]), "indices": ints(0, 2),
    "mask_ids": ints(0, 0), "masks": torch.ones(1, 2, 2, dtype=torch.bool),
}  # fmt: skip


@pytest.mark.parametrize(
    "change,message",
    [
        ({"offsets": ints([0, 1, 2])}, "offsets of 3"),
        ({"offsets": ints([0, 2, 1, 2])}, "rise from 0"),
        ({"offsets": ints([0, 1, 2, 3])}, "rise from 0"),
        ({"offsets": ints([0, 2, 2, 2]), "indices": ints(1, 1)}, "twice"),
        ({"indices": ints(0, 3)}, "key blocks 0 .. 2"),
        ({"mask_ids": ints(0, 1)}, "mask_ids"),
        ({"masks": torch.ones(1, 3, 3, dtype=torch.bool)}, r"\(1, 3, 3\)"),
        ({"n_keys": 0}, "at least 1"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_a_wrong_layout_is_refused(change, message):
    Layout(**GOOD)
    with pytest.raises(ValueError, match=message):
        Layout(**GOOD | change)


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: layouts.band(8, 4, -1, 0), "left must be at least 0, got -1"),
        (lambda: layouts.strided(8, 4, 0), "stride must be at least 1"),
        (lambda: layouts.bigbird(8, 4, window_blocks=2), "window_blocks must be odd"),
        (lambda: layouts.axial(8, 4, 2, row=False, column=False), "row, column or both"),
        (lambda: layouts.global_tokens(8, 4, (8,)), "positions 0 .. 7"),
        (lambda: layouts.band(8, 4, 1, 1) | layouts.band(8, 2, 1, 1), "can be united"),
        (lambda: build(8, 8, 4, torch.ones(1, 2, 3, dtype=torch.bool)), r"\(L, 2, 2\).*\(1, 2, 3"),
    ],
)
def test_a_wrong_pattern_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
