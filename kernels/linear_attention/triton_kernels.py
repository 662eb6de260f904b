"""The Triton kernels of linear attention with their configurations, and what to compile of them."""

import functools
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import triton

from kernels.linear_attention.triton_backward import (
    linear_key_grad_kernel,
    linear_query_grad_kernel,
)
from kernels.linear_attention.triton_forward import linear_output_kernel, linear_state_kernel
from kernels.linear_attention.triton_parts import chunk_length, precision
from kernels.triton_tools import Tuned, Variant

# features and values of a head, at most
WIDEST = 512
# names of arguments that are not tensors of the caller's type
INTEGERS = ("n", "heads", "chunks", "steps")
NUMBERS = ("shift", "eps")
BYTES = ("mask",)
WIDE = (
    "initial", "initial_sum", "states", "sums", "last", "last_sum", "past", "past_sum", "weights",
    "normaliser", "g", "grad", "grad_sum", "grad_q", "grad_k", "grad_v", "of_query", "of_pairs",
    "of_end",
)  # fmt: skip

FUNCTIONS = {
    "state": linear_state_kernel,
    "output": linear_output_kernel,
    "query_grad": linear_query_grad_kernel,
    "key_grad": linear_key_grad_kernel,
}
# (keys, values, warps) of a tile
CONFIGS = {
    "state": ((64, 16, 8), (32, 32, 4)),
    "output": ((32, 32, 4), (32, 16, 4)),
    "query_grad": ((32, 16, 4), (32, 32, 8), (64, 16, 8)),
    "key_grad": ((32, 16, 4), (32, 32, 8)),
}
# what may change which configuration is fastest
KEY = {"state": ("K", "V", "EACH")} | dict.fromkeys(
    ("output", "query_grad", "key_grad"), ("K", "V", "WITHIN")
)


@functools.cache
def tuned(name: str, dtype: torch.dtype, decay: int, chunk: int) -> Tuned:
    """A kernel for tensors of the caller's dtype; its first configuration spills on no target."""
    first = int(decay == 2)
    if name == "state":
        first = int(decay > 0 and dtype == torch.float32)
    elif name == "query_grad" and chunk > 32:
        first = 2
    every = CONFIGS[name]
    configs = [
        triton.Config({"BK": keys, "BV": values}, num_warps=warps, num_stages=1)
        for keys, values, warps in (every[first], *every[:first], *every[first + 1 :])
    ]
    return Tuned(FUNCTIONS[name], configs, KEY[name])


def kind_of(argument: str, wide: tuple[str, ...] = WIDE) -> str:
    """Triton's type of an argument; the tensors of ``wide`` are fp32 always."""
    if argument in INTEGERS:
        return "i32"
    if argument in NUMBERS:
        return "fp32"
    if argument in BYTES:
        return "*i8"
    return "*fp32" if argument in wide else "*"


def variants() -> Iterator[Variant]:
    """Every decay and direction, every dtype: with a mask and a normaliser, the most that a kernel
    has to do, and fp16 without."""
    for dtype, decay in (
        (torch.float32, 0), (torch.float32, 1), (torch.float32, 2), (torch.bfloat16, 1),
        (torch.bfloat16, 2), (torch.float16, 1),
    ):  # fmt: skip
        plain = dtype == torch.float16
        own = constants_of(dtype, decay, PHI=2 if plain else 1, MASKED=not plain, SUM=not plain)
        kind = ("none", "scalar", "channel")[decay]
        others = dtype == torch.float32 and decay == 1
        yield from forms(dtype, own | {"WITHIN": True}, kind, others=others)
        yield from states(dtype, own, kind, others=others)
        if decay or dtype != torch.float32:
            back = own | {"MASKED": False, "REVERSE": True, "WEIGHTED": not plain}
            yield from states(dtype, back, kind, wide=(*WIDE, "values"))
    # every query reads one state
    own = constants_of(torch.bfloat16, 0, EACH=False)
    yield from forms(torch.bfloat16, own | {"WITHIN": False}, "both_ways")
    yield from states(torch.bfloat16, own, "both_ways")
    back = own | {"MASKED": False, "WEIGHTED": True}
    yield from states(torch.bfloat16, back, "both_ways", wide=(*WIDE, "values"))


def constants_of(dtype: torch.dtype, decay: int, **own: Any) -> dict[str, Any]:
    """Of all kernels, for the widest heads."""
    return {
        **{"K": WIDEST, "V": WIDEST, "PHI": 1, "DECAY": decay, "MASKED": True, "SUM": True},
        **{"C": chunk_length(dtype, decay), "PRECISION": precision(dtype), "STRICT": False},
        **{"REVERSE": False, "WEIGHTED": False, "EACH": True, "PAST": True, "VALUES": True},
        **own,
    }


def states(
    dtype: torch.dtype,
    constants: dict[str, Any],
    kind: str,
    *,
    wide: tuple[str, ...] = WIDE,
    others: bool = False,
) -> Iterator[Variant]:
    """The kernel of states: its default, and ``others`` too; ``wide`` are its fp32 tensors."""
    name = f"linear_state-{kind}" + ("-back" if "values" in wide else "")
    found = tuned("state", dtype, constants["DECAY"], constants["C"]).variants(
        _name(dtype), constants, partial(kind_of, wide=wide), name=name
    )
    yield from (v for v in found if v.default or others)


def forms(
    dtype: torch.dtype,
    constants: dict[str, Any],
    kind: str,
    *,
    wide: tuple[str, ...] = WIDE,
    others: bool = False,
) -> Iterator[Variant]:
    """The kernels of outputs and gradients, likewise."""
    for name in ("output", "query_grad", "key_grad"):
        found = tuned(name, dtype, constants["DECAY"], constants["C"]).variants(
            _name(dtype), constants, partial(kind_of, wide=wide), name=f"linear_{name}-{kind}"
        )
        yield from (v for v in found if v.default or others)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
