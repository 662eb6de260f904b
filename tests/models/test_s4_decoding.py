"""S4 step by step: the step in O(n) is that of the dense matrices, and the state is a state."""

import pytest
import torch

from models.mixers.ssm.s4 import S4

DIM = 4


def made(**knobs):
    torch.manual_seed(0)
    sizes = {"d_state": 8, "max_len": 40} | knobs
    mixer = S4(DIM, heads=1, causal=True, **sizes).double()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return mixer


@pytest.mark.parametrize("d_state", [2, 8])
@pytest.mark.parametrize("n_ssm", [1, 2])
def test_a_step_is_that_of_the_dense_matrices(d_state, n_ssm):
    mixer = made(d_state=d_state, n_ssm=n_ssm)
    a, b = mixer.discretised()
    c = mixer._truncated(torch.view_as_complex(mixer.c), mixer.max_len, undo=True)[0]
    c = torch.cat([c, c.conj()], dim=-1)
    state, full = mixer.init_state(2), torch.zeros(2, DIM, d_state, dtype=torch.complex128)
    for u in torch.randn(20, 2, DIM, dtype=torch.float64):
        y, state = mixer.step(u, state)
        full = torch.einsum("dij,bdj->bdi", a, full) + b * u[..., None]
        torch.testing.assert_close(torch.cat([state, state.conj()], -1), full)
        wanted = mixer.gated((c * full).sum(-1).real + mixer.d * u)
        torch.testing.assert_close(y, wanted, rtol=1e-9, atol=1e-9)


def test_the_state_is_the_paired_half_of_n_numbers_a_channel():
    state = made(d_state=64).init_state(3)
    assert state.shape == (3, DIM, 32) and state.is_complex()


def test_decoding_follows_changed_parameters_and_can_be_copied():
    import copy

    mixer, x = made(), torch.randn(2, 9, DIM, dtype=torch.float64)
    mixer.init_state(2)
    with torch.no_grad():
        mixer.log_dt.add_(0.3)
    for one in (mixer, copy.deepcopy(mixer)):
        state = one.init_state(2)
        for t, x_t in enumerate(x.unbind(1)):
            y, state = one.step(x_t, state)
            torch.testing.assert_close(y, one(x)[:, t], rtol=1e-8, atol=1e-9)
        assert "_stepping" not in one.state_dict()
