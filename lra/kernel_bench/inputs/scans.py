"""Inputs of recurrences without a product between channels."""

import math

import torch

from lra.errors import nearest
from lra.kernel_bench.draw import Draw, Inputs

VALUES = ("real", "complex")
COEFFICIENTS = ("channel", "token")


def diagonal_scan(draw: Draw, *, values: str = "real", coefficients: str = "token") -> Inputs:
    """``coefficients``: one of each channel, or one of each channel and token."""
    for key, value, known in (
        ("values", values, VALUES), ("coefficients", coefficients, COEFFICIENTS),
    ):  # fmt: skip
        if value not in known:
            raise nearest(str(value), known, kind=f"{key} in op.variants")
    full = (draw.case.batch, draw.case.length, draw.channels)
    shape = full if coefficients == "token" else (draw.channels,)
    size = draw.uniform(0.9, 0.999, *shape)
    if values == "real":
        tensors = {"a": size, "b": draw.normal(*full)}
    else:
        angle = draw.uniform(-math.pi, math.pi, *shape, wide=True)
        tensors = {"a": torch.polar(size.float(), angle), "b": draw.complex_normal(*full)}
    return Inputs(tensors=tensors, causal=True)


def selective_scan(draw: Draw, *, states: int = 16) -> Inputs:
    """Mamba's: step sizes through a softplus, gate and skip, parameters in fp32."""
    batch, length, channels = draw.case.batch, draw.case.length, draw.channels
    decay = torch.arange(1.0, states + 1).expand(channels, states).contiguous()
    tensors = {
        "u": draw.normal(batch, channels, length),
        "delta": draw.normal(batch, channels, length, scale=0.5),
        "a": draw.put(-decay, wide=True),
        "b": draw.normal(batch, states, length),
        "c": draw.normal(batch, states, length),
        "d": draw.normal(channels, wide=True),
        "z": draw.normal(batch, channels, length),
        "delta_bias": draw.uniform(-6.9, -2.3, channels, wide=True),
    }
    return Inputs(tensors=tensors, options={"delta_softplus": True}, causal=True)


def wkv(draw: Draw) -> Inputs:
    """RWKV-4's: decay and bonus in fp32."""
    shape = (draw.case.batch, draw.case.length, draw.channels)
    tensors = {
        "w": draw.uniform(0.001, 1.0, draw.channels, wide=True),
        "u": draw.normal(draw.channels, wide=True),
        "k": draw.normal(*shape),
        "v": draw.normal(*shape),
    }
    return Inputs(tensors=tensors, causal=True)
