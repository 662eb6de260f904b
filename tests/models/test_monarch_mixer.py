"""Monarch Mixer: gated convolution by Toeplitz matrices; a block-diagonal network by masks."""

import pytest
import torch
from torch import nn

from kernels.dispatch import prefer, record
from models.blocks.monarch import BlockDiagonalLinear, MonarchBlock
from models.mixers.conv.monarch_mixer import MonarchMixer
from models.spec import LayerSpec

DIM = 4


def made(causal=False, **knobs):
    torch.manual_seed(0)
    knobs = {"filter_order": 8} | knobs
    return MonarchMixer(DIM, heads=1, max_len=32, causal=causal, **knobs).double()


def inputs(n):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, n, DIM, generator=generator, dtype=torch.float64)


def both_sides(taps, directions, n):
    """(N, N, D): lag i - j >= 0 from the first filter, the future from the second."""
    kernel = taps(n).unflatten(0, (directions, DIM))
    matrix = torch.zeros(n, n, DIM, dtype=torch.float64)
    for i in range(n):
        for j in range(n):
            if i >= j:
                matrix[i, j] = kernel[0, :, i - j]
            elif directions == 2:
                matrix[i, j] = kernel[1, :, j - i - 1]
    return matrix


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("n", [1, 2, 13])
def test_equals_toeplitz_matrices_on_both_sides(causal, residual, n):
    mixer, x = made(causal, residual_long_conv=residual), inputs(n)
    ways = 1 if causal else 2
    u = mixer.into(x)
    padded = torch.nn.functional.pad(u, (0, 0, 2, 0) if causal else (0, 0, 1, 1))
    u = torch.stack([(padded[:, t : t + 3] * mixer.short.T).sum(1) for t in range(n)], 1)
    x1, x2, v = u.chunk(3, -1)
    w = x1 * v
    y = x2 * (torch.einsum("ijd,bjd->bid", both_sides(mixer.filter, ways, n), w) + mixer.d * w)
    if residual:
        matrix = both_sides(mixer.residual_filter, ways, n)
        y = y + torch.einsum("ijd,bjd->bid", matrix, x)
    torch.testing.assert_close(mixer(x), mixer.out(y))


@pytest.mark.parametrize("causal", [False, True])
def test_equals_itself_by_monarch_products(causal):
    mixer, x = made(causal), inputs(13)
    with record() as log, prefer({"long_conv": "monarch"}):
        y = mixer(x)
    assert log["long_conv"].backend == "monarch"
    torch.testing.assert_close(y, mixer(x))


@pytest.mark.parametrize("causal", [False, True])
def test_padding_does_not_come_back(causal):
    mixer, x = made(causal), inputs(13)
    mask = torch.arange(13) < torch.tensor([[13], [7]])
    y = mixer(x.masked_fill(~mask[..., None], torch.nan), mask)
    torch.testing.assert_close(y[1:, :7], mixer(x[1:, :7]))


def test_block_diagonal_is_dense_under_a_mask():
    torch.manual_seed(0)
    linear, x = BlockDiagonalLinear(6, 9, 3), torch.randn(5, 6)
    dense = torch.block_diag(*linear.weight)
    torch.testing.assert_close(linear(x), x @ dense + linear.bias)
    assert (dense != 0).sum() == 3 * 2 * 3


def test_one_block_is_the_usual_network():
    torch.manual_seed(0)
    spec = LayerSpec(dim=4, heads=1, max_len=8, causal=False, ffn_dim=6)
    block = MonarchBlock(spec, lambda s: made(), nblocks=1)
    x = torch.randn(2, 3, 4)
    first, second = block.ffn[0], block.ffn[3]
    usual = nn.functional.linear(
        nn.functional.gelu(nn.functional.linear(x, first.weight[0].T, first.bias)),
        second.weight[0].T, second.bias,
    )  # fmt: skip
    torch.testing.assert_close(block.ffn(x), usual)
    with pytest.raises(ValueError, match="nblocks=4 must divide the widths 4 and 6"):
        MonarchBlock(spec, lambda s: made())
