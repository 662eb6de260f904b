"""Landmarks of the true length, and exactness where each token is one."""

import math

import pytest
import torch

from kernels.errors import Unsupported
from models.mixers.exact.transformer import Transformer
from models.mixers.low_rank.nystromformer import Nystromformer


def build(num_landmarks=4, conv_kernel=3, pinv_iters=6, kind=Nystromformer, **knobs):
    torch.manual_seed(0)
    if kind is Nystromformer:
        knobs.update(num_landmarks=num_landmarks, conv_kernel=conv_kernel, pinv_iters=pinv_iters)
    return kind(12, heads=3, max_len=64, causal=False, **knobs).double().eval()


def by_hand(mixer, x, real):
    """One example, its landmarks token by token; ``real`` are the positions that are not holes."""
    n, m = x.shape[0], mixer.num_landmarks
    x = x * torch.tensor([[float(i in real)] for i in range(n)])
    q, k, v = (t[0] for t in mixer.project(x[None])[:3])
    heads = []
    for h in range(3):
        members = [[i for i in real if i * m // n == s] for s in range(m)]
        members = [group for group in members if group]
        lq, lk = (torch.stack([t[h, g].mean(0) for g in members]) for t in (q, k))
        keys, values = k[h, real], v[h, real]
        f = (q[h] @ lk.T / math.sqrt(4)).softmax(-1)
        a = (lq @ lk.T / math.sqrt(4)).softmax(-1)
        b = (lq @ keys.T / math.sqrt(4)).softmax(-1)
        heads.append(f @ torch.linalg.pinv(a) @ b @ values)
    y = torch.stack(heads)
    if mixer.conv is not None:
        width = mixer.conv.weight.shape[2]
        padded = torch.nn.functional.pad(v, (0, 0, width // 2, width // 2))
        taps = mixer.conv.weight[:, 0, :, 0]
        y = y + sum(taps[:, t, None, None] * padded[:, t : t + n] for t in range(width))
    return mixer.output(y.transpose(0, 1).flatten(1))


@pytest.mark.parametrize("n", [5, 8, 9, 23])
def test_equals_the_formula_with_an_exact_pseudo_inverse(n):
    mixer, x = build(pinv_iters=60), torch.randn(n, 12, dtype=torch.float64)
    wanted = by_hand(mixer, x, list(range(n)))
    torch.testing.assert_close(mixer(x[None])[0], wanted, rtol=1e-6, atol=1e-8)


def test_holes_are_not_in_the_means_and_may_empty_a_segment():
    mixer, x = build(pinv_iters=60), torch.randn(20, 12, dtype=torch.float64)
    real = [0, 1, 4, 10, 11, 12, 13, 15, 19]  # nothing of segment 5 .. 9
    mask = torch.zeros(1, 20, dtype=torch.bool)
    mask[0, real] = True
    # 4 segments of 5 positions: the second holds no real token
    real.remove(4), mask[0, 4].fill_(False)
    got = mixer(x[None].masked_fill(~mask[..., None], torch.nan), mask)[0]
    torch.testing.assert_close(got[real], by_hand(mixer, x, real)[real], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("n,m", [(1, 1), (7, 7), (7, 20)])
def test_a_landmark_for_each_token_is_dense(n, m):
    (equals,) = Nystromformer.card.equals
    assert equals.knobs(n) == {"num_landmarks": n, "conv_kernel": 0}
    mixer, dense = build(m, conv_kernel=0), build(kind=Transformer)
    dense.load_state_dict(mixer.state_dict())
    x = torch.randn(2, n, 12, dtype=torch.float64)
    torch.testing.assert_close(mixer(x), dense(x), rtol=1e-12, atol=1e-12)
    assert mixer.dense_at(n) and not mixer.dense_at(m + 1)


@pytest.mark.parametrize("m", [4, 8, 12, 30])
def test_padding_does_not_matter_on_either_side_of_the_landmarks(m):
    mixer, x = build(m), torch.randn(6, 23, 12, dtype=torch.float64)
    lengths = [23, 13, 12, 8, 1, 0]
    mask = torch.arange(23) < torch.tensor(lengths)[:, None]
    mask[0, 3:7] = mask[1, 5] = mask[3, 2] = False
    x = x.masked_fill(~mask[..., None], torch.nan).requires_grad_()
    y = mixer(x, mask)
    assert y.isfinite().all()
    (grad,) = torch.autograd.grad(y.square().sum(), x)
    assert grad.isfinite().all()
    for row, n in enumerate(lengths[:-1]):
        one = mixer(x[row : row + 1, :n], mask[row : row + 1, :n])
        real = mask[row, :n]
        torch.testing.assert_close(y[row, :n][real], one[0][real], rtol=1e-10, atol=1e-10)


def test_a_neighbour_in_the_batch_does_not_matter():
    mixer, x = build(), torch.randn(2, 23, 12, dtype=torch.float64)
    loud = torch.cat([x, 50 * x])
    torch.testing.assert_close(mixer(loud)[:2], mixer(x), rtol=1e-10, atol=1e-10)


def test_more_landmarks_come_closer_to_dense_attention():
    dense = build(kind=Transformer)
    x = torch.randn(4, 64, 12, dtype=torch.float64).cumsum(1) / 8
    errors = []
    for m in (2, 8, 32):
        mixer = build(m, conv_kernel=None, pinv_iters=20)
        dense.load_state_dict(mixer.state_dict())
        errors.append((mixer(x) - dense(x)).norm().item())
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_the_convolution_has_one_filter_a_head():
    assert build(conv_kernel=35).conv.weight.shape == (3, 1, 35, 1)
    assert build(conv_kernel=0).conv is None and build(conv_kernel=None).conv is None


def test_what_it_refuses():
    with pytest.raises(Unsupported, match="cannot be causal"):
        Nystromformer(12, heads=3, max_len=17, causal=True)
    with pytest.raises(ValueError, match="conv_kernel must be odd or 0, got 4"):
        build(conv_kernel=4)
    with pytest.raises(ValueError, match="num_landmarks must be at least 1"):
        build(num_landmarks=0)
