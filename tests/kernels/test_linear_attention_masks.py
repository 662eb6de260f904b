"""Which keys a query of linear attention sees: alignment, masks, NaN, strides, autocast."""

from contextlib import nullcontext

import pytest
import torch

from tests.kernels.linear_attention_cases import arguments, call, results


@pytest.mark.parametrize("n,m", [(7, 100), (70, 100), (1, 2)])
def test_causal_is_aligned_at_the_end(n, m):
    tensors, rest = arguments("scalar", m)
    whole, *state = call("eager", **tensors, **rest)
    tensors["q"] = tensors["q"][:, :, m - n :]
    y, *other = call("eager", **tensors, **rest)
    torch.testing.assert_close(y, whole[:, :, m - n :])
    torch.testing.assert_close(other, state)


def test_queries_before_the_first_key_give_zeros():
    tensors, rest = arguments("causal", 10, 4)
    y, *_ = call("eager", **tensors, **rest)
    assert not y[:, :, :6].any()
    tensors["q"] = tensors["q"][:, :, 6:]
    torch.testing.assert_close(y[:, :, 6:], call("eager", **tensors, **rest)[0])


def test_bidirectional_is_rectangular():
    tensors, rest = arguments("both", 5, 80, masked=True)
    expected = results("reference", tensors, rest)
    for x, y in zip(results("eager", tensors, rest), expected, strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("case", ["both-positive", "causal-positive", "scalar", "channel"])
def test_hidden_keys_never_leak(case):
    tensors, rest = arguments(case, 100, masked=True)
    hidden = ~rest["key_mask"]
    clean = results("eager", tensors, rest)
    for name in "kv":
        tensors[name] = tensors[name].masked_fill(hidden[:, None, :, None], torch.nan)
    for x, y in zip(results("eager", tensors, rest), clean, strict=True):
        torch.testing.assert_close(x, y)
    grad_k, grad_v = clean[4:6]
    for grad in (grad_k, grad_v):
        assert not grad.transpose(1, 2)[hidden].any()


def test_no_key_gives_zero():
    tensors, rest = arguments("both", 5)
    rest |= {"key_mask": torch.zeros(2, 5, dtype=torch.bool), "eps": 0.0}
    for causal in (False, True):
        y, *grads = results("eager", tensors, rest | {"causal": causal})
        assert not y.any()
        assert all(g.isfinite().all() for g in grads)


def test_nan_in_a_real_key_shows():
    tensors, rest = arguments("causal", 10)
    tensors["k"][0, 0, 3, 0] = torch.nan
    y, *_ = call("eager", **tensors, **rest)
    assert y[0, 0, 3:].isnan().all() and y[0, 1:].isfinite().all() and y[1].isfinite().all()


def test_inputs_need_not_be_contiguous():
    tensors, rest = arguments("scalar", 70)
    strided = {
        name: torch.stack([x, x], -1).transpose(0, 1).contiguous().transpose(0, 1)[..., 0]
        for name, x in tensors.items()
    }
    assert not strided["q"].is_contiguous()
    for x, y in zip(results("eager", strided, rest), results("eager", tensors, rest), strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("case", ["both", "scalar"])
def test_autocast_changes_nothing(case):
    tensors, rest = arguments(case, 70)
    tensors = {name: x.float() for name, x in tensors.items()}
    found = []
    for context in (nullcontext(), torch.autocast("cpu", torch.bfloat16)):
        with context:
            found.append(results("eager", tensors, rest))
    for x, y in zip(*found, strict=True):
        assert torch.equal(x, y)
