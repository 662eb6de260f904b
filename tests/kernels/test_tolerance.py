"""The rule itself: it lets honest rounding pass and nothing else."""

import pytest
import torch

from kernels.tolerance import assert_close_to_truth, check, poisoned, worst


def soft(q, k):
    """Two outputs and a None between them, as an op with an optional state returns."""
    s = q @ k.transpose(-1, -2)
    return s.softmax(-1) @ k, None, s.logsumexp(-1)


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(2, 9, 4, generator=generator) for name in ("q", "k")}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_honest_function_passes_and_is_measured(inputs, dtype):
    measured = check(soft, soft, inputs, dtype=dtype)
    assert list(measured) == ["output", "output[2]", "grad q", "grad k"]
    for result in measured.values():
        assert 0 < result.rel_error <= result.tolerance < 100 * torch.finfo(dtype).eps
    assert worst(measured) in measured.values()


def test_another_order_of_the_same_sums_passes(inputs):
    def reversed_sums(q, k):
        s = q.flip(-1) @ k.flip(-1).transpose(-1, -2)
        return s.flip(-1).softmax(-1) @ k.flip(-2), None, s.flip(-1).logsumexp(-1)

    check(reversed_sums, soft, inputs, dtype=torch.float32)


def test_an_error_of_one_in_ten_thousand_is_found_and_named(inputs):
    def wrong(q, k):
        a, b, c = soft(q, k)
        return a, b, c * 1.0001

    with pytest.raises(AssertionError, match=r"output\[2\]: relative error 0.0001 > .* at \("):
        check(wrong, soft, inputs, dtype=torch.float32)


def test_a_wrong_gradient_is_found(inputs):
    def wrong(q, k):
        return soft(q, k.detach() + 0.999 * (k - k.detach()))

    check(wrong, soft, inputs, dtype=torch.float32, grads=False)
    with pytest.raises(AssertionError, match="grad k"):
        check(wrong, soft, inputs, dtype=torch.float32)


def test_a_missing_gradient_is_found(inputs):
    with pytest.raises(AssertionError, match="grad k"):
        check(lambda q, k: soft(q, k.detach()), soft, inputs, dtype=torch.float32)


def test_infinities_must_be_the_same():
    truth = torch.tensor([1.0, -torch.inf], dtype=torch.float64)
    low = truth.float()
    assert_close_to_truth("lse", low, truth, low)
    for bad in ([1.0, torch.inf], [1.0, torch.nan], [1.0, 0.0], [torch.nan, -torch.inf]):
        with pytest.raises(AssertionError, match="lse"):
            assert_close_to_truth("lse", torch.tensor(bad), truth, low)


def test_what_vanishes_is_held_to_rounding_beside_the_rest():
    # a softmax over one key: the gradient of q is 0 up to rounding of the others
    one = {"q": torch.randn(2, 3, 4), "k": torch.randn(2, 1, 4)}

    def tiny(noise):
        return lambda q, k: 1e-5 * (soft(q, k)[0] + noise * (q - q.detach()))

    check(tiny(1e-8), tiny(0), one, dtype=torch.float32)
    with pytest.raises(AssertionError, match="grad q"):
        check(tiny(1e-3), tiny(0), one, dtype=torch.float32)


def test_complex_and_integer_inputs():
    inputs = {"a": torch.randn(5, dtype=torch.complex128), "i": torch.tensor([4, 0, 0])}
    measured = check(lambda a, i: (a * a)[i], lambda a, i: (a * a)[i], inputs, dtype=torch.float32)
    assert list(measured) == ["output", "grad a"]


def test_fp64_is_refused(inputs):
    with pytest.raises(ValueError, match="fp64 is the truth"):
        check(soft, soft, inputs, dtype=torch.float64)


def test_poisoned_buffers_hold_nan_and_only_inside():
    before = torch.are_deterministic_algorithms_enabled()
    with poisoned():
        assert torch.empty(1000).isnan().all()
        assert torch.empty(3, dtype=torch.bfloat16).isnan().all()
    assert torch.are_deterministic_algorithms_enabled() == before
