"""Linear attention: eager is the reference, whole or in segments, and costs what it may cost."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from kernels.linear_attention import causal as causal_form
from kernels.linear_attention import linear_attention, slices
from kernels.linear_attention.feature_map import EluPlusOne, PositiveRandom
from kernels.tolerance import check, poisoned
from lra.measurement.memory import predict_memory_mib
from tests.kernels.linear_attention_cases import CASES, K, M, arguments, call, drawn, results


@pytest.fixture
def many_slices(monkeypatch):
    """Slices so short that even these lengths need several."""
    monkeypatch.setattr(slices, "FEATURES", 1500)
    monkeypatch.setattr(slices, "SHORTEST", 1)
    monkeypatch.setattr(causal_form, "CHUNK", 16)


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("n", [1, 2, 63, 100, 257])
@pytest.mark.parametrize("case", CASES)
def test_eager_is_the_reference(case, n, masked, many_slices):
    tensors, rest = arguments(case, n, masked=masked, state=n != 63)
    expected = results("reference", tensors, rest)
    size = max(x.abs().max() for x in expected)
    with poisoned():
        actual = results("eager", tensors, rest)
    for x, y in zip(actual, expected, strict=True):
        # a gradient that vanishes is held to rounding on the scale of the others
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-11 * size.item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("case", CASES)
def test_close_to_the_truth(case, dtype):
    tensors, rest = arguments(case, 100, state=True)
    check(partial(call, "eager"), partial(call, "reference"), tensors, dtype=dtype, **rest)


def test_reference_is_the_matrix_form():
    """e^{G_i - G_j} phi(q_i) . phi(k_j), row-normalised: no recurrence anywhere."""
    tensors, rest = arguments("scalar", 40)
    y, s, z = call("reference", **tensors, **rest)
    sums = tensors["log_decay"].clamp(min=-800).cumsum(-1)
    phi_q, phi_k = (EluPlusOne()(tensors[x], keys=False) for x in "qk")
    weights = (phi_q @ phi_k.mT) * (sums[..., :, None] - sums[..., None, :]).tril().exp().tril()
    expected = weights @ tensors["v"] / (weights.sum(-1, keepdim=True) + 1e-6)
    torch.testing.assert_close(y, expected)
    left = (sums[..., -1:] - sums).exp()[..., None] * phi_k
    torch.testing.assert_close(s, left.mT @ tensors["v"])
    torch.testing.assert_close(z, left.sum(2))


@pytest.mark.parametrize("case", CASES)
def test_gradcheck(case, monkeypatch):
    monkeypatch.setattr(slices, "FEATURES", 100)
    monkeypatch.setattr(slices, "SHORTEST", 1)
    monkeypatch.setattr(causal_form, "CHUNK", 4)
    tensors, rest = arguments(case, 9, state=True)
    tensors = {name: x[:1, :1].clone().requires_grad_() for name, x in tensors.items()}
    if isinstance(rest["feature_map"], PositiveRandom):
        # no gradient goes through the stabiliser, which cancels where eps is 0 only
        rest["feature_map"] = PositiveRandom(drawn(M, K, seed=6), 0.0, drawn(1, 1, 1, 1, seed=7))

    def function(*values):
        outputs = call("eager", **dict(zip(tensors, values, strict=True)), **rest)
        normalised = rest.get("normalise", True)
        # without a normaliser there is no z
        return outputs if normalised else outputs[:2]

    assert torch.autograd.gradcheck(function, tuple(tensors.values()))


@pytest.mark.parametrize("case", ["causal", "scalar", "channel", "both"])
def test_segments_chain(case, many_slices):
    """The state of one segment begins the next; without ``causal`` it adds to the sums."""
    tensors, rest = arguments(case, 100)
    whole = call("eager", **tensors, **rest)
    outputs, state = [], {}
    for start, stop in ((0, 1), (1, 64), (64, 100)):
        part = {name: x[:, :, start:stop] for name, x in tensors.items()}
        y, s, z = call("eager", **part, **state, **rest)
        outputs.append(y)
        state = {"s": s, "z": z}
    torch.testing.assert_close(torch.cat(outputs, 2)[:, :, -1], whole[0][:, :, -1])
    if rest["causal"]:
        torch.testing.assert_close(torch.cat(outputs, 2), whole[0])
    torch.testing.assert_close((s, z), whole[1:])


@pytest.mark.parametrize("causal", [False, True])
def test_no_more_live_bytes_than_fused_attention(causal):
    def peak(attend):
        def build(mode):
            inputs = [torch.randn(2, 2, 8192, 64, requires_grad=True) for _ in "qkv"]
            grad = torch.randn(2, 2, 8192, 64)
            return (lambda: attend(*inputs).backward(grad)), [*inputs, grad]

        prediction = predict_memory_mib(build, device="cpu")
        assert prediction.reason is None
        return prediction.mib

    fused = peak(partial(F.scaled_dot_product_attention, is_causal=causal))
    linear = peak(lambda *x: linear_attention(*x, causal=causal, feature_map=EluPlusOne())[0])
    assert linear <= fused


def test_python_work_does_not_grow_with_the_length(monkeypatch):
    monkeypatch.setattr(slices, "FEATURES", 1)

    class Count(TorchDispatchMode):
        ops = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.ops += 1
            return func(*args, **(kwargs or {}))

    counts = []
    for n in (4096, 16384):
        tensors = {name: x[:1, :1].float() for name, x in arguments("scalar", n)[0].items()}
        with Count() as count:
            results("eager", tensors, {"causal": True, "feature_map": EluPlusOne()})
        counts.append(count.ops)
    # four times the length, at most twice the ops: slices are bounded, chunks scan in blocks
    assert counts[1] < 2 * counts[0]
