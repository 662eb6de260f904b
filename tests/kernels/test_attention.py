"""Attention: every backend is the one matrix, in output, log-sum-exp and every gradient."""

import math

import pytest
import torch

from kernels.attention import attention
from kernels.attention.score import Score
from kernels.errors import Unsupported
from kernels.tolerance import check, poisoned

LENGTHS = [(1, 1), (2, 2), (63, 63), (100, 100), (257, 257), (5, 100), (100, 5)]
FORMS = {
    "full": {},
    "causal": {"causal": True},
    "window": {"window": (7, 3)},
    "causal-window": {"causal": True, "window": (9, 0)},
    "cap": {"score": Score(soft_cap=2.0)},
    "relu2": {"score": Score(activation="relu2")},
    "laplace": {"score": Score(activation="laplace")},
}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def qkv(n, m, heads=2, key_heads=2):
    return {
        "q": drawn(2, heads, n, 5), "k": drawn(2, key_heads, m, 5, seed=1),
        "v": drawn(2, key_heads, m, 4, seed=2),
    }  # fmt: skip


def holes(m):
    """The first example sees no key, the second two of three."""
    mask = drawn(2, m, seed=3) > -0.4
    mask[0] = False
    return mask


@pytest.mark.parametrize(("n", "m"), LENGTHS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("masked", [False, True], ids=["open", "masked"])
def test_eager_is_the_reference(n, m, form, masked):
    given = {**FORMS[form], "key_mask": holes(m) if masked else None}
    found, truth = (
        attention(**qkv(n, m), **given, backend=name) for name in ("eager", "reference")
    )
    torch.testing.assert_close(found, truth, atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize("form", ["full", "causal", "window"])
@pytest.mark.parametrize("n", [63, 100])
def test_outputs_and_every_gradient_hold_the_tolerance(form, n):
    given = {**FORMS[form], "key_mask": holes(n), "return_lse": True}
    with poisoned():
        check(
            lambda **x: attention(**x, **given, backend="eager"),
            lambda **x: attention(**x, **given, backend="reference"),
            qkv(n, n), dtype=torch.float32,
        )  # fmt: skip


@pytest.mark.parametrize("masked", [False, True], ids=["open", "masked"])
def test_the_fused_kernel_is_the_reference(masked):
    given = qkv(40, 40)
    given["v"] = drawn(2, 2, 40, 5, seed=2)
    mask = holes(40) if masked else None
    check(
        lambda **x: attention(**x, key_mask=mask, backend="sdpa"),
        lambda **x: attention(**x, key_mask=mask, backend="reference"),
        given, dtype=torch.float32,
    )  # fmt: skip


def test_rows_that_see_nothing_are_zero():
    for backend in ("reference", "eager"):
        y, lse = attention(**qkv(9, 9), key_mask=holes(9), return_lse=True, backend=backend)
        assert (y[0] == 0).all() and (lse[0] == -math.inf).all()
        assert y[1].abs().min() > 0 and lse[1].isfinite().all()


def test_causal_is_aligned_at_the_end():
    given = qkv(4, 10)
    y = attention(**given, causal=True, backend="eager")
    for i in range(4):
        seen = {name: x[:, :, : 7 + i] for name, x in given.items() if name != "q"}
        alone = attention(given["q"][:, :, i : i + 1], **seen)
        torch.testing.assert_close(y[:, :, i : i + 1], alone)


def test_shared_key_heads_are_repeated():
    given = qkv(20, 20, heads=4, key_heads=2)
    repeated = {name: x.repeat_interleave(4 // x.shape[1], 1) for name, x in given.items()}
    for backend in ("reference", "eager"):
        torch.testing.assert_close(
            attention(**given, backend=backend), attention(**repeated, backend="reference")
        )


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_extreme_logits_stay_finite(backend):
    given = {name: x.float() for name, x in qkv(30, 30).items()}
    given["v"] = given["q"].clone()
    given["q"] = given["q"] * 1e4
    y = attention(**given, backend=backend)
    assert y.isfinite().all()


@pytest.mark.parametrize("form", ["full", "causal", "window", "cap"])
def test_gradcheck(form):
    given = tuple(x.requires_grad_() for x in qkv(6, 6).values())
    assert torch.autograd.gradcheck(
        lambda q, k, v: attention(q, k, v, **FORMS[form], return_lse=True, backend="eager"), given
    )


def test_bias_and_slopes_have_gradients():
    given = {**qkv(12, 12), "bias": drawn(1, 2, 12, 12, seed=4), "alibi": drawn(2, seed=5).abs()}

    def call(backend):
        return lambda bias, alibi, **x: attention(
            **x, score=Score(bias=bias, alibi=alibi), backend=backend
        )

    check(call("eager"), call("reference"), given, dtype=torch.float32)


def test_nan_does_not_become_silent_zeros():
    given = qkv(12, 12)
    given["q"][0, 0, 3, 1] = math.nan
    for backend in ("reference", "eager"):
        assert attention(**given, backend=backend)[0, 0, 3].isnan().all()


def test_inputs_need_not_be_contiguous():
    given = {
        name: x.transpose(1, 2).contiguous().transpose(1, 2) for name, x in qkv(20, 20).items()
    }
    torch.testing.assert_close(attention(**given, backend="eager"), attention(**qkv(20, 20)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": (-1, 0)}, "window must be"),
        ({"dropout_p": 1.0}, "dropout_p must be"),
        ({"score": Score(soft_cap=-1.0)}, "soft_cap must be above 0"),
        ({"v": drawn(2, 2, 8, 4)}, "k and v must agree"),
        ({"k": drawn(2, 2, 9, 7)}, "q and k must agree"),
        ({"q": drawn(2, 3, 9, 5)}, "heads of q must be a multiple"),
        ({"key_mask": torch.ones(2, 8, dtype=torch.bool)}, "key_mask must be bool"),
    ],
)
def test_what_is_wrong_is_said(change, message, untyped):
    with pytest.raises(ValueError, match=message):
        attention(**{**qkv(9, 9), **change})


def test_the_fused_kernel_refuses_with_a_reason():
    with pytest.raises(Unsupported, match="it has no window"):
        attention(**qkv(9, 9), window=(1, 1), backend="sdpa")
