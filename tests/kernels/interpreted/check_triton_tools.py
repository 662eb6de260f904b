"""What all Triton backends share, emulated: run with TRITON_INTERPRET=1."""

import torch
import triton
import triton.language as tl

from kernels.triton_tools import Tuned, available, interpreted


@triton.jit
def add_block(x_ptr, y_ptr, n, SIZE: tl.constexpr, TWICE: tl.constexpr):
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0)
    tl.store(y_ptr + at, (2 * x if TWICE else x) + SIZE, mask=at < n)


CONFIGS = [triton.Config({"SIZE": size}, num_warps=1) for size in (8, 16)]
LARGE = triton.Config({"SIZE": 32}, num_warps=1)


def test_the_default_configuration_runs():
    assert interpreted() and available() is None
    tuned = Tuned(add_block, CONFIGS, ("n",))
    x, y = torch.arange(20.0), torch.zeros(20)
    # a grid may depend on the configuration and on the other constants
    tuned[lambda meta: (triton.cdiv(20, meta["SIZE"]) * meta["TWICE"],)](x, y, 20, TWICE=1)
    assert torch.equal(y, 2 * x + 8)
    y.zero_()
    tuned[(1,)](x, y, 20, TWICE=0)
    assert torch.equal(y[:8], x[:8] + 8) and not y[8:].any()


def test_other_configurations_run_in_turn(in_other_configurations):
    twice = triton.Config({"SIZE": 16}, num_warps=2)
    long, short = Tuned(add_block, [*CONFIGS, twice, LARGE], ()), Tuned(add_block, CONFIGS, ())
    x, y, z = torch.zeros(1), torch.zeros(1), torch.zeros(1)
    found = []

    def sizes():
        long[(1,)](x, y, 1, TWICE=0)
        short[(1,)](x, z, 1, TWICE=0)
        found.append((y.item(), z.item()))

    in_other_configurations(sizes)
    assert found == [(16, 16), (32, 16)]
