"""Learning-rate schedules against their published formulas and figures, and against torch's own."""

import math

import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from lra.training.schedule import SCHEDULES, factor


def rates(kind: str, *, steps: int, warmup: int, base: float = 1.0) -> list[float]:
    """The rate of step 1, 2, ..., ``steps``."""
    formula = factor(kind, steps=steps, warmup=warmup)
    return [base * formula(done) for done in range(steps)]


def test_rsqrt_has_the_published_peaks():
    listops = rates("rsqrt", steps=5000, warmup=1000, base=0.05)
    assert max(listops) == listops[999] == pytest.approx(1.58e-3, rel=2e-3)
    assert listops[4999] == pytest.approx(7.1e-4, rel=5e-3)
    text = rates("rsqrt", steps=20_000, warmup=8000, base=0.05)
    assert max(text) == text[7999] == pytest.approx(5.6e-4, rel=5e-3)
    assert text[-1] == pytest.approx(3.5e-4, rel=2e-2)
    # retrieval stops before its warm-up does: still rising
    retrieval = rates("rsqrt", steps=5000, warmup=8000, base=0.05)
    assert retrieval == sorted(retrieval)
    assert retrieval[-1] == pytest.approx(3.5e-4, rel=1e-2)


@pytest.mark.parametrize("warmup", [0, 1, 7])
def test_rsqrt_is_its_formula(warmup):
    for s, rate in enumerate(rates("rsqrt", steps=40, warmup=warmup), start=1):
        warm = min(1, s / warmup) if warmup else 1
        assert rate == pytest.approx(warm / math.sqrt(max(s, warmup)), rel=1e-12)


@pytest.mark.parametrize(("steps", "warmup"), [(50, 10), (50, 2), (200, 60), (40, 20), (40, 39)])
def test_one_cycle_is_torchs(steps, warmup):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.AdamW([parameter], lr=3.0)
    torchs = OneCycleLR(
        optimiser, max_lr=2.0, total_steps=steps, pct_start=warmup / steps,
        anneal_strategy="linear", cycle_momentum=False,
    )  # fmt: skip
    ours = rates("one_cycle", steps=steps, warmup=warmup, base=2.0)
    for done, rate in enumerate(ours):
        assert rate == pytest.approx(torchs.get_last_lr()[0], rel=1e-9, abs=1e-15), done
        if done < steps - 1:
            optimiser.step()
            torchs.step()


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 10])
def test_linear_and_cosine_end_at_zero(kind, warmup):
    found = rates(kind, steps=110, warmup=warmup)
    assert found[-1] == pytest.approx(0, abs=1e-12)
    assert found[-2] > 0
    peak = max(warmup, 1) - 1
    assert found[:peak] == pytest.approx([s / warmup for s in range(1, peak + 1)])
    falling = found[peak:]
    assert falling == sorted(falling, reverse=True)
    # half-way down both are at a half
    middle = warmup + (110 - warmup) // 2
    assert found[middle - 1] == pytest.approx(0.5)


def test_cosine_is_half_a_cosine():
    for s, rate in enumerate(rates("cosine", steps=100, warmup=20), start=1):
        expected = s / 20 if s <= 20 else 0.5 * (1 + math.cos(math.pi * (s - 20) / 80))
        assert rate == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", ["constant", "rsqrt", "linear", "cosine"])
def test_power_of_the_warm_up(kind):
    """Below w the rate is (s/w)^2 of what it is after it; from w on nothing changes."""
    plain, squared = (factor(kind, steps=40, warmup=10, power=p) for p in (1, 2))
    for done in range(40):
        share = min(1, (done + 1) / 10)
        assert squared(done) == pytest.approx(plain(done) * share, rel=1e-12)
    assert [plain(done) for done in range(40)] == rates(kind, steps=40, warmup=10)


def test_constant_warms_up_and_stays():
    found = rates("constant", steps=10, warmup=4)
    assert found == pytest.approx([0.25, 0.5, 0.75, *[1.0] * 7])
    assert rates("constant", steps=3, warmup=0) == [1.0] * 3


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 1), (2, 1), (5, 5), (5, 50)])
def test_extreme_lengths_give_usable_rates(kind, steps, warmup):
    found = rates(kind, steps=steps, warmup=warmup)
    assert all(math.isfinite(rate) and 0 <= rate <= 1 for rate in found)


def test_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="schedule must be one of constant, rsqrt"):
        factor("triangle", steps=1, warmup=0)
