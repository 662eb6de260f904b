"""Linear Transformer: the quadratic form, in both directions, and as a recurrent network."""

import pytest
import torch

from kernels.errors import Unsupported
from models.mixers.linear.linear_transformer import LinearTransformer


def made(causal=False, **knobs):
    torch.manual_seed(0)
    return LinearTransformer(12, heads=3, max_len=64, causal=causal, **knobs).double()


def inputs(n, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, n, 12, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("feature_map", ["elu+1", "relu"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n", [1, 2, 63, 100])
def test_equals_the_quadratic_form(n, causal, feature_map):
    """A_ij = phi(q_i) . phi(k_j), row-normalised, written here from the weights alone."""
    mixer, x = made(causal, feature_map=feature_map), inputs(n)
    q, k, v = (
        (x @ f.weight.T).unflatten(-1, (3, 4)).transpose(1, 2)
        for f in (mixer.query, mixer.key, mixer.value)
    )

    def phi(u):
        return u.relu() if feature_map == "relu" else torch.where(u > 0, u + 1, u.exp())

    weights = torch.einsum("bhik,bhjk->bhij", phi(q), phi(k))
    weights = weights.tril() if causal else weights
    weights = weights / (weights.sum(-1, keepdim=True) + 1e-6)
    expected = (weights @ v).transpose(1, 2).flatten(2) @ mixer.output.weight.T
    torch.testing.assert_close(mixer(x), expected)
    torch.testing.assert_close(mixer.reference_matrix(x), weights)


def test_state_is_constant_and_steps_are_the_forward():
    mixer, x = made(causal=True), inputs(70)
    state = mixer.init_state(2)
    sizes = [part.shape for part in state.inner]
    outputs = []
    for x_t in x.unbind(1):
        y, state = mixer.step(x_t, state)
        outputs.append(y)
    assert [part.shape for part in state.inner] == sizes
    torch.testing.assert_close(torch.stack(outputs, 1), mixer(x))


@pytest.mark.parametrize("m", [5, 20])
def test_reads_a_context(m):
    """Not causal: the context's order is nothing; causal: the context ends where x ends."""
    x, context = inputs(9), inputs(m, seed=2)
    both = made()
    y = both(x, context=context)
    torch.testing.assert_close(both(x, context=context.flip(1)), y)
    causal = made(causal=True)
    y = causal(x, context=context)
    changed = context.clone()
    changed[:, -1] += 1
    torch.testing.assert_close(causal(x, context=changed)[:, :-1], y[:, :-1])
    assert not torch.allclose(causal(x, context=changed)[:, -1], y[:, -1])


def test_refusals():
    with pytest.raises(ValueError, match=r"feature_map must be one of elu\+1, relu, got 'elu'"):
        made(feature_map="elu")
    with pytest.raises(Unsupported):
        made().init_state(2)
