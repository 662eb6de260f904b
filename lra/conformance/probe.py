"""What the checks feed a system and how they compare what comes back.

Legend: B batch, N length, D width. Masks are (B, N) bool, True = real token.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import jaxtyping
import torch
from torch import Tensor, nn

from lra.conformance.subject import DIM, System

# fp64 results that must agree may differ by rounding only, relative to the largest
ROUNDING = 1e-9


def inputs(batch: int, n: int, *, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    """Normal x (B, N, D), the same for the same arguments."""
    return normal_like(torch.empty(batch, n, DIM, dtype=dtype), seed=seed)


def normal_like(x: Tensor, *, seed: int) -> Tensor:
    """Normal numbers of this shape and dtype, the same for the same arguments."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype)


def prefix_mask(lengths: Sequence[int], n: int) -> Tensor:
    """A mask of these true lengths, (len(lengths), N)."""
    return torch.arange(n) < torch.tensor(lengths)[:, None]


def holey_mask(lengths: Sequence[int], n: int) -> Tensor:
    """A mask of these true lengths whose every third real token is a hole, the last one never."""
    mask, position = prefix_mask(lengths, n), torch.arange(n)
    last = torch.tensor(lengths)[:, None] - 1
    return mask & ((position % 3 != 1) | (position == last))


def forward(system: System, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """y and its mask; what a system draws in the call is the same in every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return system(x, mask)


def real_rows(y: Tensor, real: Tensor, example: int) -> Tensor:
    """The outputs of one example at its real positions."""
    return y[example][real[example]]


def parameter_grads(system: nn.Module, y: Tensor) -> dict[str, Tensor | None]:
    """Gradient by parameter name of a fixed random projection of y."""
    named = {name: p for name, p in system.named_parameters() if p.requires_grad}
    if not named:
        return {}
    found = torch.autograd.grad(
        (y * normal_like(y, seed=11)).sum(), list(named.values()), allow_unused=True
    )
    return dict(zip(named, found, strict=True))


def assert_finite(what: str, x: Tensor) -> None:
    assert torch.isfinite(x).all(), f"{what}: {int((~torch.isfinite(x)).sum())} values not finite"


def assert_same(what: str, actual: Tensor, expected: Tensor, tolerance: float = ROUNDING) -> None:
    """Equal but for rounding, relative to the largest expected value."""
    assert actual.shape == expected.shape, (
        f"{what}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    )
    if not actual.numel():
        return
    scale = max(expected.abs().max().item(), 1e-30)
    error = (actual - expected).abs().max().item() / scale
    assert error <= tolerance, f"{what}: differs by {error:.2g} of the largest value"


@contextlib.contextmanager
def as_users_run() -> Iterator[None]:
    """Inside, annotated shapes are not checked: wrong ones must meet errors of the system's own."""
    was = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", was)


def raises(kind: type[Exception], call: Any, what: str) -> None:
    """Asserts that the call fails with this error and a message of one line.

    Raises:
        AssertionError: it went through, or failed in another way.
    """
    try:
        with as_users_run():
            call()
    except kind as error:
        assert str(error) and "\n" not in str(error), f"{what}: the message is not one line"
    except Exception as error:
        raise AssertionError(
            f"{what}: {type(error).__name__} instead of {kind.__name__}: {error}"
        ) from error
    else:
        raise AssertionError(f"{what}: went through instead of raising {kind.__name__}")
