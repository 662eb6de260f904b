"""Inputs of convolutions and of the generators of long kernels."""

import math

import torch
from torch import Tensor

from lra.kernel_bench.draw import Draw, Inputs


def long_conv(draw: Draw, *, causal: bool = True) -> Inputs:
    """Kernels as long as the sequence, in fp32; not causal: one for each direction."""
    channels, length = draw.channels, draw.case.length
    fading = torch.exp(-4 * torch.arange(length) / length) / math.sqrt(length)

    def kernel() -> Tensor:
        return draw.normal(channels, length, wide=True) * draw.put(fading, wide=True)

    tensors = {
        "u": draw.normal(draw.case.batch, channels, length),
        "kernel": kernel(),
        "skip": draw.normal(channels, wide=True),
    }
    if not causal:
        tensors["kernel_reverse"] = kernel()
    return Inputs(tensors=tensors, causal=causal)


def vandermonde_kernel(draw: Draw, *, states: int = 32) -> Inputs:
    """The diagonal system S4D-Lin (arXiv 2206.11893), ``exp(dt (-1/2 + i pi n))``."""
    tensors = {"c": draw.complex_normal(draw.channels, states), "log_a": poles(draw, states)}
    return Inputs(tensors=tensors, options={"length": draw.case.length}, causal=True)


def cauchy_kernel(draw: Draw, *, states: int = 32) -> Inputs:
    """At as many nodes ``2i tan(angle)``, the bilinear transform of half the unit circle."""
    length = draw.case.length
    angle = 0.5 * math.pi * torch.arange(length) / length
    z = torch.complex(torch.zeros(length), 2 * torch.tan(angle))
    tensors = {
        "v": draw.complex_normal(draw.channels, states),
        "z": draw.put(z),
        "w": poles(draw, states),
    }
    return Inputs(tensors=tensors, constants=("z",), causal=True)


def poles(draw: Draw, states: int) -> Tensor:
    """``dt (-1/2 + i pi n)``, (D, states), with dt from 0.001 to 0.1."""
    dt = draw.uniform(math.log(0.001), math.log(0.1), draw.channels, 1, wide=True).exp()
    n = draw.put(torch.arange(states, dtype=torch.float32), wide=True)
    return torch.complex(-0.5 * dt.expand(-1, states), math.pi * dt * n)


def short_conv(draw: Draw, *, causal: bool = True, taps: int = 4) -> Inputs:
    """Taps and bias in fp32."""
    tensors = {
        "u": draw.normal(draw.case.batch, draw.channels, draw.case.length),
        "weight": draw.normal(draw.channels, taps, scale=taps**-0.5, wide=True),
        "bias": draw.normal(draw.channels, wide=True),
    }
    return Inputs(tensors=tensors, options={"causal": causal}, causal=causal)


def dynamic_conv(draw: Draw, *, causal: bool = True, taps: int = 7) -> Inputs:
    """Weights that sum to 1 at every position."""
    weights = torch.softmax(draw.normal(*draw.heads_first[:3], taps, wide=True), dim=-1)
    tensors = {"v": draw.normal(*draw.heads_first), "weights": draw.put(weights)}
    return Inputs(tensors=tensors, options={"causal": causal}, causal=causal)
