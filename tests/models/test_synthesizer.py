"""Scores that compare no tokens: their definition in each mode, and the Transformer inside."""

import math

import pytest
import torch

from kernels.errors import Unsupported
from models.mixers.exact.transformer import Transformer
from models.mixers.low_rank.synthesizer import MODES, Synthesizer


def build(causal=False, kind=Synthesizer, **knobs):
    torch.manual_seed(0)
    return kind(12, heads=3, max_len=20, causal=causal, **knobs).double().eval()


def scores(mixer, x):
    """The definitions of the paper, token by token."""
    batch, n, _ = x.shape
    b = torch.zeros(batch, 3, n, n, dtype=torch.float64)
    for h in range(3):
        part = slice(4 * h, 4 * h + 4)
        for i in range(n):
            for j in range(n):
                if mixer.mode == "random":
                    b[:, h, i, j] = mixer.r1[h, i, j]
                elif mixer.mode == "factorized_random":
                    b[:, h, i, j] = mixer.r1[h, i] @ mixer.r2[h, j]
                elif mixer.mode == "dense":
                    hidden = mixer.hidden(x[:, i])[:, part].relu()
                    b[:, h, i, j] = hidden @ mixer.r2[h, j] + mixer.bias[h, j, 0]
                else:
                    size = mixer.inner
                    both = mixer.factors(x[:, i])[:, 2 * size * h : 2 * size * (h + 1)]
                    b[:, h, i, j] = both[:, j % size] * both[:, size + j // size]
                if mixer.dot_product:
                    q, k = mixer.query(x[:, i])[:, part], mixer.key(x[:, j])[:, part]
                    b[:, h, i, j] += (q * k).sum(-1) / 2
    return b


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dot_product", [False, True])
def test_equals_its_definition(mode, causal, dot_product):
    mixer = build(causal, mode=mode, k=3, dot_product=dot_product)
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 0, 1, 1, 0, 0]]).bool()
    seen = mask[:, None, None, :] & torch.ones(7, 7, dtype=torch.bool).tril(0 if causal else 9)
    clean = x.masked_fill(~mask[..., None], 0)
    weights = scores(mixer, clean).masked_fill(~seen, -math.inf).softmax(-1)
    v = mixer.value(clean).unflatten(-1, (3, 4)).transpose(1, 2)
    wanted = mixer.output((weights @ v).transpose(1, 2).flatten(2))
    dirty = x.masked_fill(~mask[..., None], math.nan)
    torch.testing.assert_close(mixer(dirty, mask)[mask], wanted[mask])
    torch.testing.assert_close(mixer.reference_matrix(dirty, mask), weights)


def test_random_weights_do_not_depend_on_the_input_and_have_the_rank():
    mixer = build(k=3)
    x, other = torch.randn(2, 2, 20, 12, dtype=torch.float64)
    assert torch.equal(mixer.reference_matrix(x), mixer.reference_matrix(other))
    torch.testing.assert_close(mixer(x + 2 * other), mixer(x) + 2 * mixer(other))
    assert all(torch.linalg.matrix_rank(mixer.reference_matrix(x)[0].log()) <= 4)


def test_scores_of_a_transformer_give_the_transformer():
    mixer, dense = build(mode="random"), build(kind=Transformer)
    x = torch.randn(1, 20, 12, dtype=torch.float64)
    q, k, _, _ = dense.project(x)
    with torch.no_grad():
        mixer.r1.copy_((q @ k.mT / 2)[0])
    mixer.load_state_dict(dense.state_dict(), strict=False)
    torch.testing.assert_close(mixer(x), dense(x))


def test_fixed_scores_get_no_gradient_and_are_saved():
    mixer = build(trainable=False)
    assert not mixer.r1.requires_grad and "r1" in mixer.state_dict()
    mixer(torch.randn(1, 5, 12, dtype=torch.float64)).sum().backward()
    assert mixer.value.weight.grad is not None and mixer.r1.grad is None


def test_refusals():
    with pytest.raises(Unsupported, match="at most 20 positions, got 21"):
        build()(torch.randn(1, 21, 12, dtype=torch.float64))
    with pytest.raises(ValueError, match="mode must be one of"):
        build(mode="none")
    with pytest.raises(ValueError, match="k must be at least 1"):
        build(k=0)
