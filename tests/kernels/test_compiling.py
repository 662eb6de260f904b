"""torch.compile for the ops: what it needs, and that it never stops compiling in silence."""

import functools

import pytest
import torch
from torch._dynamo.exc import FailOnRecompileLimitHit

from kernels import compiling


def test_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(compiling.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(compiling, "find_spec", lambda name: None)
    assert compiling.available() == "torch.compile needs Triton on a GPU (extra `gpu`)"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert compiling.available() is None
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    assert "needs a C++ compiler" in compiling.available()


@pytest.mark.parametrize("most", [20, 4])
def test_one_shape_too_many_is_an_error(monkeypatch, most):
    """Torch's own limit is eight."""

    def double(x):
        return x + x

    torch._dynamo.reset()  # both cases compile the same code
    monkeypatch.setattr(compiling, "MOST", most)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    fast = compiling.compiled(double)
    assert fast.__name__ == "double"
    sizes = [torch.ones(n) for n in range(2, 14)]
    if most == 20:
        assert [float(fast(x).sum()) for x in sizes] == [2.0 * len(x) for x in sizes]
        return
    with pytest.raises(FailOnRecompileLimitHit):
        for x in sizes:
            fast(x)
