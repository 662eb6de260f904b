"""FLOPs of a call, forward and backward, with the share of the work that was counted.

The convention is torch's (``torch.utils.flop_counter``): a multiply-add is 2 FLOPs, matrix products
and convolutions count, pointwise ops, reductions, norms and data movement are 0, a causal mask
saves nothing, and fused attention recomputes its scores in the backward pass. The formulas here are
what torch misses: it returns 0 for attention on the CPU, Fourier transforms, running sums,
``addcmul`` (the step of every scan written in torch), matrix-vector products, pooling and LSTMs,
counts a complex product as a real one, and the weight gradient of a grouped convolution as if it
had one group.

Not seen by any dispatch mode: kernels launched past the dispatcher (a Triton or CUDA launch inside
an autograd function) and compiled graphs. Count those with the eager backend.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kernels.op_kinds import is_free, moves_data

aten = torch.ops.aten

# op -> FLOPs of ``(*args, out_val=..., **kwargs)``; the ``custom_mapping`` of FlopCounterMode
FORMULAS: dict[Any, Callable[..., int]] = {}


@dataclass(frozen=True)
class Flops:
    """What was counted.

    Attributes:
        total_gflop: 1e9 floating-point operations.
        coverage: 1 - share of the computed output elements that come from ops without a formula.
            Pointwise ops, reductions and norms are covered (with 0 FLOP); views, copies and other
            data movement compute nothing and are left out.
        unknown: output elements of each op without a formula.
    """

    total_gflop: float
    coverage: float
    unknown: Mapping[str, int]


def count_flops(function: Callable[[], object]) -> Flops:
    """FLOPs of one call of a function, autograd functions and backward passes included."""
    with _Counter() as counter:
        function()
    computed, unknown = counter.computed, counter.unknown
    coverage = 1 - sum(unknown.values()) / computed if computed else 1.0
    return Flops(counter.flop / 1e9, coverage, {op: n for op, n in unknown.items() if n})


class _Counter(TorchDispatchMode):
    """Adds up formulas and classes of ops as they run."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.flop = 0
        self.computed = 0
        self.unknown: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        plain = isinstance(func, torch._ops.OpOverload)
        op = func._overloadpacket if plain else func
        count = FORMULAS.get(op) or flop_counter.flop_registry.get(op)
        if count is None and plain and func.namespace == "aten":
            # in inference mode a composite op arrives whole
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        elements = _elements(out)
        if count is not None:
            self.flop += count(*args, **kwargs, out_val=out)
            self.computed += elements
        elif not moves_data(func):
            if not is_free(func):
                elements = elements or _written(func, args, kwargs)
                self.unknown[str(op)] += elements
            self.computed += elements
        return out


def _elements(values: Any) -> int:
    return sum(leaf.numel() for leaf in tree_leaves(values) if isinstance(leaf, Tensor))


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Elements of the arguments that an op without outputs writes to."""
    if not isinstance(func, torch._ops.OpOverload):
        return 0
    total = 0
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            total += _elements(value)
    return total


# -- formulas ----------------------------------------------------------------------------------


def formula(*ops: Any) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Registers FLOPs of ``(*args, out_val=..., **kwargs)`` for ops, those of our own included."""

    def register(function: Callable[..., int]) -> Callable[..., int]:
        function._get_raw = True  # type: ignore[attr-defined]  # tensors, not their shapes
        FORMULAS.update(dict.fromkeys(ops, function))
        return function

    return register


def _product(x: Tensor, flop: int) -> int:
    """A complex multiply-add is 4 real ones."""
    return 4 * flop if x.is_complex() else flop


