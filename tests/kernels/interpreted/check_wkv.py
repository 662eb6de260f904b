"""WKV's Triton backend, emulated: run with TRITON_INTERPRET=1."""

import pytest
import torch

from kernels.tolerance import check, poisoned
from kernels.wkv import wkv

B, D = 2, 5


def drawn(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def arguments(n, *, initial=True, size=1.0):
    tensors = {
        "w": drawn(D, seed=0).exp(),
        "u": drawn(D, seed=1),
        "k": size * drawn(B, n, D, seed=2),
        "v": drawn(B, n, D, seed=3),
    }
    # forgets nothing, forgets at once
    tensors["w"][0], tensors["w"][1] = 0, 300.0
    if initial:
        state = drawn(B, 3, D, seed=4)
        state[:, 1] = state[:, 1].abs() + 0.1
        tensors["initial_state"] = state
    return tensors


def run(backend):
    return lambda **x: wkv(**x, backend=backend)


def held(tensors, dtype=torch.float32):
    with poisoned():
        return check(run("triton"), run("reference"), tensors, dtype=dtype)


@pytest.mark.parametrize("initial", [False, True], ids=["from_nothing", "from_a_state"])
@pytest.mark.parametrize("n", [1, 2, 63, 100, 257])
def test_close_to_the_truth(n, initial):
    held(arguments(n, initial=initial))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(dtype):
    held(arguments(100), dtype)


@pytest.mark.parametrize("size", [100.0, 1e4])
def test_extreme_keys(size):
    """As close as the reference is; nothing overflows."""
    tensors = arguments(100, size=size)
    measured = held(tensors)
    assert len(measured) == 2 + len(tensors)


def test_more_channels_than_a_block():
    tensors = {"w": drawn(70, seed=0).exp(), "u": drawn(70, seed=1)}
    tensors |= {"k": drawn(1, 30, 70, seed=2), "v": drawn(1, 30, 70, seed=3)}
    held(tensors)


def test_every_configuration(in_other_configurations):
    tensors = {"w": drawn(70, seed=0).exp(), "u": drawn(70, seed=1)}
    tensors |= {"k": drawn(1, 20, 70, seed=2), "v": drawn(1, 20, 70, seed=3)}
    in_other_configurations(lambda: held(tensors))


def test_hidden_tokens():
    tensors = {name: x.float() for name, x in arguments(40, initial=False).items()}
    tensors["k"][0, :7] = tensors["k"][1, 20:] = -torch.inf
    leaves = {name: x.requires_grad_() for name, x in tensors.items()}
    y, state = wkv(**leaves, backend="triton")
    assert not y[0, :7].any()
    torch.testing.assert_close((y, state), wkv(**leaves, backend="eager"))
    for grad in torch.autograd.grad(y.sum() + state[:, :2].sum(), list(leaves.values())):
        assert grad.isfinite().all()


@pytest.mark.parametrize("name", ["k", "v"])
def test_inputs_need_not_be_contiguous_and_nan_shows(name):
    tensors = {name: x.float() for name, x in arguments(40).items()}
    tensors[name][0, 20, 2] = torch.nan
    strided = {name: x.mT.contiguous().mT if x.ndim > 1 else x for name, x in tensors.items()}
    y, state = wkv(**strided, backend="triton")
    assert y[0, 20:, 2].isnan().all() and state[0, 0, 2].isnan()
    torch.testing.assert_close(y, wkv(**tensors, backend="eager")[0], equal_nan=True)


def test_refuses_fp64():
    with pytest.raises(ValueError, match="it has no fp64"):
        wkv(**arguments(3), backend="triton")
