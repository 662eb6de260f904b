"""The gated depthwise convolution, its reach, its padding, its decoding."""

import pytest
import torch
from torch.nn import functional as F

from models.backbones.encoder import Encoder
from models.blocks.residual import ResidualBlock
from models.mixers.conv.local_conv import LocalConv
from models.spec import LayerSpec


def build(causal=False, kernel_size=5):
    torch.manual_seed(0)
    mixer = LocalConv(12, heads=3, max_len=64, causal=causal, kernel_size=kernel_size)
    return mixer.double().eval()


@pytest.mark.parametrize("n", [1, 2, 4, 5, 23])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("causal", [False, True])
def test_equals_its_equation(causal, kernel_size, n):
    mixer, x = build(causal, kernel_size), torch.randn(2, n, 12, dtype=torch.float64)
    u, gate = mixer.input(x).split(12, dim=-1)
    first = 1 - kernel_size if causal else -(kernel_size // 2)
    wanted = torch.zeros_like(u)
    for i in range(n):
        for w in range(kernel_size):
            if 0 <= i + first + w < n:
                wanted[:, i] += mixer.weight[:, w] * u[:, i + first + w]
    wanted = mixer.output(F.silu(gate) * wanted)
    torch.testing.assert_close(mixer(x), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_a_stack_sees_what_its_card_says_and_no_more(causal):
    spec = LayerSpec(dim=12, heads=1, max_len=40, causal=causal, depth=2, ffn_dim=16)
    torch.manual_seed(0)
    stack = Encoder(spec, lambda layer: ResidualBlock(layer, lambda _: build(causal))).double()
    x = torch.randn(1, 40, 12, dtype=torch.float64, requires_grad=True)
    y, _ = stack(x, torch.ones(1, 40, dtype=torch.bool))
    (grad,) = torch.autograd.grad(y[0, 20].sum(), x)
    seen = grad[0].abs().amax(-1).nonzero()[:, 0].tolist()
    # two layers of 5 positions: 2 (5 - 1) + 1
    assert seen == (list(range(12, 21)) if causal else list(range(16, 25)))


@pytest.mark.parametrize("causal", [False, True])
def test_padding_does_not_matter_whatever_it_holds(causal):
    mixer, x = build(causal), torch.randn(4, 13, 12, dtype=torch.float64)
    mask = torch.arange(13) < torch.tensor([[13], [7], [1], [0]])
    y = mixer(x.masked_fill(~mask[..., None], torch.nan), mask)
    assert y.isfinite().all()
    for row, n in ((0, 13), (1, 7), (2, 1)):
        torch.testing.assert_close(y[row : row + 1, :n], mixer(x[row : row + 1, :n]))


@pytest.mark.parametrize("kernel_size", [1, 5])
def test_decoding_equals_the_parallel_form(kernel_size):
    mixer, x = build(True, kernel_size), torch.randn(2, 13, 12, dtype=torch.float64)
    state, outputs = mixer.init_state(2), []
    for t in range(9):
        y, state = mixer.step(x[:, t], state)
        assert state.shape == (2, 12, kernel_size - 1)
        outputs.append(y)
    # the rest as a segment
    y, _ = mixer(x[:, 9:], state=state)
    whole = torch.cat([torch.stack(outputs, 1), y], 1)
    torch.testing.assert_close(whole, mixer(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel_size", [0, 4, -3])
def test_a_kernel_has_a_centre(kernel_size):
    with pytest.raises(ValueError, match=f"must be odd and positive, got {kernel_size}"):
        build(kernel_size=kernel_size)
