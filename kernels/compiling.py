"""torch.compile for the ops: where it works, and never in silence the function as it is."""

import functools
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch

# specialisations of one function: more than a benchmark has shapes
MOST = 1000


def available() -> str | None:
    """Why nothing can be compiled here, or None."""
    from torch._inductor import config

    # None among them stands for a compiler that would be downloaded
    if not any(name and shutil.which(name) for name in config.cpp.cxx):
        return "torch.compile needs a C++ compiler (g++, or what CXX names)"
    if torch.cuda.is_available() and find_spec("triton") is None:
        return "torch.compile needs Triton on a GPU (extra `gpu`)"
    return None


def compiled(function: Callable[..., Any], *, fullgraph: bool = False) -> Callable[..., Any]:
    """The function through torch.compile, each shape by itself.

    Sizes that are symbols take ten times as long to trace, and loops over chunks, whose number
    depends on the length, cannot be traced with them at all. After eight specialisations torch
    would run the function as it is from then on. This one goes on to ``MOST``, and then raises.

    Args:
        function: to compile.
        fullgraph: raise where a part cannot be compiled, in place of running it as it is.
    """
    fast = torch.compile(function, dynamic=False, fullgraph=fullgraph)

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        dynamo: Any = torch._dynamo.config
        with dynamo.patch(
            recompile_limit=MOST, accumulated_recompile_limit=10 * MOST,
            fail_on_recompile_limit_hit=True,
        ):  # fmt: skip
            return fast(*args, **kwargs)

    return run
