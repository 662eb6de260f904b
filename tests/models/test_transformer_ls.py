"""Long-Short Transformer: one softmax over near and projected keys, block by block."""

import pytest
import torch
from torch.nn import functional as F

from kernels.errors import Unsupported
from models.mixers.exact.transformer import Transformer
from models.mixers.sparse.transformer_ls import TransformerLS

DIM, HEADS = 12, 3


def build(kind=TransformerLS, causal=False, **knobs):
    torch.manual_seed(0)
    return kind(DIM, heads=HEADS, max_len=64, causal=causal, **knobs).double().eval()


def inputs(n):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, n, DIM, generator=generator, dtype=torch.float64)


def by_hand(mixer, x, window):
    """The joint softmax over concatenated keys, query by query, of unpadded sequences."""
    n = x.shape[1]
    q, k, v, _ = mixer.project(x)
    near = [mixer._normed(y, mixer.near_norm) for y in (k, v)]
    weights = mixer.project_to(x).unflatten(-1, (HEADS, -1)).permute(0, 2, 3, 1).softmax(-1)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, HEADS, mixer.landmarks).double())
    far = [mixer._normed(weights @ y, mixer.far_norm) for y in (k, v)]
    rows = []
    for i in range(n):
        start = i // window * window
        side = 0 if window >= n else -(-window // 2)
        seen = slice(max(0, start - side), min(n, start + window + side))
        keys = torch.cat([near[0][:, :, seen], far[0]], 2)
        values = torch.cat([near[1][:, :, seen], far[1]], 2)
        rows.append((q[:, :, i : i + 1] @ keys.mT / 2).softmax(-1) @ values)
    return mixer.output(torch.cat(rows, 2).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("n", [1, 2, 4, 13, 20])
@pytest.mark.parametrize("window", [1, 4, 5])
@pytest.mark.parametrize("dual_ln", [True, False])
def test_equals_one_softmax_over_both_kinds_of_keys(n, window, dual_ln):
    mixer, x = build(window=window, num_landmarks=3, dual_ln=dual_ln), inputs(n)
    torch.testing.assert_close(mixer(x), by_hand(mixer, x, window))


def causal_by_hand(mixer, x, real):
    """Query by query, of one example: the last keys, and those of every chunk before its own."""
    window, size = mixer.window, mixer.chunk_size
    q, k, v, _ = mixer.project(x, real)
    near = [mixer._normed(y, mixer.near_norm) for y in (k, v)]
    scores = mixer.project_to(x.masked_fill(~real[..., None], 0))
    scores = scores.unflatten(-1, (HEADS, -1)).permute(0, 2, 3, 1)
    rows = []
    for i in range(x.shape[1]):
        seen = [j for j in range(max(0, i - window + 1), i + 1) if real[0, j]]
        keys, values = ([y[:, :, seen]] for y in near)
        for start in range(0, i // size * size, size):
            at = [j for j in range(start, start + size) if real[0, j]]
            if at:
                weights = scores[..., at].softmax(-1)
                far = [mixer._normed(weights @ y[:, :, at], mixer.far_norm) for y in (k, v)]
                keys.append(far[0])
                values.append(far[1])
        keys, values = torch.cat(keys, 2), torch.cat(values, 2)
        rows.append((q[:, :, i : i + 1] @ keys.mT / 2).softmax(-1) @ values)
    return mixer.output(torch.cat(rows, 2).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("n", [1, 4, 5, 13, 20])
@pytest.mark.parametrize(("window", "rank"), [(1, 1), (4, 3), (30, 2)])
@pytest.mark.parametrize("dual_ln", [True, False])
def test_causal_equals_one_softmax_over_both_kinds_of_keys(n, window, rank, dual_ln):
    mixer = build(causal=True, window=window, chunk_size=4, chunk_rank=rank, dual_ln=dual_ln)
    x, mask = inputs(n), torch.rand(2, n, generator=torch.Generator().manual_seed(2)) > 0.4
    # a whole chunk without a token
    mask[1, 4:8] = False
    for row in (0, 1):
        for real in (torch.ones(1, n, dtype=torch.bool), mask[row : row + 1]):
            wanted, got = causal_by_hand(mixer, x[row:][:1], real), mixer(x[row:][:1], real)
            torch.testing.assert_close(got[real], wanted[real])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dual_ln", [True, False])
def test_a_window_without_landmarks_is_dense(causal, dual_ln):
    """With dual_ln: dense over keys and values that one norm, across the heads, has passed."""
    mixer = build(causal=causal, window=17, num_landmarks=0, chunk_rank=0, dual_ln=dual_ln)
    dense = build(Transformer, causal)
    dense.load_state_dict(mixer.state_dict(), strict=not dual_ln)
    x, mask = inputs(17), torch.rand(2, 17) > 0.3
    q, k, v, _ = dense.project(x, mask)
    if dual_ln:
        with torch.no_grad():
            scale, shift = mixer.near_norm.weight.normal_(), mixer.near_norm.bias.normal_()
        k, v = (y.transpose(1, 2).flatten(2) for y in (k, v))
        k, v = (dense.heads_of(F.layer_norm(y, (DIM,), scale, shift)) for y in (k, v))
    wanted = dense.output(dense.attend(q, k, v, mask).transpose(1, 2).flatten(2))
    torch.testing.assert_close(mixer(x, mask), wanted)
    assert mixer.dense_at(17) == (not dual_ln)


def test_padding_does_not_matter():
    mixer, x = build(window=4, num_landmarks=3), inputs(13)
    mask = torch.arange(13) < torch.tensor([[13], [6]])
    y = mixer(x.masked_fill(~mask[..., None], torch.nan), mask)
    torch.testing.assert_close(y[1:, :6], mixer(x[1:, :6]))
    torch.testing.assert_close(y[:1], mixer(x[:1]))


def test_refusals():
    with pytest.raises(ValueError, match="window and chunk_size must be at least 1"):
        build(window=0)
    with pytest.raises(Unsupported, match="does not decode step by step"):
        build(causal=True).init_state(1)
