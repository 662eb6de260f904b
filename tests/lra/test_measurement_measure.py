"""Measuring a step: every column, and nothing left behind."""

import copy
import tempfile
import threading
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.measurement.lock import DeviceLock
from lra.measurement.measure import BATCHES, Measured, measure
from lra.measurement.step import StepFns
from lra.results.schema import RunRow
from lra.tasks.spec import Batch

B, N, D, CLASSES = 4, 32, 16, 5


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


class Net(nn.Module):
    """Keeps what models keep: a buffer that training moves, an untied tensor, a last loss."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(7, D), nn.BatchNorm1d(D)
        self.mix, self.head = nn.Linear(N, N), nn.Linear(D, CLASSES)
        self.draw = torch.randn(D)
        self.kept: Tensor | None = None

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if self.training:
            self.draw.add_(1.0)
        h = self.norm(self.embed(x).mT)
        h = F.dropout(self.mix(h).mT * self.draw, 0.1, self.training) * mask[..., None]
        self.kept = h.square().mean()
        return self.head(h.mean(1))


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch.x, batch.mask), batch.y) + 0.1 * model.kept  # type: ignore[operator]


def fresh() -> Batch:
    x = torch.randint(7, (B, N))
    return Batch(x, x > 0, torch.randint(CLASSES, (B,)))


@pytest.fixture
def step() -> StepFns:
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters())
    step = StepFns(model, optimizer, loss, clip_norm=1.0)
    for _ in range(3):
        step.full_step(fresh())
    return step


def measured(step: StepFns, **options: Any) -> Measured:
    options = {"budget_s": 0.1, "max_samples": 10, **options}
    return measure(step, fresh, tokens=B * N, device="cpu", **options)


def test_every_column(step: StepFns) -> None:
    result = measured(step)
    columns = result.columns()
    assert set(columns) <= {field.name for field in fields(RunRow)}
    assert all(value is not None and value > 0 for value in columns.values())
    assert result.notes == ()
    assert result.steps_per_s == pytest.approx(1e3 / result.step_ms)
    assert result.tokens_per_s == pytest.approx(B * N * 1e3 / result.step_ms)
    assert result.flop_coverage == 1.0
    assert result.peak_mem_mib == pytest.approx(result.pred_mem_mib, rel=0.05)
    assert set(result.passes) == {"forward", "forward_backward", "step"}
    assert result.passes["step"].median == result.step_ms
    assert result.forward_ms < result.step_ms
    # two products forward, the first's input gradient and two weight gradients and the second's too
    products = 2 * B * (D * N * N) + 2 * B * D * CLASSES
    assert result.step_gflop == pytest.approx(3 * products / 1e9, rel=0.1)


def state(step: StepFns) -> dict[str, Any]:
    assert step.optimizer is not None and isinstance(step.model, Net)
    grads = {name: p.grad for name, p in step.model.named_parameters()}
    return copy.deepcopy({
        "model": step.model.state_dict(), "optimizer": step.optimizer.state_dict(),
        "draw": step.model.draw.detach(), "grads": grads, "training": step.model.training,
        "rng": torch.get_rng_state(),
    })  # fmt: skip


@pytest.mark.parametrize("train", [True, False])
def test_nothing_depends_on_being_measured(step: StepFns, train: bool) -> None:
    step.model.train(train)
    before = state(step)
    measured(step)
    torch.testing.assert_close(state(step), before, rtol=0, atol=0)


def test_next_steps_are_the_same_bits(step: StepFns) -> None:
    twin = step.copied()
    torch.manual_seed(1)
    measured(step)
    batch = fresh()
    twin_state = torch.get_rng_state()
    step.full_step(batch)
    torch.set_rng_state(twin_state)
    twin.full_step(batch)
    torch.testing.assert_close(twin.model.state_dict(), step.model.state_dict(), rtol=0, atol=0)


def test_inputs_change_between_samples_and_modes_are_right(step: StepFns) -> None:
    seen: dict[str, set[int]] = {"inference": set(), "training": set()}
    given: list[Batch] = []

    def batches() -> Batch:
        given.append(fresh())
        return given[-1]

    def spying(model: nn.Module, batch: Batch) -> Tensor:
        assert model.training == torch.is_grad_enabled()
        if type(batch.x) is Tensor:
            seen["training" if model.training else "inference"].add(batch.x.data_ptr())
        return loss(model, batch)

    spied = StepFns(step.model, step.optimizer, spying)
    measure(spied, batches, tokens=B * N, device="cpu", budget_s=0, min_samples=5)
    assert len(given) == BATCHES
    everything = {batch.x.data_ptr() for batch in given}
    assert seen == {"inference": everything, "training": everything}


def test_clip_accumulation_and_what_follows_a_step(step: StepFns) -> None:
    after: list[nn.Module] = []
    halves = lambda b: [Batch(b.x[i::2], b.mask[i::2], b.y[i::2]) for i in range(2)]  # noqa: E731
    model = nn.Linear(3, 1, bias=False)
    parts: list[int] = []

    def counting(model: nn.Module, batch: Batch) -> Tensor:
        parts.append(len(batch))
        return model(batch.x).sum() * 100

    x = torch.ones(4, 3)
    small = StepFns(model, None, counting, halves, clip_norm=0.5, after=after.append)
    small.full_step(Batch(x, x > 0, x[:, 0]))
    assert parts == [2, 2] and after == [model]
    assert model.weight.grad is not None
    assert model.weight.grad.norm() == pytest.approx(0.5, rel=1e-3)


def test_model_without_parameters(step: StepFns) -> None:
    """A Fourier mixer alone, as a length sweep times it."""
    x = torch.randn(B, N, D, requires_grad=True)
    alone = StepFns(nn.Identity(), None, lambda m, b: torch.fft.fft2(m(b)).real.sum())
    result = measure(alone, lambda: x, tokens=B * N, device="cpu", budget_s=0.05, max_samples=5)
    assert result.step_gflop and result.step_gflop > 0 and result.notes == ()


class Looking(Net):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return super().forward(x, mask) * float(mask.sum() > 0)


def test_what_is_missing_says_why() -> None:
    model = Looking()
    result = measured(StepFns(model, torch.optim.SGD(model.parameters(), lr=0.1), loss))
    assert result.pred_mem_mib is None and result.peak_mem_mib is not None
    assert len(result.notes) == 1 and "predicted" in result.notes[0]


def test_scratch_is_said() -> None:
    model = nn.Conv1d(2, 2, 33, padding=16, groups=2)
    step = StepFns(model, None, lambda model, x: model(x).square().sum())
    result = measure(
        step, lambda: torch.randn(4, 2, 512), tokens=2048, device="cpu", budget_s=0, max_samples=5
    )
    assert len(result.notes) == 1 and "scratch" in result.notes[0]
    assert result.peak_mem_mib == pytest.approx(result.pred_mem_mib)


def test_the_device_is_its_own_and_free_again(step: StepFns) -> None:
    lock = DeviceLock("cpu")
    result: list[Measured] = []
    with lock.shared():
        thread = threading.Thread(target=lambda: result.append(measured(step)), daemon=True)
        thread.start()
        thread.join(0.5)
        assert thread.is_alive() and not result
    thread.join(60)
    assert result
    with lock.exclusive():
        pass