@formula(aten.mm, aten.bmm)
def _matmul(a: Tensor, b: Tensor, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    return _product(a, 2 * a.numel() * b.shape[-1])


@formula(aten.addmm, aten.addmm_, aten.baddbmm, aten.baddbmm_, aten.addbmm, aten.addbmm_)
def _add_matmul(c: Tensor, a: Tensor, b: Tensor, *args: Any, **kwargs: Any) -> int:
    return _matmul(a, b)


@formula(aten.mv, aten.dot, aten.vdot)
def _vector(a: Tensor, b: Tensor, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    return _product(a, 2 * a.numel())


@formula(aten.addmv, aten.addmv_)
def _add_vector(c: Tensor, a: Tensor, b: Tensor, *args: Any, **kwargs: Any) -> int:
    return _vector(a, b)


@formula(aten._scaled_dot_product_flash_attention_for_cpu)
def _attention(q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> int:
    return flop_counter.sdpa_flop_count(q.shape, k.shape, v.shape)


@formula(aten._scaled_dot_product_flash_attention_for_cpu_backward)
def _attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any
) -> int:
    return flop_counter.sdpa_backward_flop_count(grad.shape, q.shape, k.shape, v.shape)


@formula(aten.convolution_backward)
def _convolution_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any,
    transposed: bool, output_padding: Any, groups: int, mask: Sequence[bool], **kwargs: Any
) -> int:  # fmt: skip
    """Each gradient is a convolution of the forward's size."""
    shape = flop_counter.conv_flop_count(
        list(x.shape), list(weight.shape), list(grad.shape), transposed
    )
    return (mask[0] + mask[1]) * shape


def _fourier(x: Tensor, sizes: list[int], real: bool) -> int:
    """5 n log2 n for a complex transform of n points, half for a real one."""
    n = math.prod(sizes)
    return round(x.numel() * (2.5 if real else 5.0) * math.log2(max(n, 1)))


@formula(aten._fft_c2c)
def _fft(x: Tensor, dims: list[int], *args: Any, **kwargs: Any) -> int:
    return _fourier(x, [x.shape[dim] for dim in dims], real=False)


@formula(aten._fft_r2c)
def _rfft(x: Tensor, dims: list[int], *args: Any, **kwargs: Any) -> int:
    return _fourier(x, [x.shape[dim] for dim in dims], real=True)


@formula(aten._fft_c2r)
def _irfft(x: Tensor, dims: list[int], *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    return _fourier(out_val, [out_val.shape[dim] for dim in dims], real=True)


@formula(aten.addcmul, aten.addcmul_)
def _multiply_add(c: Tensor, a: Tensor, b: Tensor, *args: Any, out_val: Any, **kwargs: Any) -> int:
    """The step of a scan."""
    return _product(out_val, 2 * out_val.numel())


@formula(aten.cumsum, aten.cumsum_)
def _running_sum(x: Tensor, *args: Any, **kwargs: Any) -> int:
    return x.numel() * (2 if x.is_complex() else 1)


@formula(aten.cumprod, aten.cumprod_)
def _running_product(x: Tensor, *args: Any, **kwargs: Any) -> int:
    return x.numel() * (6 if x.is_complex() else 1)


@formula(aten.logcumsumexp, aten._logcumsumexp)
def _running_logsumexp(x: Tensor, *args: Any, **kwargs: Any) -> int:
    """log(exp(a - m) + exp(b - m)) + m: two additions, an exponential and a logarithm."""
    return 4 * x.numel()


@formula(aten.avg_pool2d)
def _pool(x: Tensor, kernel: list[int], *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    return out_val.numel() * math.prod(kernel)


@formula(aten.avg_pool2d_backward)
def _pool_backward(grad: Tensor, x: Tensor, kernel: list[int], *args: Any, **kwargs: Any) -> int:
    return grad.numel() * math.prod(kernel)


@formula(aten._cdist_forward)
def _distance(a: Tensor, b: Tensor, *args: Any, **kwargs: Any) -> int:
    """Subtract, square, add."""
    return 3 * a.numel() * b.shape[-2]


@formula(aten._cdist_backward)
def _distance_backward(grad: Tensor, a: Tensor, b: Tensor, *args: Any, **kwargs: Any) -> int:
    return _distance(a, b)


@formula(aten.linalg_solve_triangular)
def _triangular(a: Tensor, b: Tensor, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    return _product(a, out_val.numel() * a.shape[-1])


@formula(aten.mkldnn_rnn_layer)
def _rnn(x: Tensor, weight: Tensor, recurrent: Tensor, *args: Any, **kwargs: Any) -> int:
    positions = x.shape[0] * x.shape[1]
    return 2 * positions * (weight.numel() + recurrent.numel())


@formula(aten.mkldnn_rnn_layer_backward)
def _rnn_backward(x: Tensor, weight: Tensor, recurrent: Tensor, *args: Any, **kwargs: Any) -> int:
    return 2 * _rnn(x, weight, recurrent)
