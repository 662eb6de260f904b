"""Blocks that do not overlap: each is a small transformer, and nothing crosses."""

import pytest
import torch

from models.mixers.exact.transformer import Transformer
from models.mixers.sparse.local_attention import LocalAttention


def pair(block_size, causal=False):
    torch.manual_seed(0)
    dense = Transformer(12, heads=2, max_len=32, causal=causal).double().eval()
    local = LocalAttention(12, heads=2, max_len=32, causal=causal, block_size=block_size)
    local.load_state_dict(dense.state_dict())
    return dense, local.double().eval()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n", [1, 4, 9, 20, 23])
def test_each_block_is_the_transformer_on_it(causal, n):
    dense, local = pair(5, causal)
    x = torch.randn(2, n, 12, dtype=torch.float64)
    wanted = torch.cat([dense(part) for part in x.split(5, dim=1)], dim=1)
    torch.testing.assert_close(local(x), wanted)


def test_equals_dense_attention_with_a_block_diagonal_mask():
    _, local = pair(5)
    x = torch.randn(2, 13, 12, dtype=torch.float64)
    q, k, v, _ = local.project(x)
    scores = q @ k.mT / 6**0.5
    block = torch.arange(13) // 5
    scores = scores.masked_fill(block[:, None] != block, -torch.inf)
    torch.testing.assert_close(local.attend(q, k, v, None), scores.softmax(-1) @ v)


def test_nothing_crosses_a_block():
    _, local = pair(5)
    x = torch.randn(1, 15, 12, dtype=torch.float64)
    changed = x.clone()
    changed[:, 5:10] += 1
    difference = (local(changed) - local(x)).abs().amax((0, 2))
    assert (difference[:5] == 0).all() and (difference[10:] == 0).all()
    assert (difference[5:10] > 0).all()


def test_decoding_forgets_the_block_before():
    _, local = pair(4, causal=True)
    x = torch.randn(2, 11, 12, dtype=torch.float64)
    state, sizes = local.init_state(2), []
    for t in range(11):
        y, state = local.step(x[:, t], state)
        torch.testing.assert_close(y, local(x)[:, t])
        sizes.append(state.inner.keys.shape[2])
    assert max(sizes) <= 4
