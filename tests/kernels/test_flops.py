"""FLOPs against counts by hand, and against the ways in which a counter sees nothing."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from kernels.dispatch import Op
from kernels.flops import FORMULAS, count_flops, formula
from models.build import make_mixer
from models.spec import LayerSpec
from tests.bare_mixers import mixer_config, mixer_names

B, H, N, K = 2, 3, 16, 8


def flop(function: Callable[[], object]) -> int:
    """Of a function whose every op is known."""
    counted = count_flops(function)
    assert counted.coverage == 1.0 and not counted.unknown
    return round(counted.total_gflop * 1e9)


def backward_flop(function: Callable[[], Tensor]) -> int:
    return flop(lambda: function().sum().backward()) - flop(function)


def qkv() -> list[Tensor]:
    return [torch.randn(B, H, N, K, requires_grad=True) for _ in range(3)]


def by_matmul(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-1, -2)).softmax(-1) @ v


def masks() -> Iterator[dict[str, Any]]:
    yield {}
    yield {"is_causal": True}
    yield {"attn_mask": torch.ones(B, 1, 1, N, dtype=torch.bool)}


@pytest.mark.parametrize("mask", masks(), ids=["full", "causal", "mask"])
def test_fused_attention_costs_what_its_products_cost(mask: dict[str, Any]) -> None:
    q, k, v = qkv()
    by_hand = 2 * 2 * B * H * N * N * K
    assert flop(lambda: by_matmul(q, k, v)) == by_hand
    assert flop(lambda: F.scaled_dot_product_attention(q, k, v, **mask)) == by_hand


def test_backward_is_twice_and_fused_attention_recomputes_its_scores() -> None:
    q, k, v = qkv()
    forward = flop(lambda: by_matmul(q, k, v))
    assert backward_flop(lambda: by_matmul(q, k, v)) == 2 * forward
    fused = backward_flop(lambda: F.scaled_dot_product_attention(q, k, v))
    assert fused == 2.5 * forward


def test_grouped_query_heads_count_as_query_heads() -> None:
    q, k, v = torch.randn(B, 4, N, K), torch.randn(B, 2, N, K), torch.randn(B, 2, N, K)
    attention = lambda: F.scaled_dot_product_attention(q, k, v, enable_gqa=True)  # noqa: E731
    assert flop(attention) == 2 * 2 * B * 4 * N * N * K


def test_fft_convolution() -> None:
    x, kernel = torch.randn(B, K, N, requires_grad=True), torch.randn(K, N, requires_grad=True)

    def convolve() -> Tensor:
        y = torch.fft.rfft(x, n=2 * N) * torch.fft.rfft(kernel, n=2 * N)
        return torch.fft.irfft(y, n=2 * N)[..., :N]

    a_real_one = 2.5 * 2 * N * math.log2(2 * N)
    transforms = B * K + K + B * K
    assert flop(convolve) == round(transforms * a_real_one)
    # the gradient of a real transform is computed by a complex or a real one of the same length
    assert flop(convolve) <= backward_flop(convolve) <= 2 * flop(convolve)


def test_complex_transform_over_two_dimensions() -> None:
    x = torch.randn(B, N, K, dtype=torch.complex64)
    assert flop(lambda: torch.fft.fft2(x)) == round(B * 5 * N * K * math.log2(N * K))


@pytest.mark.parametrize(
    ("function", "by_hand"),
    [
        (lambda x: x.cumsum(0), N * K),
        (lambda x: x.cumprod(0), N * K),
        (lambda x: x.logcumsumexp(0), 4 * N * K),
        (lambda x: x.clone().cumsum_(0), N * K),
        (lambda x: torch.addcmul(x, x, x), 2 * N * K),
        (lambda x: x @ x[0], 2 * N * K),
        (lambda x: torch.dot(x[0], x[1]), 2 * K),
        (lambda x: torch.einsum("nk,mk->nm", x, x), 2 * N * N * K),
        (lambda x: F.avg_pool1d(x[None], 4, stride=2), 4 * N * (K - 2) // 2),
        (lambda x: torch.cdist(x[None], x[None, :4], compute_mode="donot_use_mm_for_euclid_dist"),
         3 * N * 4 * K),
        (lambda x: torch.linalg.solve_triangular(x[:K].tril() + torch.eye(K), x[:K], upper=False),
         K * K * K),
    ],
    ids=["cumsum", "cumprod", "logcumsumexp", "cumsum_", "addcmul", "mv", "dot", "einsum",
         "avg_pool", "cdist", "triangular"],
)  # fmt: skip
def test_ops_that_torch_counts_as_nothing(
    function: Callable[[Tensor], Tensor], by_hand: int
) -> None:
    x = torch.randn(N, K)
    assert flop(lambda: function(x)) == by_hand


def test_complex_product_is_four_real_ones() -> None:
    x = torch.randn(B, N, K)
    real, complex_ = flop(lambda: x @ x.mT), flop(lambda: x.cfloat() @ x.cfloat().mT)
    assert complex_ == 4 * real
    z = x.cfloat()
    assert flop(lambda: torch.addcmul(z, z, z)) == 8 * z.numel()


@pytest.mark.parametrize("groups", [1, K], ids=["dense", "depthwise"])
def test_convolution_gradients_cost_twice_the_convolution(groups: int) -> None:
    conv = nn.Conv1d(K, K, 3, padding=1, groups=groups)
    x = torch.randn(B, K, N, requires_grad=True)
    by_hand = 2 * B * N * K * 3 * (K // groups)
    assert flop(lambda: conv(x)) == by_hand
    assert backward_flop(lambda: conv(x)) == 2 * by_hand
    # torch agrees on dense ones only
    with FlopCounterMode(display=False) as torch_counts:
        conv(x).sum().backward()
    assert (torch_counts.get_total_flops() == 3 * by_hand) == (groups == 1)


def test_lstm() -> None:
    lstm = nn.LSTM(K, 2 * K, batch_first=True)
    x = torch.randn(B, N, K, requires_grad=True)
    by_hand = 2 * B * N * 4 * 2 * K * (K + 2 * K)
    assert flop(lambda: lstm(x)[0]) == by_hand
    assert backward_flop(lambda: lstm(x)[0]) == 2 * by_hand


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x)
        return x @ x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return grad @ x.mT + x.mT @ grad


def test_inside_an_autograd_function_and_its_backward() -> None:
    x = torch.randn(N, N, requires_grad=True)
    assert flop(lambda: Product.apply(x)) == 2 * N**3
    assert backward_flop(lambda: Product.apply(x)) == 2 * 2 * N**3


def test_inference_mode_and_recomputation() -> None:
    x, linear = torch.randn(N, K), nn.Linear(K, K)
    with torch.inference_mode():
        assert flop(lambda: linear(x)) == 2 * N * K * K
    x.requires_grad_()
    twice = lambda x: x @ x.mT @ x  # noqa: E731
    kept = backward_flop(lambda: twice(x))
    recomputed = backward_flop(
        lambda: torch.utils.checkpoint.checkpoint(twice, x, use_reentrant=False)  # type: ignore[return-value]
    )
    # the second product's result is not needed again
    assert recomputed == kept + 2 * N * N * K


def test_values_are_not_needed() -> None:
    real = flop(lambda: by_matmul(*qkv()).sum().backward())
    with FakeTensorMode():
        assert flop(lambda: by_matmul(*qkv()).sum().backward()) == real


# named like a free op of torch
@torch.library.custom_op("lra_test::mul", mutates_args=())
def mix(x: Tensor) -> Tensor:
    return x @ x


@torch.library.custom_op("lra_test::mix_into", mutates_args=("out",))
def mix_into(x: Tensor, out: Tensor) -> None:
    out.copy_(x @ x)


def test_unknown_op_lowers_coverage_and_is_named() -> None:
    x = torch.randn(N, N)
    counted = count_flops(lambda: mix(x + 1))
    assert counted.total_gflop == 0
    assert counted.unknown == {"lra_test.mul": N * N} and counted.coverage == 0.5
    into = count_flops(lambda: mix_into(x + 1, torch.empty(N, N)))
    assert into.unknown == {"lra_test.mix_into": N * N} and into.coverage == 0.5


def test_op_of_our_own_registers_its_formula() -> None:
    op = torch.ops.lra_test.mul
    formula(op)(lambda x, **kwargs: 2 * x.shape[0] ** 3)
    try:
        assert flop(lambda: mix(torch.randn(N, N))) == 2 * N**3
    finally:
        del FORMULAS[op]


def ordinary() -> dict[str, nn.Module]:
    return {
        "encoder": nn.TransformerEncoderLayer(K, 2, 16, 0.1, "gelu", batch_first=True),
        "conv_norm": nn.Sequential(nn.Conv1d(N, N, 3, groups=N), nn.BatchNorm1d(N), nn.SiLU()),
        "glu": nn.Sequential(nn.Linear(K, K), nn.GLU(), nn.LogSoftmax(-1)),
        "norms": nn.Sequential(nn.RMSNorm(K), nn.GroupNorm(2, N), nn.LayerNorm(K), nn.ELU()),
        "gru": nn.GRU(K, K, batch_first=True),
        "pools": nn.Sequential(nn.MaxPool1d(2), nn.AvgPool1d(2), nn.Softplus(), nn.Hardswish()),
    }


@pytest.mark.parametrize("name", ordinary())
def test_ordinary_training_is_covered_and_agrees_with_torch_counter(name: str) -> None:
    module = ordinary()[name]
    table, ids = nn.Embedding(5, K), torch.randint(5, (B, N))
    parameters = [*module.parameters(), *table.parameters()]
    optimizer = torch.optim.AdamW(parameters)

    def step() -> None:
        y = module(table(ids))
        y = y[0] if isinstance(y, tuple) else y
        F.cross_entropy(y.mean(-1), torch.zeros(B, dtype=torch.long)).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    step()
    counted = flop(step)
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as torch_counts:
        step()
    assert counted == torch_counts.get_total_flops()


def test_data_movement_computes_nothing() -> None:
    x = torch.randn(N, K)

    def move() -> None:
        order = x[:, 0].argsort()
        y = torch.cat([x[order], x.flip(0), torch.zeros_like(x)]).roll(3, 0)
        y.view(-1, 2, K).transpose(0, 1).contiguous()[y[::2].isnan().any(-1).nonzero().shape[0] :]

    assert flop(move) == 0
    # an unknown op among moves alone is all there is to cover
    assert count_flops(lambda: (move(), mix(torch.randn(N, N)))).coverage < 0.95


@pytest.mark.parametrize("name", mixer_names())
def test_no_mixer_mixes_for_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """FLOPs inside the ops that a mixer calls; where it calls none, those outside ``nn.Linear``."""
    config = mixer_config(name, size=4)
    mixer = make_mixer(config, LayerSpec(dim=2 * K, heads=2, max_len=2 * N, causal=False))
    inside: list[float] = []
    call, linear = Op.__call__, nn.Linear.forward

    def counting(self: Op, *args: Any, **kwargs: Any) -> Any:
        result: list[Any] = []
        counted = count_flops(lambda: result.append(call(self, *args, **kwargs)))
        inside.append(counted.total_gflop)
        return result[0]

    monkeypatch.setattr(Op, "__call__", counting)
    in_linear: list[float] = []

    def counting_linear(self: nn.Linear, x: Tensor) -> Tensor:
        in_linear.append(2 * x.numel() * self.out_features / 1e9)
        return linear(self, x)

    monkeypatch.setattr(nn.Linear, "forward", counting_linear)
    counted = count_flops(lambda: mixer(torch.randn(B, 2 * N, 2 * K)))
    assert counted.coverage == 1.0, f"no formula for {counted.unknown}"
    mixing = sum(inside) if inside else counted.total_gflop - sum(in_linear)
    assert mixing > 1e-12
