"""Long-Short Transformer: one softmax over near and projected keys, block by block."""

import pytest
import torch

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


def test_a_window_without_landmarks_is_dense():
    mixer, dense = build(window=17, num_landmarks=0, dual_ln=False), build(Transformer)
    dense.load_state_dict(mixer.state_dict())
    x, mask = inputs(17), torch.rand(2, 17) > 0.3
    torch.testing.assert_close(mixer(x, mask), dense(x, mask))


def test_padding_does_not_matter():
    mixer, x = build(window=4, num_landmarks=3), inputs(13)
    mask = torch.arange(13) < torch.tensor([[13], [6]])
    y = mixer(x.masked_fill(~mask[..., None], torch.nan), mask)
    torch.testing.assert_close(y[1:, :6], mixer(x[1:, :6]))
    torch.testing.assert_close(y[:1], mixer(x[:1]))


def test_refusals():
    with pytest.raises(Unsupported, match="cannot be causal"):
        build(causal=True)
    with pytest.raises(ValueError, match="window must be at least 1"):
        build(window=0)
