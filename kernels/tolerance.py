"""Is it right? One rule for every backend, output and gradient.

    error against fp64  <=  2 x (error of a low-precision reference + rounding band)

Errors are the largest absolute difference over the largest truth. The low-precision reference is
the op's ``reference`` run in the tested dtype: how wrong an honest implementation gets there. The
band is two roundings of the tested dtype (``torch.finfo(dtype).eps``): an order of summation of the
reference's that happens to be lucky must not condemn another.
"""

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

SEED = 20240229


@dataclass(frozen=True)
class Closeness:
    """Measured error of one result and what it was allowed, both relative to the largest truth."""

    name: str
    rel_error: float
    tolerance: float


def assert_close_to_truth(
    name: str,
    actual: Shaped[Tensor, "*S"],
    truth: Shaped[Tensor, "*S"],
    low: Shaped[Tensor, "*S"],
    *,
    scale: float | None = None,
) -> Closeness:
    """Holds ``actual`` to the rule above.

    Where the truth is not finite (a log-sum-exp of nothing is -inf), ``actual`` must be the same.

    Args:
        name: of the result, for the message.
        actual: what is tested.
        truth: the fp64 reference.
        low: the reference in the tested precision; its dtype sets the rounding band.
        scale: size that errors are relative to; the largest finite truth if None.

    Raises:
        AssertionError: names the result, its error, its tolerance and the place.
    """
    finite = torch.isfinite(truth)
    wide = actual.to(truth.dtype)
    if not torch.equal(torch.isfinite(wide), finite):
        bad = torch.isfinite(wide) ^ finite
        raise AssertionError(
            f"{name}: {_where(bad)} of {_shape(truth)}: finite where truth is not, "
            f"or not finite where it is ({int(bad.sum())} places)"
        )
    if not torch.equal(wide[~finite].nan_to_num(), truth[~finite].nan_to_num()):
        raise AssertionError(f"{name}: infinite or NaN in another way than the truth")
    if scale is None:
        scale = _largest(truth)
    band = 2 * torch.finfo(low.dtype).eps
    unit = scale or 1.0
    error = torch.where(finite, wide - truth, 0).abs()
    low_error = _largest(torch.where(finite, low.to(truth.dtype) - truth, 0)) / unit
    measured = Closeness(name, _largest(error) / unit, 2 * (low_error + band))
    if measured.rel_error > measured.tolerance:
        worst = _where(error == error.max())
        raise AssertionError(
            f"{name}: relative error {measured.rel_error:.3g} > {measured.tolerance:.3g} = 2 x "
            f"({low_error:.3g} of the reference + {band:.3g}), worst at {worst} of {_shape(truth)}"
        )
    return measured


def check(
    fn: Callable[..., Any],
    reference: Callable[..., Any],
    inputs: Mapping[str, Tensor],
    *,
    dtype: torch.dtype,
    grads: bool = True,
    **kwargs: Any,
) -> dict[str, Closeness]:
    """Holds every output of ``fn``, and every gradient, to the rule; measures them all.

    Both functions are called as ``f(**inputs, **kwargs)`` and return a tensor or a tuple of them
    (None entries are skipped). Inputs are rounded to ``dtype`` once, and the truth is computed from
    the rounded ones. Cotangents are normal, from a fixed seed. A result that vanishes beside the
    others (the gradient of a softmax over one key) is held to rounding on their scale.

    Args:
        fn: what is tested, run in ``dtype``; complex inputs stay complex64.
        reference: run in fp64 for the truth and in ``dtype`` for the allowance.
        inputs: tensors by argument name; each floating or complex one gets a gradient.
        dtype: float32, bfloat16 or float16 (float64 is the truth: compare that directly).
        grads: False checks the outputs only.

    Returns:
        Results by name: ``output`` (``output[1]``... of a tuple) and ``grad NAME``.

    Raises:
        AssertionError: a result breaks the rule.
    """
    if dtype == torch.float64:
        raise ValueError("fp64 is the truth here: compare fp64 results with torch.testing directly")
    rounded = {name: _cast(x.detach(), dtype) for name, x in inputs.items()}
    exact = {name: _cast(x, torch.float64) for name, x in rounded.items()}
    truth = _results(reference, exact, grads, dtype, kwargs)
    low = _results(reference, rounded, grads, dtype, kwargs)
    actual = _results(fn, rounded, grads, dtype, kwargs)
    assert actual.keys() == truth.keys(), f"{list(actual)} returned, not {list(truth)}"
    largest = max(_largest(x) for x in truth.values())
    measured = {}
    for name, x in actual.items():
        own = _largest(truth[name])
        scale = own if own > torch.finfo(dtype).eps * largest else largest
        measured[name] = assert_close_to_truth(name, x, truth[name], low[name], scale=scale)
    return measured


def worst(measured: Mapping[str, Closeness]) -> Closeness:
    """The result that came closest to its tolerance."""
    return max(measured.values(), key=lambda result: result.rel_error / result.tolerance)


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Inside, freshly allocated buffers hold NaN (or the largest integer), not whatever was there.

    An output that reads memory it never wrote shows. Buffers that are never ``torch.empty`` (inside
    a foreign kernel) are not reached. It switches deterministic algorithms on, which is how torch
    fills buffers: do not time anything here.
    """
    deterministic: Any = importlib.import_module("torch.utils.deterministic")
    was_on = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    filled = deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        deterministic.fill_uninitialized_memory = filled
        torch.use_deterministic_algorithms(was_on, warn_only=warned)


def _results(
    fn: Callable[..., Any],
    inputs: Mapping[str, Tensor],
    grads: bool,
    dtype: torch.dtype,
    kwargs: Mapping[str, Any],
) -> dict[str, Tensor]:
    """Outputs and gradients by name. Cotangents are rounded to ``dtype`` in every precision."""
    leaves = {name: x.detach().clone() for name, x in inputs.items()}
    wanted = [n for n, x in leaves.items() if x.is_floating_point() or x.is_complex()]
    for name in wanted:
        leaves[name].requires_grad_(grads)
    returned = fn(**leaves, **kwargs)
    outputs = {}
    for i, y in enumerate(returned if isinstance(returned, tuple) else (returned,)):
        if y is not None:
            outputs[f"output[{i}]" if i else "output"] = y
    results = {name: y.detach() for name, y in outputs.items()}
    if grads:
        generator = torch.Generator().manual_seed(SEED)
        pairs = [(y, _cotangent(y, dtype, generator)) for y in outputs.values()]
        ends, cotangents = zip(*((y, g) for y, g in pairs if y.requires_grad), strict=True)
        found = torch.autograd.grad(
            ends, [leaves[n] for n in wanted], cotangents, allow_unused=True
        )
        for name, g in zip(wanted, found, strict=True):
            results[f"grad {name}"] = torch.zeros_like(leaves[name]) if g is None else g
    return results


def _cotangent(y: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    kind = torch.complex128 if y.is_complex() else torch.float64
    return _cast(torch.randn(y.shape, dtype=kind, generator=generator), dtype).to(y)


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    if x.is_complex():
        return x.to(torch.complex128 if dtype == torch.float64 else torch.complex64)
    return x.to(dtype) if x.is_floating_point() else x


def _largest(x: Tensor) -> float:
    x = x.abs()
    return x[torch.isfinite(x)].max().item() if torch.isfinite(x).any() else 0.0


def _where(places: Tensor) -> str:
    return str(tuple(places.nonzero()[0].tolist()))


def _shape(x: Tensor) -> str:
    return str(tuple(x.shape))
