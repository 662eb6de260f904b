"""The same attention by every backend, and the one that was asked for."""

import pytest
import torch

from kernels.dispatch import prefer, record
from kernels.errors import Unsupported
from lra.conformance.probe import as_users_run
from models.mixers.exact.flash_attention import FlashAttention
from models.mixers.exact.transformer import Transformer


def build(kind=FlashAttention, causal=False, **knobs):
    torch.manual_seed(0)
    return kind(12, heads=3, max_len=64, causal=causal, **knobs).double().eval()


def outcome(mixer, x, mask):
    """Output and every gradient."""
    x = x.clone().requires_grad_()
    y = mixer(x, mask)
    leaves = [x, *mixer.parameters()]
    return [y, *torch.autograd.grad(y[0].square().sum() + y[1, :9].sum(), leaves)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("backend", ["reference", "eager", "sdpa"])
def test_every_backend_gives_the_transformer(backend, causal):
    x = torch.randn(2, 33, 12, dtype=torch.float64)
    mask = torch.arange(33) < torch.tensor([[33], [9]])
    # torch's fused kernel takes one of the two
    mask = None if causal and backend == "sdpa" else mask
    mixer = build(causal=causal, backend=backend)
    with record() as log, prefer("reference"):
        found = outcome(mixer, x, mask)
    assert log["attention"].backend == backend
    for got, wanted in zip(found, outcome(build(Transformer, causal), x, mask), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


def test_decodes_by_its_backend():
    mixer, x = build(causal=True, backend="reference"), torch.randn(2, 5, 12, dtype=torch.float64)
    state = mixer.init_state(2)
    with record() as log:
        for t in range(5):
            y, state = mixer.step(x[:, t], state)
    assert log["attention"].backend == "reference"
    torch.testing.assert_close(y, mixer(x)[:, -1], rtol=1e-12, atol=1e-12)


def test_an_explicit_backend_never_falls_back():
    mixer, x = build(causal=True, backend="sdpa"), torch.randn(1, 5, 12, dtype=torch.float64)
    with pytest.raises(Unsupported, match="a causal mask or a key mask, not both"):
        mixer(x, torch.ones(1, 5, dtype=torch.bool))


def test_unknown_backend_names_the_known_ones():
    with as_users_run(), pytest.raises(ValueError, match="auto, reference, eager, compile, sdpa"):
        build(backend="flash")
