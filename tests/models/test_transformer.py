"""Dense attention: the einsum of the paper, permutation equivariant, and its cache."""

import pytest
import torch

from models.mixers.exact.transformer import Transformer


def mixer_and_input(causal=False, n=13):
    torch.manual_seed(0)
    mixer = Transformer(12, heads=3, max_len=16, causal=causal).double().eval()
    return mixer, torch.randn(2, n, 12, dtype=torch.float64)


@pytest.mark.parametrize("causal", [False, True])
def test_equals_the_einsum_of_the_paper(causal):
    mixer, x = mixer_and_input(causal)
    q, k, v = (
        torch.einsum("bnd,hkd->bhnk", x, linear.weight.unflatten(0, (3, 4)))
        for linear in (mixer.query, mixer.key, mixer.value)
    )
    scores = torch.einsum("bhnk,bhmk->bhnm", q, k) / 2
    if causal:
        scores = scores + torch.full((13, 13), -torch.inf).triu(1)
    heads = torch.einsum("bhnm,bhmk->bhnk", scores.softmax(-1), v)
    wanted = torch.einsum("bhnk,dhk->bnd", heads, mixer.output.weight.unflatten(1, (3, 4)))
    torch.testing.assert_close(mixer(x), wanted)


def test_is_permutation_equivariant_without_positions():
    mixer, x = mixer_and_input()
    order = torch.randperm(13, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(mixer(x[:, order]), mixer(x)[:, order])


def test_rotary_scores_depend_on_distance_only():
    mixer, x = mixer_and_input(causal=True)
    mixer.use_rotary()
    torch.testing.assert_close(mixer(x)[:, -1], mixer(x)[:, -1])
    same = x[:, :1].expand(-1, 6, -1)
    weights = mixer.double().reference_matrix(same)
    shifted = weights.log()
    torch.testing.assert_close(
        shifted[..., 4, 3] - shifted[..., 4, 4], shifted[..., 2, 1] - shifted[..., 2, 2],
        atol=1e-6, rtol=1e-6,
    )  # fmt: skip


def test_the_cache_grows_by_one_a_step():
    mixer, x = mixer_and_input(causal=True)
    state = mixer.init_state(2)
    for t in range(5):
        _, state = mixer.step(x[:, t], state)
        assert state.inner.keys.shape == (2, 3, t + 1, 4)


def test_context_gives_keys_and_values():
    mixer, x = mixer_and_input()
    together = torch.cat([x, 2 * x], 1)
    torch.testing.assert_close(mixer(x, context=together), mixer(together)[:, :13])
