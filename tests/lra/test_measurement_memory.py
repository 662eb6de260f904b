"""Tracked peaks against the allocator's own events, arithmetic, and fake tensors."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed._tools.mem_tracker import MemTracker

from lra.measurement.allocator import allocator_peak_mib
from lra.measurement.memory import MIB, peak_memory_mib, predict_memory_mib
from lra.measurement.step import StepFns
from models.build import make_mixer
from models.spec import LayerSpec
from tests.bare_mixers import mixer_config, mixer_names

B, N, D = 2, 256, 64
CPU = torch.device("cpu")
# their scratch inside the op is large
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)


def peak(function: Callable[[], object], *held: object) -> float:
    return peak_memory_mib(function, *held, device=CPU)


class Projected(nn.Module):
    def __init__(self, dim: int = D):
        super().__init__()
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.mix(*self.qkv(x).chunk(3, -1)))

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        raise NotImplementedError


class Naive(Projected):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT / 8).softmax(-1) @ v


class Linear(Projected):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = F.elu(q) + 1, F.elu(k) + 1
        return q @ (k.mT @ v) / (q * k.sum(1, keepdim=True)).sum(-1, keepdim=True)


class Running(Projected):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q.sigmoid() * v).cumsum(1) / k.exp().cumsum(1)


class Windowed(Projected):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        w = 32
        k, v = (F.pad(t, (0, 0, w, w)).unfold(1, 3 * w, w) for t in (k, v))
        return ((q.unflatten(1, (-1, w)) @ k).softmax(-1) @ v.mT).flatten(1, 2)


class Fourier(Projected):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(q, dim=1) * torch.fft.rfft(k * v, dim=1), dim=1)


class Squared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        y = x.exp()
        ctx.save_for_backward(y.mul_(x))
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad * ctx.saved_tensors[0]


class OwnBackward(Projected):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return Squared.apply(q) + torch.zeros_like(k).copy_(v)


class Sorted(Projected):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        order = k.sum(-1).argsort(1)[..., None].expand_as(v)
        return torch.zeros_like(v).scatter_add(1, order, q.gather(1, order) * v)


class Encoder(nn.TransformerEncoder):
    """Its constructor copies the layer it is given."""

    def __init__(self) -> None:
        super().__init__(nn.TransformerEncoderLayer(D, 2, 2 * D, 0.1, "gelu", batch_first=True), 2)


MODULES: tuple[type[nn.Module], ...] = (
    Naive, Linear, Running, Windowed, Fourier, OwnBackward, Sorted, Encoder,
)  # fmt: skip


def training(kind: type[nn.Module], n: int = N) -> tuple[StepFns, tuple[Tensor, Tensor]]:
    """A training step that has been run, and a batch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, D), kind(), nn.Linear(D, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batch = torch.randn(B, n, 4), torch.randint(10, (B,))
    step = StepFns(model, optimizer, lambda m, b: F.cross_entropy(m(b[0]).mean(1), b[1]))
    step.full_step(batch)
    model.zero_grad()
    return step, batch


@pytest.mark.parametrize("kind", [kind for kind in MODULES if kind is not Fourier])
def test_agrees_with_the_allocator_and_repeats_to_the_byte(kind: type[nn.Module]) -> None:
    step, batch = training(kind)
    run = lambda: step.full_step(batch)  # noqa: E731
    held = (step.model, step.optimizer, batch)
    tracked = peak(run, *held)
    step.model.zero_grad()
    assert peak(run, *held) == tracked
    step.model.zero_grad()
    assert tracked == pytest.approx(allocator_peak_mib(run, *held), rel=0.001)


def test_scratch_inside_an_op_is_not_seen() -> None:
    """A transform along another axis than the last copies what it gets."""
    step, batch = training(Fourier)
    run = lambda: step.full_step(batch)  # noqa: E731
    held = (step.model, step.optimizer, batch)
    seen = peak(run, *held)
    step.model.zero_grad()
    assert 0.7 < seen / allocator_peak_mib(run, *held) < 0.97


@pytest.mark.parametrize("kind", MODULES)
def test_fake_tensors_predict_the_tracked_peak(kind: type[nn.Module]) -> None:
    step, batch = training(kind)
    tracked = peak(lambda: step.full_step(batch), step.model, step.optimizer, batch)

    def build(mode: Any) -> tuple[Callable[[], None], Sequence[object]]:
        fake, fake_batch = step.faked(mode, batch)
        held = (fake.model, fake.optimizer, fake_batch)
        return lambda: fake.full_step(fake_batch), held

    def build_anew(mode: Any) -> tuple[Callable[[], None], Sequence[object]]:
        new, new_batch = training(kind)
        return lambda: new.full_step(new_batch), (new.model, new.optimizer, new_batch)

    for way in (build, build_anew):
        predicted = predict_memory_mib(way, device=CPU)
        assert predicted.reason is None
        assert predicted.mib == pytest.approx(tracked, rel=0.05)


def test_second_opinion() -> None:
    step, batch = training(Naive)
    tracked = peak(lambda: step.full_step(batch), step.model, step.optimizer, batch)
    step.model.zero_grad()
    other = MemTracker()
    other.track_external(step.model, step.optimizer, *batch)  # type: ignore[arg-type]
    with other:
        step.full_step(batch)
    assert other.get_tracker_snapshot("peak")[CPU]["Total"] / MIB == tracked


def test_by_arithmetic() -> None:
    mib = lambda n: torch.ones(n * MIB // 4)  # noqa: E731
    x = mib(1)
    assert peak(lambda: None, x) == 1
    assert peak(lambda: x.view(2, -1).T, x, x[:4]) == 1  # views count once
    assert peak(lambda: x.add_(1), x) == 1
    assert peak(lambda: x + 1, x) == 2
    assert peak(lambda: (x + 1) + 1, x) == 3
    assert peak(lambda: [mib(4), mib(2)][0]) == 6
    assert peak(lambda: (mib(4), None)[1] or mib(2)) == 4  # freed before the next
    assert peak(lambda: mib(1).resize_(3 * MIB // 4)) >= 3


def test_saved_activations_gradients_and_optimiser_state_count() -> None:
    linear = nn.Linear(512, 512, bias=False)  # 1 MiB
    optimizer = torch.optim.Adam(linear.parameters())
    x = torch.ones(1, 512)
    optimizer.step()

    def step() -> None:
        linear(x).sum().backward()

    assert peak(lambda: linear(x), linear) == pytest.approx(1, abs=0.02)
    assert peak(step, linear) == pytest.approx(2, abs=0.02)
    assert peak(lambda: None, linear) == pytest.approx(2, abs=0.02)  # the gradient stayed
    assert peak(lambda: optimizer.step(), linear, optimizer) == pytest.approx(6, abs=1.02)
    assert peak(lambda: None, linear, optimizer) == pytest.approx(4, abs=0.02)


def test_other_devices_do_not_count() -> None:
    assert peak(lambda: torch.ones(MIB, device="meta")) == 0


def test_lengths_that_no_device_holds() -> None:
    n = 65_536

    def build(mode: Any) -> tuple[Callable[[], None], Sequence[object]]:
        step, batch = training(Naive, n)
        return lambda: step.full_step(batch), (step.model, step.optimizer, batch)

    predicted = predict_memory_mib(build, device=CPU)
    assert predicted.mib is not None
    # scores, their softmax and gradients: two to four N x N matrices for each example
    assert 2 <= predicted.mib / (B * n * n * 4 / MIB) <= 4


class Counting(Projected):
    """Its shapes, or its way, depend on values."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return v * q[q > 0].sum() if k.sum() > 0 else v


def test_a_forward_that_looks_at_values_has_no_prediction_but_a_reason() -> None:
    step, batch = training(Counting)
    assert peak(lambda: step.full_step(batch), step.model, step.optimizer, batch) > 0

    def build(mode: Any) -> tuple[Callable[[], None], Sequence[object]]:
        fake, fake_batch = step.faked(mode, batch)
        return lambda: fake.full_step(fake_batch), (fake.model,)

    predicted = predict_memory_mib(build, device=CPU)
    assert predicted.mib is None and predicted.reason is not None
    assert "DataDependent" in predicted.reason and "\n" not in predicted.reason


def test_an_endless_forward_is_given_up() -> None:
    def build(mode: Any) -> tuple[Callable[[], None], Sequence[object]]:
        def forever() -> None:
            x = torch.ones(1)
            while True:
                x = x + 1

        return forever, ()

    predicted = predict_memory_mib(build, device=CPU, limit_s=0.2)
    assert predicted.mib is None and predicted.reason is not None and "limit" in predicted.reason


@pytest.mark.parametrize("name", mixer_names())
def test_mixers_of_the_repository(name: str) -> None:
    """Allocator, tracker and prediction of a training step of the mixer alone."""
    config = mixer_config(name, size=16)
    torch.manual_seed(0)
    mixer = make_mixer(config, LayerSpec(dim=D, heads=2, max_len=128, causal=False))
    parameters = list(mixer.parameters())
    step = StepFns(
        mixer,
        torch.optim.AdamW(parameters) if parameters else None,
        lambda mixer, batch: mixer(*batch).square().mean(),
    )
    batch = torch.randn(B, 128, D, requires_grad=True), torch.ones(B, 128, dtype=torch.bool)
    held = (step.model, step.optimizer, batch)

    def run() -> None:
        step.full_step(batch)

    def clear() -> None:
        mixer.zero_grad()
        batch[0].grad = None

    run()
    clear()
    tracked = peak(run, *held)
    clear()
    if not any(isinstance(part, CONVOLUTIONS) for part in mixer.modules()):
        assert tracked == pytest.approx(allocator_peak_mib(run, *held), rel=0.05)
    clear()

    def build(mode: Any) -> tuple[Callable[[], None], Sequence[object]]:
        fake, fake_batch = step.faked(mode, batch)
        return lambda: fake.full_step(fake_batch), (fake.model, fake.optimizer, fake_batch)

    predicted = predict_memory_mib(build, device=CPU)
    assert predicted.reason is None
    assert predicted.mib == pytest.approx(tracked, rel=0.05)
