"""Which backend runs a call of attention, and which calls are refused."""

import pytest
import torch

from kernels.attention import attention, sdpa
from kernels.attention.score import Score
from kernels.dispatch import record
from kernels.errors import Unsupported
from tests.kernels.attention_inputs import draw, holes


def test_auto_prefers_the_fused_kernel_where_it_can():
    x = draw(8, v=16)
    mask = torch.ones(2, 8, dtype=torch.bool)
    fused = ({}, {"key_mask": mask}, {"causal": True})
    tiled = {
        "log-sum-exp": {"return_lse": True},
        "window": {"window": (1, 1)},
        "N x M": {"score": Score(alibi=torch.ones(4))},
        "an N x M tensor": {"score": Score(relative=torch.ones(4, 3))},
        "soft cap": {"score": Score(soft_cap=1.0)},
        "not both": {"causal": True, "key_mask": mask},
        "dropout": {"dropout_p": 0.1},
    }
    for kwargs in fused:
        with record() as log:
            attention(**x, **kwargs)
        assert log["attention"].backend == "sdpa"
    for reason, kwargs in tiled.items():
        with record() as log:
            attention(**x, **kwargs)
        assert log["attention"].backend == "eager"
        assert reason in log["attention"].rejected["sdpa"]
        with pytest.raises(Unsupported, match=reason):
            attention(**x, **kwargs, backend="sdpa")
    with pytest.raises(Unsupported, match="top-left"):
        attention(**draw(3, 8, v=16), causal=True, backend="sdpa")
    # one query sees every key: the mask that sdpa cannot align is not needed
    one = draw(1, 8, v=16)
    torch.testing.assert_close(
        attention(**one, causal=True, backend="sdpa"), attention(**one, backend="reference")
    )


def test_the_cpu_kernel_is_the_fused_one():
    q, k, v = draw(64, v=16, key_heads=4, dtype=torch.float32).values()
    mask = holes(2, 64)[:, None, None, :]
    assert torch._fused_sdp_choice(q, k, v) == 1
    assert torch._fused_sdp_choice(q.requires_grad_(), k, v, mask) == 1
    # what a GPU would be asked about; on a CPU the answer is no
    assert not sdpa.has_cuda_kernel(q, k, v, mask[:, 0, 0], 0.1, False)


@pytest.mark.parametrize(
    "change,message",
    [
        ({"q": torch.zeros(2, 4, 8)}, r"q must be .*\(2, 4, 8\)"),
        ({"k": torch.zeros(2, 4, 0, 16)}, r"k must be .*\(2, 4, 0, 16\)"),
        ({"k": torch.zeros(2, 4, 7, 16)}, r"k and v must agree .*\(2, 4, 7, 16\)"),
        ({"q": torch.zeros(3, 4, 8, 16)}, r"q and k must agree .*\(3, 4, 8, 16\)"),
        ({"q": torch.zeros(2, 3, 8, 16)}, r"multiple .*\(2, 3, 8, 16\)"),
        ({"v": torch.zeros(2, 4, 8, 16, dtype=torch.float64)}, "v is torch.float64 on cpu"),
        ({"k": torch.zeros(2, 4, 8, 16, device="meta")}, "k is torch.float32 on meta"),
        ({"window": (-1, 3)}, r"window must .*\(-1, 3\)"),
        ({"key_mask": torch.ones(2, 9, dtype=torch.bool)}, r"key_mask .*\(2, 8\).*\(2, 9\)"),
        ({"key_mask": torch.ones(2, 8)}, r"key_mask must be bool.*float32"),
        (
            {"key_mask": torch.ones(2, 8, dtype=torch.bool, device="meta")},
            "key_mask must be on cpu, got meta",
        ),
        ({"dropout_p": 1.0}, "dropout_p"),
        ({"score": Score(bias=torch.zeros(2, 4, 8, 7))}, r"score.bias .*\(2, 4, 8, 7\)"),
        ({"score": Score(alibi=torch.zeros(3))}, r"score.alibi .*\(3,\)"),
        ({"score": Score(soft_cap=0.0)}, "score.soft_cap"),
        ({"score": Score(activation="relu2"), "return_lse": True}, "return_lse"),
        ({"backend": "tritn"}, "no backend 'tritn'"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_bad_input_is_named(untyped, change, message):
    good = {name: torch.zeros(2, 4, 8, 16) for name in ("q", "k", "v")}
    with pytest.raises(ValueError, match=message):
        attention(**{**good, **change})
