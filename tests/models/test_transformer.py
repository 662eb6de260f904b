"""Dense attention against one matrix in fp64."""

import pytest
import torch

from kernels.errors import Unsupported
from models.mixers.exact.transformer import Transformer


def build(causal=False, dim=12, heads=3, dtype=torch.float64, **knobs):
    torch.manual_seed(0)
    return Transformer(dim, heads=heads, max_len=64, causal=causal, **knobs).to(dtype).eval()


def by_matrix(mixer, x, mask=None):
    matrix = mixer.reference_matrix(x, mask)
    v = mixer.project(x, mask)[2]
    return mixer.output((matrix @ v).transpose(1, 2).flatten(2)), matrix


@pytest.mark.parametrize("n", [1, 2, 63])
@pytest.mark.parametrize("causal", [False, True])
def test_equals_its_matrix(causal, n):
    mixer, x = build(causal), torch.randn(2, n, 12, dtype=torch.float64)
    mask = torch.rand(2, n) > 0.3
    mask[:, 0] = True
    for m in (None, mask):
        wanted, matrix = by_matrix(mixer, x, m)
        got = mixer(x, m)
        real = torch.ones(2, n, dtype=torch.bool) if m is None else m
        torch.testing.assert_close(got[real], wanted[real], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(matrix.sum(-1), torch.ones(2, 3, n, dtype=torch.float64))


def test_the_matrix_is_the_softmax_of_all_pairs():
    mixer, x = build(), torch.randn(1, 5, 12, dtype=torch.float64)
    matrix = mixer.reference_matrix(x)
    for h in range(3):
        part = slice(4 * h, 4 * h + 4)
        q, k = x[0] @ mixer.query.weight[part].T, x[0] @ mixer.key.weight[part].T
        for i in range(5):
            weights = torch.stack([torch.exp(q[i] @ k[j] / 2) for j in range(5)])
            torch.testing.assert_close(matrix[0, h, i], weights / weights.sum())


def test_is_equivariant_to_permutations():
    mixer, x = build(), torch.randn(2, 9, 12, dtype=torch.float64)
    order = torch.randperm(9)
    torch.testing.assert_close(mixer(x[:, order]), mixer(x)[:, order])


def test_causal_does_not_see_the_future_and_bidirectional_does():
    x = torch.randn(1, 9, 12, dtype=torch.float64)
    changed = x.clone()
    changed[:, 6] += 1
    before = build(True)(x)[:, :6] - build(True)(changed)[:, :6]
    assert torch.equal(before, torch.zeros_like(before))
    assert (build(False)(x) - build(False)(changed))[:, :6].abs().min() > 0


@pytest.mark.parametrize("rotary", [False, True])
def test_decoding_equals_the_parallel_form(rotary):
    mixer, x = build(True), torch.randn(2, 9, 12, dtype=torch.float64)
    if rotary:
        mixer.use_rotary()
    state, outputs = mixer.init_state(2), []
    for t in range(9):
        y, state = mixer.step(x[:, t], state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), mixer(x), rtol=1e-12, atol=1e-12)
    with pytest.raises(Unsupported, match="only with causal"):
        build(False).init_state(2)


def test_keys_and_values_of_another_sequence():
    mixer = build()
    x, context = (torch.randn(2, n, 12, dtype=torch.float64) for n in (4, 7))
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, 3:] = False
    y = mixer(x, context=context, context_mask=mask)
    short = mixer(x[1:], context=context[1:, :3])
    torch.testing.assert_close(y[1:], short, rtol=1e-12, atol=1e-12)
    q, k, v, _ = mixer.project(x, None, context)
    weights = (q @ k.transpose(-1, -2) / 2).softmax(-1)
    wanted = mixer.output((weights @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(mixer(x, context=context), wanted, rtol=1e-12, atol=1e-12)


def test_padding_does_not_matter_whatever_it_holds():
    mixer, x = build(), torch.randn(3, 9, 12, dtype=torch.float64)
    mask = torch.arange(9) < torch.tensor([[9], [4], [0]])
    y = mixer(x.masked_fill(~mask[..., None], torch.nan), mask)
    assert y.isfinite().all()
    torch.testing.assert_close(y[1:2, :4], mixer(x[1:2, :4]), rtol=1e-12, atol=1e-12)


def test_dropout_is_on_the_weights_and_in_training_only():
    mixer = build(dropout=0.5, dtype=torch.float32)
    x = torch.randn(2, 9, 12)
    assert torch.equal(mixer(x), mixer(x))
    mixer.train()
    assert not torch.equal(mixer(x), mixer(x))


def test_the_card_says_dense():
    assert build().dense_at(1) and build().dense_at(10**6)
