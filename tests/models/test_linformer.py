"""Keys and values in k mixtures: the identity is dense attention, rows sum to one over k."""

import pytest
import torch

from kernels.errors import Unsupported
from models.mixers.exact.transformer import Transformer
from models.mixers.low_rank.linformer import Linformer

SHARES = ("kv", "headwise", "none")


def linformer(k=4, share="kv", max_len=16):
    torch.manual_seed(0)
    return Linformer(12, heads=2, max_len=max_len, causal=False, k=k, share=share).double().eval()


@pytest.mark.parametrize("share", SHARES)
def test_the_identity_is_dense_attention(share):
    mixer, dense = linformer(16, share), Transformer(12, heads=2, max_len=16, causal=False)
    mixer.card.equals[0].prepare(mixer)
    mixer.load_state_dict({**mixer.state_dict(), **dense.double().state_dict()})
    x = torch.randn(2, 16, 12, dtype=torch.float64)
    torch.testing.assert_close(mixer(x), dense.eval()(x))


@pytest.mark.parametrize("share", SHARES)
def test_equals_the_formula(share):
    mixer, x = linformer(4, share), torch.randn(2, 11, 12, dtype=torch.float64)
    q, k, v, _ = mixer.project(x)
    e = mixer.project_keys[..., :11]
    f = e if mixer.project_values is None else mixer.project_values[..., :11]
    weights = (q @ (e @ k).mT / 6**0.5).softmax(-1)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 11, dtype=torch.float64))
    torch.testing.assert_close(mixer.attend(q, k, v, None), weights @ (f @ v))


def test_shares_differ_in_parameters():
    sizes = [sum(p.numel() for p in linformer(4, share).parameters()) for share in SHARES]
    assert [size - sizes[0] for size in sizes] == [0, 4 * 16, 3 * 4 * 16]


def test_a_longer_sequence_is_refused():
    with pytest.raises(Unsupported, match="at most 16 positions, got 17"):
        linformer()(torch.randn(1, 17, 12, dtype=torch.float64))
