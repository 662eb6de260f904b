"""The selective scan's Triton backend, emulated: run with TRITON_INTERPRET=1."""

import pytest
import torch

from kernels.selective_scan import selective_scan, triton_, triton_kernels
from kernels.tolerance import check, poisoned

B, D = 2, 6


def drawn(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def arguments(n, groups=None, *, batch=B, channels=D, states=3, everything=True):
    lead = (batch,) if groups is None else (batch, groups)
    tensors = {
        "u": drawn(batch, channels, n, seed=0),
        "delta": drawn(batch, channels, n, seed=1),
        "a": -drawn(channels, states, seed=2).exp(),
        "b": drawn(*lead, states, n, seed=3),
        "c": drawn(*lead, states, n, seed=4),
    }
    tensors["a"].view(-1)[0], tensors["a"].view(-1)[1] = -1e-6, -60.0
    if everything:
        tensors |= {
            "d": drawn(channels, seed=5),
            "z": drawn(batch, channels, n, seed=6),
            "delta_bias": drawn(channels, seed=7),
            "initial_state": drawn(batch, channels, states, seed=8),
        }
    return tensors


def run(backend):
    return lambda **x: selective_scan(**x, delta_softplus=True, backend=backend)


def held(tensors, dtype=torch.float32):
    with poisoned():
        check(run("triton"), run("reference"), tensors, dtype=dtype)


@pytest.mark.parametrize(
    "n,groups,everything",
    [
        (1, None, True),
        (2, 2, True),
        (33, 1, False),
        (63, 2, False),
        (100, None, True),
        (257, 2, True),
    ],
)
def test_close_to_the_truth(n, groups, everything):
    # what is long is emulated for one example only
    held(arguments(n, groups, batch=1 if n > 40 else B, everything=everything))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(dtype):
    held(arguments(40, 2, batch=1), dtype)


@pytest.mark.parametrize("channels,states", [(70, 16), (9, 100), (3, 1)])
def test_several_blocks(channels, states):
    held(arguments(20, channels=channels, states=states))


def test_every_configuration():
    """They differ in warps only, which are nothing to the emulator: another one wants a test."""
    assert not any(config.kwargs for config in triton_kernels.CONFIGS)


def test_backward_in_slabs(monkeypatch):
    monkeypatch.setattr(triton_, "STATES", 2 * B * D * 3 * 16)
    held(arguments(70))


def test_hidden_tokens():
    tensors = {name: x.float() for name, x in arguments(40, everything=False).items()}
    tensors["delta"][..., 25:] = -torch.inf
    leaves = {name: x.requires_grad_() for name, x in tensors.items()}
    ends = run("triton")(**leaves)
    short = {name: x[..., :25] if x.shape[-1] == 40 else x for name, x in tensors.items()}
    torch.testing.assert_close(ends[1], run("triton")(**short)[1])
    for grad in torch.autograd.grad(ends[0].sum() + ends[1].sum(), list(leaves.values())):
        assert grad.isfinite().all()


def test_inputs_need_not_be_contiguous_and_nan_shows():
    tensors = {name: x.float() for name, x in arguments(40).items()}
    tensors["u"][0, 1, 20] = torch.nan
    strided = {name: x.mT.contiguous().mT if x.ndim > 1 else x for name, x in tensors.items()}
    y, state = run("triton")(**strided)
    torch.testing.assert_close((y, state), run("eager")(**tensors), equal_nan=True)
    assert y[0, 1, 20:].isnan().all() and y[1].isfinite().all() and y[0, 0].isfinite().all()


def test_refusals():
    with pytest.raises(ValueError, match="it has no fp64"):
        run("triton")(**arguments(3))
    with pytest.raises(ValueError, match="at most 512 states of a channel, not 513"):
        run("triton")(**{name: x.float() for name, x in arguments(3, states=513).items()})
