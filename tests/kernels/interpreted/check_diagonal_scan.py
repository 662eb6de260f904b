"""The diagonal scan's Triton backend, emulated: run with TRITON_INTERPRET=1."""

import pytest
import torch

from kernels.diagonal_scan import diagonal_scan, triton_kernels
from kernels.tolerance import check, poisoned

D = 5
SHAPES = {"D": lambda n: (D,), "ND": lambda n: (n, D), "B1D": lambda n: (2, 1, D)}
SHAPES |= {"BND": lambda n: (2, n, D), "N1": lambda n: (n, 1)}


def drawn(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def arguments(n, shape, dtype=torch.float64, *, initial=True):
    a = 0.7 * drawn(*SHAPES[shape](n), seed=0, dtype=dtype)
    # exactly 0, and nearly 1
    a.view(-1)[0], a.view(-1)[-1] = 0, 1 - 1e-6
    # every example is emulated again: two where coefficients differ between them
    batch = 2 if shape.startswith("B") else 1
    tensors = {"a": a, "b": drawn(batch, n, D, seed=1, dtype=dtype)}
    if initial:
        tensors["initial"] = drawn(batch, D, seed=2, dtype=dtype)
    return tensors


def run(backend, **kwargs):
    return lambda **x: diagonal_scan(**x, backend=backend, **kwargs)


def held(tensors, dtype=torch.float32, **kwargs):
    with poisoned():
        check(run("triton", **kwargs), run("reference", **kwargs), tensors, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=["real", "complex"])
@pytest.mark.parametrize(
    ("n", "shape", "reverse"),
    [
        (1, "BND", False),
        (2, "ND", True),
        (63, "D", False),
        (64, "N1", True),
        (100, "BND", True),
        (70, "B1D", False),
        (257, "ND", False),
    ],
)
def test_close_to_the_truth(n, shape, dtype, reverse):
    held(arguments(n, shape, dtype, initial=n != 63), reverse=reverse)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(dtype):
    held(arguments(100, "BND"), dtype, reverse=dtype == torch.bfloat16)


def test_more_channels_than_a_block():
    b, a = drawn(1, 70, 130, seed=0), torch.rand(130, dtype=torch.float64)
    held({"a": a, "b": b})


def test_every_configuration(in_other_configurations, monkeypatch):
    # several chunks of few steps
    monkeypatch.setattr(triton_kernels, "CHUNK", 8)
    a, b = (drawn(1, 20, 70, seed=seed, dtype=torch.complex128) for seed in (0, 1))
    in_other_configurations(lambda: held({"a": 0.5 * a, "b": b}))


def test_real_coefficients_of_complex_inputs():
    a, b = torch.rand(D, requires_grad=True), drawn(2, 40, D, seed=1, dtype=torch.complex64)
    found = []
    for backend in ("triton", "reference"):
        h = diagonal_scan(a, b, backend=backend)
        found.append((h, *torch.autograd.grad(h.abs().sum(), a)))
    torch.testing.assert_close(found[0], found[1])


def test_inputs_need_not_be_contiguous_and_nan_shows():
    a, b, _ = (x.float() for x in arguments(70, "BND").values())
    b[0, 20, 1] = torch.nan
    strided = b.transpose(0, 2).contiguous().transpose(0, 2)
    h = diagonal_scan(a, strided, backend="triton")
    torch.testing.assert_close(h, diagonal_scan(a, b, backend="eager"), equal_nan=True)
    assert h[0, 20:, 1].isnan().all() and h[0, :20].isfinite().all() and h[1].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_refuses_fp64(dtype):
    with pytest.raises(ValueError, match="it has no fp64"):
        diagonal_scan(
            torch.rand(D, dtype=dtype), torch.ones(1, 3, D, dtype=dtype), backend="triton"
        )
