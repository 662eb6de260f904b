"""How many operations Python starts for a long sequence."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kernels.delta_rule import delta_rule
from kernels.selective_scan import selective_scan


class Count(TorchDispatchMode):
    ops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ops += 1
        return func(*args, **(kwargs or {}))


def counted(function, tensors):
    with Count() as count:
        y, _ = function(**{name: x.requires_grad_() for name, x in tensors.items()})
        y.sum().backward()
    return count.ops


def test_selective_scan_has_no_loop_over_the_length(monkeypatch):
    from kernels.selective_scan import eager

    # as if the batch were large: slabs as short as they may be
    monkeypatch.setattr(eager, "STATES", 1)
    counts = []
    for n in (4096, 32768):
        x = {name: torch.rand(1, 1, n) for name in ("u", "delta", "b", "c")}
        counts.append(counted(selective_scan, x | {"a": -torch.rand(1, 1)}))
    # longer steps inside as many slabs
    assert counts[1] < 4 * counts[0]
    assert counts[0] < 64 * 512


def test_the_delta_rule_takes_a_few_products_a_chunk():
    counts = []
    for n in (1024, 4096):
        x = {name: torch.rand(1, 1, n, 2) / 4 for name in "qkv"}
        counts.append(counted(delta_rule, x | {"beta": torch.rand(1, 1, n)}))
    chunks = (4096 - 1024) / 64
    assert (counts[1] - counts[0]) / chunks < 40
