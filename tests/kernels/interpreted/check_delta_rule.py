"""The delta rule in Triton, emulated: against the loop, gradients and states included."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from kernels.delta_rule import delta_rule
from kernels.tolerance import check, poisoned

B, H, K, V = 1, 2, 6, 5
KINDS = ["plain", "gated"]


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def arguments(n, kind, *, state=True, width=K, values=V):
    """Unit keys, beta up to 2, decays from nearly none to all."""
    tensors = {
        "q": drawn(B, H, n, width),
        "k": F.normalize(drawn(B, H, n, width, seed=1), dim=-1),
        "v": drawn(B, H, n, values, seed=2),
        "beta": 2 * drawn(B, H, n, seed=3).sigmoid(),
    }
    if kind == "gated":
        g = -(drawn(B, H, n, seed=4).abs() ** 3)
        tensors["log_decay"] = torch.where(drawn(B, H, n, seed=5) > 1.7, -1e4, g)
    if state:
        tensors["initial_state"] = drawn(B, H, width, values, seed=6)
    return tensors


def run(backend):
    return partial(delta_rule, backend=backend)


def held(tensors, dtype=torch.float32):
    with poisoned():
        check(run("triton"), run("reference"), tensors, dtype=dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 63, 100, 257])
def test_triton_is_close_to_the_truth(n, kind):
    held(arguments(n, kind, state=n != 63))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision(kind, dtype):
    held(arguments(70, kind), dtype)


def test_heads_wider_than_a_block():
    held(arguments(40, "gated", width=40, values=20))


def test_every_configuration(in_other_configurations):
    tensors = arguments(40, "gated", width=40, values=40)
    in_other_configurations(lambda: held({name: x[:, :1] for name, x in tensors.items()}))


def test_hidden_tokens_change_nothing():
    tensors = {name: x.float() for name, x in arguments(50, "gated").items()}
    mask = torch.ones(B, 50, dtype=torch.bool)
    mask[:, 30:] = False
    expected = delta_rule(**tensors, key_mask=mask, backend="reference")
    for x, y in zip(delta_rule(**tensors, key_mask=mask, backend="triton"), expected, strict=True):
        torch.testing.assert_close(x, y)


def test_strided_inputs():
    tensors = {name: x.float() for name, x in arguments(40, "gated").items()}
    strided = {name: x.transpose(1, 2).contiguous().transpose(1, 2) for name, x in tensors.items()}
    expected = delta_rule(**tensors, backend="reference")
    for x, y in zip(delta_rule(**strided, backend="triton"), expected, strict=True):
        torch.testing.assert_close(x, y)
