"""Blocks that do not see each other, counted from position 0."""

import pytest
import torch

from kernels.errors import Unsupported
from models.mixers.exact.transformer import Transformer
from models.mixers.sparse.local_attention import LocalAttention


def build(causal=False, block_size=5, kind=LocalAttention, **knobs):
    torch.manual_seed(0)
    if kind is LocalAttention:
        knobs["block_size"] = block_size
    return kind(12, heads=3, max_len=64, causal=causal, **knobs).double().eval()


@pytest.mark.parametrize("n", [1, 2, 4, 5, 6, 23])
@pytest.mark.parametrize("causal", [False, True])
def test_equals_its_matrix(causal, n):
    mixer, x = build(causal), torch.randn(2, n, 12, dtype=torch.float64)
    mask = torch.rand(2, n) > 0.4
    for m in (None, mask):
        matrix = mixer.reference_matrix(x, m)
        v = mixer.project(x, m)[2]
        wanted = mixer.output((matrix @ v).transpose(1, 2).flatten(2))
        torch.testing.assert_close(mixer(x, m), wanted, rtol=1e-12, atol=1e-12)
    i = torch.arange(n)
    together = (i[:, None] // 5 == i // 5) & ((i[:, None] >= i) | (not causal))
    assert torch.equal(mixer.reference_matrix(x) > 0, together.expand(2, 3, n, n))


@pytest.mark.parametrize("causal", [False, True])
def test_a_block_as_long_as_the_sequence_is_dense(causal):
    (equals,) = LocalAttention.card.equals
    assert equals.mixer == "transformer" and causal in equals.causal
    local, dense = build(causal, **equals.knobs(17)), build(causal, kind=Transformer)
    dense.load_state_dict(local.state_dict())
    x, mask = torch.randn(2, 17, 12, dtype=torch.float64), torch.rand(2, 17) > 0.3
    torch.testing.assert_close(local(x, mask), dense(x, mask), rtol=1e-12, atol=1e-12)
    assert local.dense_at(17) and not local.dense_at(18)


@pytest.mark.parametrize("causal", [False, True])
def test_padding_does_not_matter_whatever_it_holds(causal):
    mixer, x = build(causal), torch.randn(4, 13, 12, dtype=torch.float64)
    mask = torch.arange(13) < torch.tensor([[13], [7], [1], [0]])
    mask[0, 2] = mask[1, 5] = False
    y = mixer(x.masked_fill(~mask[..., None], torch.nan), mask)
    assert y.isfinite().all()
    for row, n in ((0, 13), (1, 7), (2, 1)):
        one = mixer(x[row : row + 1, :n], mask[row : row + 1, :n])
        torch.testing.assert_close(y[row : row + 1, :n], one, rtol=1e-12, atol=1e-12)


def test_decoding_equals_the_parallel_form_and_forgets_the_block():
    mixer, x = build(True), torch.randn(2, 13, 12, dtype=torch.float64)
    state, outputs = mixer.init_state(2), []
    for t in range(13):
        y, state = mixer.step(x[:, t], state)
        outputs.append(y)
        assert state.inner.keys.shape[2] == t % 5 + 1
    torch.testing.assert_close(torch.stack(outputs, 1), mixer(x), rtol=1e-12, atol=1e-12)
    with pytest.raises(Unsupported, match="only with causal"):
        build(False).init_state(2)


def test_bad_knob_and_missing_context():
    with pytest.raises(ValueError, match="block_size must be at least 1, got 0"):
        build(block_size=0)
    x = torch.randn(2, 6, 12, dtype=torch.float64)
    with pytest.raises(Unsupported, match="another sequence"):
        build()(x, context=x)
