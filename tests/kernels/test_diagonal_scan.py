"""The diagonal recurrence: real and complex, both directions, constant and changing a."""

import inspect
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kernels.diagonal_scan import diagonal_scan
from kernels.tolerance import check, poisoned

D = 5
# shapes of a that broadcast to (2, n, D)
SHAPES = {
    "D": lambda n: (D,),
    "ND": lambda n: (n, D),
    "BND": lambda n: (2, n, D),
    "B1D": lambda n: (2, 1, D),
    "N1": lambda n: (n, 1),
}


def drawn(*shape, seed, dtype):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def arguments(n, shape, dtype=torch.float64, *, initial=True):
    a = 0.7 * drawn(*SHAPES[shape](n), seed=0, dtype=dtype)
    # exactly 0, and nearly 1
    a.view(-1)[0], a.view(-1)[-1] = 0, 1 - 1e-6
    tensors = {"a": a, "b": drawn(2, n, D, seed=1, dtype=dtype)}
    if initial:
        tensors["initial"] = drawn(2, D, seed=2, dtype=dtype)
    return tensors


def results(backend, tensors, reverse):
    leaves = {name: x.clone().requires_grad_() for name, x in tensors.items()}
    h = diagonal_scan(**leaves, reverse=reverse, backend=backend)
    grad = drawn(*h.shape, seed=3, dtype=h.dtype)
    return [h, *torch.autograd.grad(h, list(leaves.values()), grad)]


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=["real", "complex"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [1, 2, 13, 63, 100, 257])
def test_eager_is_the_loop(n, shape, dtype, reverse):
    tensors = arguments(n, shape, dtype, initial=n != 63)
    expected = results("reference", tensors, reverse)
    with poisoned():
        actual = results("eager", tensors, reverse)
    for x, y in zip(actual, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-11, atol=1e-11 * y.abs().max().item())


def test_reference_is_the_sum_of_products():
    """h_t = sum_s (a_{s+1} ... a_t) b_s, written out."""
    tensors = arguments(9, "BND")
    a, b, initial = tensors.values()
    for t in range(9):
        total = a[:, : t + 1].prod(1) * initial
        for s in range(t + 1):
            total = total + a[:, s + 1 : t + 1].prod(1) * b[:, s]
        h = diagonal_scan(a, b, initial=initial, backend="reference")
        torch.testing.assert_close(h[:, t], total)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.bfloat16])
def test_close_to_the_truth(dtype, reverse):
    kind = torch.complex128 if dtype.is_complex else torch.float64
    tensors = arguments(257, "BND", kind)
    precision = torch.float32 if dtype.is_complex else dtype

    def run(backend):
        return lambda **x: diagonal_scan(**x, reverse=reverse, backend=backend)

    check(run("eager"), run("reference"), tensors, dtype=precision)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("shape", ["D", "BND"])
@pytest.mark.parametrize("reverse", [False, True])
def test_gradcheck(shape, dtype, reverse):
    leaves = [x[..., :2].clone().requires_grad_() for x in arguments(15, shape, dtype).values()]

    def function(a, b, initial):
        return diagonal_scan(a, b, initial=initial, reverse=reverse, backend="eager")

    assert torch.autograd.gradcheck(function, leaves)


@pytest.mark.parametrize("decay", [0.0, 1e-30, 1 - 1e-6, 1.0, -1.0, 1.001])
def test_constant_decay_is_safe(decay):
    b = drawn(1, 3000, 1, seed=0, dtype=torch.float64)
    a = torch.full((1,), decay)
    expected = diagonal_scan(a.double(), b, backend="reference")
    h = diagonal_scan(a, b.float(), backend="eager")
    torch.testing.assert_close(
        h.double(), expected, rtol=0, atol=2e-5 * expected.abs().max().item()
    )


