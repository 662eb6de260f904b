"""The Triton convolution with weights per token, emulated: against the reference."""

from functools import partial

import pytest
import torch

from kernels.dynamic_conv import dynamic_conv
from kernels.tolerance import check, poisoned

B, H = 1, 2


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def arguments(n, taps, width=5):
    return {"v": drawn(B, H, n, width), "weights": drawn(B, H, n, taps, seed=1)}


def run(backend, causal):
    return partial(dynamic_conv, backend=backend, causal=causal)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("causal,taps", [(True, 4), (False, 7)])
@pytest.mark.parametrize("n", [1, 2, 63, 100, 257])
def test_triton_is_close_to_the_truth(n, causal, taps, dtype):
    with poisoned():
        check(run("triton", causal), run("reference", causal), arguments(n, taps), dtype=dtype)


def test_heads_wider_than_a_block():
    tensors = arguments(70, 3, width=70)
    with poisoned():
        check(run("triton", False), run("reference", False), tensors, dtype=torch.float32)


def test_every_configuration(in_other_configurations):
    def convolved():
        with poisoned():
            check(run("triton", False), run("reference", False), tensors, dtype=torch.float32)

    tensors = arguments(40, 3, width=40)
    in_other_configurations(convolved)


def test_strided_inputs():
    tensors = arguments(30, 4)
    expected = dynamic_conv(**tensors, backend="reference")
    strided = {name: x.transpose(1, 2).contiguous().transpose(1, 2) for name, x in tensors.items()}
    torch.testing.assert_close(dynamic_conv(**strided, backend="triton"), expected)


def test_nan_shows_where_it_is_seen():
    tensors = arguments(20, 3)
    tensors["v"][0, 0, 5] = torch.nan
    y = dynamic_conv(**tensors, backend="triton")
    assert y[0, 0, 5:8].isnan().all() and int(y.isnan().sum()) == 3 * 5
