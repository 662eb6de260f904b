"""Dtypes that an op cannot take are a ValueError that names the argument; fp64 is not rounded."""

import inspect
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch

from kernels import cuda_tools
from kernels.attention import attention
from kernels.delta_rule import delta_rule
from kernels.diagonal_scan import diagonal_scan
from kernels.dynamic_conv import dynamic_conv
from kernels.linear_attention import linear_attention
from kernels.linear_attention.feature_map import Identity
from kernels.long_conv import long_conv
from kernels.selective_scan import selective_scan
from kernels.short_conv import short_conv
from kernels.wkv import cuda as wkv_cuda
from kernels.wkv import wkv

N = 5
QKV = {name: torch.zeros(1, 2, N, 4) for name in "qkv"}
INTEGERS = {name: x.int() for name, x in QKV.items()}
BETA = {"beta": torch.zeros(1, 2, N)}
CONV = {"u": torch.zeros(1, 3, N), "weight": torch.zeros(3, 3), "bias": torch.zeros(3)}
LONG = {"u": torch.zeros(1, 3, N), "kernel": torch.zeros(3, N), "skip": torch.zeros(3)}
WKV = {"w": torch.zeros(3), "u": torch.zeros(3)} | {x: torch.zeros(1, N, 3) for x in "kv"}
SCAN = {name: torch.zeros(1, 3, N) for name in ("u", "delta", "z")}
SCAN |= {"a": torch.zeros(3, 2), "b": torch.zeros(1, 2, N), "c": torch.zeros(1, 2, N)}


def bad(changes, function, tensors, **fixed):
    return function, {**tensors, **fixed, **changes}


def integer(*shape):
    return torch.zeros(*shape, dtype=torch.int32)


@pytest.mark.parametrize(
    "call,message",
    [
        (bad(INTEGERS, linear_attention, QKV, causal=True), r"q must be floating \(1, 2, 5, 4\)"),
        (
            bad({"key_mask": torch.ones(1, N)}, linear_attention, QKV, causal=True),
            r"key_mask must be bool \(1, 5\), got torch.float32",
        ),
        (
            bad({"log_decay": integer(1, 2, N)}, linear_attention, QKV, causal=True),
            "log_decay must be floating",
        ),
        (bad(INTEGERS, delta_rule, QKV | BETA), "q must be floating"),
        (bad({"beta": integer(1, 2, N)}, delta_rule, QKV), r"beta must be floating \(1, 2, 5\)"),
        (bad({"log_decay": integer(1, 2, N)}, delta_rule, QKV | BETA), "log_decay must be float"),
        (
            bad({"key_mask": integer(1, N)}, delta_rule, QKV | BETA),
            "key_mask must be bool .*torch.int32",
        ),
        (
            bad({"b": integer(1, N, 3)}, diagonal_scan, {"a": torch.zeros(3)}),
            r"b \(1, 5, 3\) must be floating or complex, got torch.int32",
        ),
        (bad({"a": integer(3)}, diagonal_scan, {"b": torch.zeros(1, N, 3)}), r"a \(3,\) must be"),
        *(
            (bad({name: CONV[name].int()}, short_conv, CONV), f"{name} .* must be floating")
            for name in CONV
        ),
        (
            bad({"initial": integer(1, 3, 2)}, short_conv, CONV),
            r"initial \(1, 3, 2\) must be floating",
        ),
        *(
            (bad({name: LONG[name].int()}, long_conv, LONG), f"{name} .* must be floating")
            for name in LONG
        ),
        (
            bad({"weights": integer(1, 2, N, 3)}, dynamic_conv, {"v": QKV["v"]}),
            r"weights \(1, 2, 5, 3\) must be floating, got torch.int32",
        ),
        (
            bad({"v": INTEGERS["v"]}, dynamic_conv, {"weights": torch.zeros(1, 2, N, 3)}),
            "v .* must be floating",
        ),
        # what each position brings has one dtype; what belongs to the op may be wider
        (
            bad({"weights": torch.zeros(1, 2, N, 3).half()}, dynamic_conv, {"v": QKV["v"]}),
            "weights are torch.float16 on cpu, v is torch.float32 on cpu",
        ),
        (bad({"v": WKV["v"].half()}, wkv, WKV), "v is torch.float16, k is torch.float32"),
        *(
            (
                bad({name: SCAN[name].half()}, selective_scan, SCAN),
                f"{name} is torch.float16, u is torch.float32",
            )
            for name in ("delta", "b", "c", "z")
        ),
        *(
            (bad({"window": window}, attention, QKV), r"window must be \(left, right\)")
            for window in (3, (3,), (1, 2, 3), (-1, 2), (1.5, 2), "ab")
        ),
    ],
)
def test_is_refused(untyped, call, message):
    function, arguments = call
    with pytest.raises(ValueError, match=message):
        function(**arguments)


FEW = torch.zeros(2, 3)
WIDE = {
    "linear_attention": (
        tuple(QKV.values()),
        {"feature_map": Identity(), "log_decay": BETA["beta"], "initial_state": None},
    ),
    "delta_rule": ((*QKV.values(), *BETA.values()), {"log_decay": None, "initial_state": None}),
    "short_conv": (tuple(CONV.values()), {}),
    "dynamic_conv": ((QKV["v"], torch.zeros(1, 2, N, 3)), {}),
    "wkv": ((FEW[0], FEW[0], FEW[None], FEW[None]), {"initial_state": torch.zeros(1, 3, 3)}),
}


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("op", WIDE)
def test_triton_refuses_one_tensor_in_fp64(op, monkeypatch):
    # what the device says does not matter here
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    supports = inspect.unwrap(import_module(f"kernels.{op}.triton_").supports)
    placed, named = WIDE[op]
    assert supports(*placed, **named) is None
    for i, x in enumerate(placed):
        wide = (*placed[:i], x.double(), *placed[i + 1 :])
        assert supports(*wide, **named) == "it has no fp64"
    for name, x in named.items():
        if isinstance(x, torch.Tensor):
            assert supports(*placed, **named | {name: x.double()}) == "it has no fp64"


def test_cuda_wkv_refuses_one_tensor_in_fp64(monkeypatch):
    def wide(x):
        return "it has no fp64" if x.dtype == torch.float64 else None

    # without a GPU
    monkeypatch.setattr(cuda_tools, "supports_device", wide)
    placed, named = WIDE["wkv"]
    supports = inspect.unwrap(wkv_cuda.supports)
    assert supports(*placed, **named) is None
    for i, x in enumerate(placed):
        assert supports(*placed[:i], x.double(), *placed[i + 1 :], **named) == "it has no fp64"
    assert supports(*placed, initial_state=named["initial_state"].double()) == "it has no fp64"