def test_real_coefficients_of_complex_inputs():
    """Gradients come back real where the argument was."""
    a, b = torch.rand(D), drawn(2, 40, D, seed=1, dtype=torch.complex64)
    a.requires_grad_()
    h = diagonal_scan(a, b, backend="eager")
    assert h.dtype == torch.complex64
    (grad,) = torch.autograd.grad(h.abs().sum(), a)
    assert grad.dtype == torch.float32
    torch.testing.assert_close(h, diagonal_scan(a, b, backend="reference"))


@pytest.mark.parametrize("reverse", [False, True])
def test_segments_chain(reverse):
    a, b, initial = arguments(100, "D").values()
    whole = diagonal_scan(a, b, initial=initial, reverse=reverse)
    parts = [b[:, :37], b[:, 37:38], b[:, 38:]]
    for part in reversed(parts) if reverse else parts:
        h = diagonal_scan(a, part, initial=initial, reverse=reverse)
        initial = h[:, 0] if reverse else h[:, -1]
    torch.testing.assert_close(initial, whole[:, 0] if reverse else whole[:, -1])


def test_reversed_is_flipped():
    a, b, initial = arguments(70, "BND").values()
    h = diagonal_scan(a, b, initial=initial, reverse=True)
    flipped = diagonal_scan(a.flip(1), b.flip(1), initial=initial).flip(1)
    torch.testing.assert_close(h, flipped)


def test_inputs_stay_as_they_were_and_need_not_be_contiguous():
    a, b, _ = arguments(70, "BND").values()
    strided = b.transpose(0, 2).contiguous().transpose(0, 2)
    h = diagonal_scan(a, strided, backend="eager")
    assert torch.equal(strided, b)
    torch.testing.assert_close(h, diagonal_scan(a, b, backend="eager"))


def test_nan_shows():
    a, b, _ = arguments(70, "D").values()
    b[0, 20, 1] = torch.nan
    h = diagonal_scan(a, b, backend="eager")
    assert h[0, 20:, 1].isnan().all() and h[0, :20].isfinite().all() and h[1].isfinite().all()


def test_no_loop_over_the_length():
    class Count(TorchDispatchMode):
        ops = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.ops += 1
            return func(*args, **(kwargs or {}))

    counts = []
    for n in (4096, 65536):
        a, b = torch.rand(1, requires_grad=True), torch.randn(1, n, 1, requires_grad=True)
        with Count() as count:
            diagonal_scan(a, b, backend="eager").sum().backward()
        counts.append(count.ops)
    # another level of chunks, not 16 times the steps
    assert counts[1] < 2 * counts[0] and counts[0] < 4096


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"b": torch.zeros(2, 8)}, r"b must be \(B, N, D\)"),
        ({"b": torch.zeros(2, 0, D)}, r"b must be .*\(2, 0, 5\)"),
        ({"a": torch.zeros(7, D)}, r"a must broadcast to the shape \(2, 8, 5\) of b, got \(7, 5\)"),
        ({"a": torch.zeros(1, 2, 8, D)}, "a must broadcast"),
        ({"initial": torch.zeros(2, 4)}, r"initial must be \(B, D\) = \(2, 5\), got \(2, 4\)"),
        ({"a": torch.zeros(D, device="meta")}, "a is on meta, b on cpu"),
        ({"backend": "eagre"}, "did you mean 'eager'"),
    ],
)
def test_bad_input(changes, message):
    # past the annotations, which tests check too and which would speak first
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(diagonal_scan)(**{"a": torch.zeros(D), "b": torch.zeros(2, 8, D)} | changes)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=["real", "complex"])
def test_one_coefficient_for_all_positions_does_not_add_up_its_rounding(dtype):
    """Its power carries from chunk to chunk, with the same error each time."""
    size, angle = (drawn(64, seed=seed, dtype=torch.float64) for seed in (0, 1))
    a = 1 - 1e-2 * size.abs()
    if dtype.is_complex:
        a = torch.polar(a, angle)
    b = drawn(2, 1024, 64, seed=2, dtype=dtype)
    run = partial(diagonal_scan, backend="eager")
    check(run, partial(diagonal_scan, backend="reference"), {"a": a, "b": b}, dtype=torch.float32)
