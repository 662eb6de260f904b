"""Attention's libraries: what reaches them and what they are spared, with stand-ins for them."""

import sys
import types

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import flex_attention as flex_module

from kernels.attention import attention, flash_attn_, flex, sdpa, xformers_
from kernels.attention.score import Score
from kernels.errors import Unsupported


def draw(n, m=None, *, v=20):
    """Queries, keys and values of unit size; two query heads a key head."""
    m = n if m is None else m
    generator = torch.Generator().manual_seed(0)
    shapes = {"q": (2, 4, n, 16), "k": (2, 2, m, 16), "v": (2, 2, m, v)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def holes(batch, m):
    """A key mask with holes, whose last row is empty."""
    mask = torch.rand(batch, m, generator=torch.Generator().manual_seed(1)) > 0.3
    mask[-1] = False
    return mask


PLAN = {
    "causal": False,
    "window": None,
    "key_mask": None,
    "score": Score(),
    "scale": 0.3,
    "dropout_p": 0.0,
    "return_lse": False,
}
CALLS = {
    "plain": {},
    "causal": {"causal": True},
    "window": {"window": (5, 2)},
    "both": {"window": (5, 2), "causal": True},
}


def by_reference(x, call):
    wanted = {**PLAN, **call}
    return attention(**x, **wanted, backend="reference")


@pytest.mark.parametrize("call", [*CALLS, "score"])
def test_flash_attn_gets_its_layout(monkeypatch, call):
    def flash_attn_func(
        q, k, v, dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes
    ):
        # (B, N, H, K); -1 and 0 are nothing; positions are aligned bottom-right
        score = Score(alibi=alibi_slopes, soft_cap=softcap or None)
        window = None if window_size == (-1, -1) else window_size
        heads_first = (x.transpose(1, 2) for x in (q, k, v))
        y = attention(
            *heads_first, causal=causal, window=window, score=score, scale=softmax_scale,
            dropout_p=dropout_p, backend="reference",
        )  # fmt: skip
        return y.transpose(1, 2)

    library = types.ModuleType("flash_attn")
    library.flash_attn_func = flash_attn_func
    monkeypatch.setitem(sys.modules, "flash_attn", library)
    x = draw(20, 30, v=16)
    changes = CALLS.get(call, {"score": Score(alibi=torch.rand(4), soft_cap=2.0)})
    y = flash_attn_.run(**x, **{**PLAN, **changes})
    torch.testing.assert_close(y, by_reference(x, changes), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("call", CALLS)
def test_xformers_gets_its_layout(monkeypatch, call):
    def memory_efficient_attention(q, k, v, attn_bias, p, scale):
        assert p == 0
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        s = q @ k.transpose(2, 3) * scale
        shift, seen = k.shape[2] - q.shape[2], torch.ones(s.shape[2:], dtype=torch.bool)
        if attn_bias is not None:
            left, right = getattr(attn_bias, "window_left", 10**6), attn_bias.window_right
            seen = seen.triu(shift - left).tril(shift + right)
        return (s.masked_fill(~seen, -torch.inf).softmax(-1) @ v).transpose(1, 2)

    masks = types.SimpleNamespace(
        LowerTriangularFromBottomRightMask=lambda: types.SimpleNamespace(window_right=0),
        LocalAttentionFromBottomRightMask=types.SimpleNamespace,
    )
    library = types.ModuleType("xformers.ops")
    library.memory_efficient_attention = memory_efficient_attention
    library.fmha = types.SimpleNamespace(attn_bias=masks)
    monkeypatch.setitem(sys.modules, "xformers", types.ModuleType("xformers"))
    monkeypatch.setitem(sys.modules, "xformers.ops", library)
    x = draw(20, 30)
    y = xformers_.run(**x, **{**PLAN, **CALLS[call]})
    torch.testing.assert_close(y, by_reference(x, CALLS[call]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n,m", [(20, 30), (300, 300), (200, 70)], ids=str)
@pytest.mark.parametrize("call", [*CALLS, "score"])
def test_flex_computes_the_same(monkeypatch, n, m, call):
    # as it is, not compiled: the same mathematics, without a minute of compilation
    monkeypatch.setattr(flex, "compiled", lambda: flex.flex_attention)
    monkeypatch.setattr(flex_module, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    x = draw(n, m, v=16)
    bias = torch.randn(1, 4, n, 1, generator=torch.Generator().manual_seed(1))
    table = torch.randn(4, 41, generator=torch.Generator().manual_seed(2))
    score = Score(bias=bias, relative=table, alibi=torch.rand(4), soft_cap=2.0)
    changes = CALLS.get(call, {"score": score, "key_mask": holes(2, m)}) | {"return_lse": True}
    got = flex.run(**x, **{**PLAN, **changes})
    torch.testing.assert_close(got, by_reference(x, changes), rtol=1e-4, atol=1e-5)


def test_flex_runs_compiled(untyped):
    """As users call it, where a gradient is wanted elsewhere."""
    if flex.available() is not None:
        pytest.skip(flex.available())
    x = {name: t.requires_grad_() for name, t in draw(150, 200).items()}
    score = Score(alibi=torch.rand(4), relative=torch.rand(1, 21))
    call = {"window": (20, 3), "key_mask": holes(2, 200), "score": score}
    with torch.no_grad():
        y = attention(**x, **PLAN | call, backend="flex")
        torch.testing.assert_close(y, by_reference(x, call), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [(130, 0), (5, 300), (None, 0)], ids=str)
@pytest.mark.parametrize("n,m", [(1, 1), (300, 700), (700, 300)], ids=str)
def test_flex_lists_the_blocks_of_the_band(n, m, window):
    mask = flex.block_mask(n, m, *window, torch.device("cpu"))
    at = torch.arange(m) - torch.arange(m - n, m)[:, None]
    seen = (at >= -(10**6 if window[0] is None else window[0])) & (at <= window[1])
    rows, columns = -(-n // 128), -(-m // 128)
    blocks = F.pad(seen.float(), (0, columns * 128 - m, 0, rows * 128 - n))
    used = blocks.view(rows, 128, columns, 128).amax((1, 3)) > 0
    assert torch.equal(mask.to_dense()[0, 0].bool(), used)
    assert mask.shape == (1, 1, n, m)


def test_libraries_say_what_they_cannot_do():
    x = draw(8, v=16)
    mask = torch.ones(2, 8, dtype=torch.bool)
    learned = Score(alibi=torch.ones(4, requires_grad=True))
    biased, capped = Score(bias=torch.zeros(1, 1, 8, 8)), Score(soft_cap=1.0)
    tabled = Score(relative=torch.zeros(4, 3, requires_grad=True))
    refusals = {
        flash_attn_: [
            ({"return_lse": True}, "no gradient"),
            ({"key_mask": mask}, "no key mask"),
            ({"score": biased}, "no bias"),
            ({"score": tabled}, "no bias"),
            ({"score": Score(activation="relu2")}, "softmax only"),
            ({"score": learned}, "no gradient to score.alibi"),
            ({"score": capped, "dropout_p": 0.1}, "no dropout beside a soft cap"),
            ({}, "fp16 and bf16 only"),
        ],
        xformers_: [
            ({"return_lse": True}, "no gradient"),
            ({"key_mask": mask}, "N x M"),
            ({"score": biased}, "N x M"),
            ({"score": tabled}, "N x M"),
            ({"score": capped}, "no soft cap"),
            ({"window": (1, 1)}, "windows in fp16 and bf16 only"),
            ({}, "on a GPU"),
        ],
        flex: [
            ({"score": Score(activation="relu2")}, "softmax only"),
            ({"dropout_p": 0.1}, "no dropout"),
            ({"score": learned}, "no backward pass on a CPU"),
            ({"score": tabled}, "no backward pass on a CPU"),
            ({"return_lse": True}, "no log-sum-exp on a CPU"),
        ],
    }
    for module, calls in refusals.items():
        for changes, reason in calls:
            assert reason in module.supports(**x, **{**PLAN, **changes}), (module, reason)
    more = {**x, "q": torch.zeros(2, 4, 9, 16)}
    assert "queries without keys" in xformers_.supports(**more, **{**PLAN, "causal": True})
    half = {name: t.half() for name, t in x.items()}
    assert "on a GPU" in flash_attn_.supports(**half, **PLAN)
    narrow = {**half, "v": half["v"][..., :8]}
    assert "one width" in flash_attn_.supports(**narrow, **PLAN)
    assert "on a GPU" in xformers_.supports(**narrow, **PLAN)
    assert "one width" in xformers_.supports(**narrow, **{**PLAN, "window": (1, 1)})
    unaligned = {name: t[..., :12] for name, t in half.items()}
    assert "16 bytes" in xformers_.supports(**unaligned, **PLAN)
    elsewhere = {name: t[..., :12].to("meta") for name, t in x.items()}
    assert "at least 16 wide" in flex.supports(**elsewhere, **PLAN)
    assert flex.supports(**x, **PLAN) is None
    assert "no fp64" in flex.supports(**{n: t.double() for n, t in x.items()}, **PLAN)


def test_sdpa_asks_about_the_tensors_that_it_would_run_on(monkeypatch):
    asked = []
    monkeypatch.setattr(sdpa, "SDPAParams", lambda *call: call)
    for kernel in ("flash", "efficient", "cudnn"):
        monkeypatch.setattr(sdpa, f"can_use_{kernel}_attention", asked.append)
    strided = [t.transpose(2, 3).contiguous().transpose(2, 3) for t in draw(8, v=16).values()]
    assert not sdpa.has_cuda_kernel(*strided, None, 0.0, False)
    assert len(asked) == 3 and all(t.stride(-1) == 1 for call in asked for t in call[:3])


@pytest.mark.parametrize("backend", ["flash_attn", "xformers", "triton"])
def test_a_library_that_is_not_here_says_so(backend):
    with pytest.raises(Unsupported, match="not installed|needs a GPU|cannot be imported"):
        attention(**draw(8, v=16), backend=backend)
