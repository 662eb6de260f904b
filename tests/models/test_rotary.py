"""Rotary positions: multiplication by exp(i m theta), whichever channels are paired."""

import pytest
import torch

from models.rotary import Rotary

K = 8


def rows(*, seed=0, width=K, n=100):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 2, n, width, generator=generator, dtype=torch.float64)


def turned(pairs):
    """Complex pairs at positions 0, 1, ..: times exp(i m theta), theta_c = 10000^(-2c / K)."""
    theta = 10000.0 ** (-2 * torch.arange(K // 2, dtype=torch.float64) / K)
    angle = torch.arange(pairs.shape[2], dtype=torch.float64)[:, None] * theta
    return pairs * torch.exp(1j * angle)


def test_is_complex_multiplication():
    x, y = rows(), Rotary(K)(rows())
    wanted = turned(torch.complex(x[..., : K // 2], x[..., K // 2 :]))
    torch.testing.assert_close(torch.complex(*y.chunk(2, -1)), wanted, rtol=0, atol=5e-5)


def test_neighbours_as_pairs_are_the_same_after_a_permutation():
    """The paper's pairs 2c and 2c + 1: even channels first, odd ones behind, makes them ours."""
    x = rows()
    neighbours = torch.view_as_real(turned(torch.view_as_complex(x.unflatten(-1, (-1, 2)))))
    order = torch.cat([torch.arange(0, K, 2), torch.arange(1, K, 2)])
    wanted = neighbours.flatten(-2)[..., order]
    torch.testing.assert_close(Rotary(K)(x[..., order]), wanted, rtol=0, atol=5e-5)


def test_position_0_is_the_identity():
    x = rows(n=1)
    assert torch.equal(Rotary(K)(x), x)
    assert not torch.allclose(Rotary(K)(x, start=1), x)


def test_scores_depend_on_the_distance_only():
    rotary = Rotary(K)
    q, k = (rows(seed=seed, n=1).expand(1, 2, 20, K) for seed in (1, 2))
    scores = (rotary(q) @ rotary(k).mT)[0, 0]
    for distance in (-5, 0, 3):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-5)
    assert scores[0].std() > 0.1
    later = (rotary(q, start=50) @ rotary(k, start=50).mT)[0, 0]
    torch.testing.assert_close(later, scores, rtol=0, atol=1e-4)


def test_keeps_lengths_and_starts_anywhere():
    rotary, x = Rotary(7), rows(width=7, n=6)
    torch.testing.assert_close(rotary(x).norm(dim=-1), x.norm(dim=-1), rtol=1e-6, atol=0)
    torch.testing.assert_close(rotary(x)[:, :, 4:], rotary(x[:, :, 4:], start=4))
    torch.testing.assert_close(rotary(x)[:, :, 1::2], rotary(x[:, :, 1::2], start=1, step=2))
    # an odd last channel has no pair
    torch.testing.assert_close(rotary(x)[..., -1], x[..., -1])


@pytest.mark.parametrize("base", [100.0, 9990.0])
def test_another_base_is_another_rotation(base):
    assert (Rotary(K, base)(rows()) - Rotary(K)(rows())).abs().max() > 5e-5
