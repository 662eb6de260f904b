"""AdamW's arguments, the groups that ``_optim`` makes, and the schedule on top of them."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from lra import presets
from lra.config import Recipe, load
from lra.training.optimiser import make_optimiser


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    cfg = presets.compose(
        "model=custom", "mixer._target_=my_module.MyMixer", "protocol=smoke",
        "recipe.lr=0.01", "recipe.betas=[0.8,0.95]", "recipe.eps=1e-7", "recipe.weight_decay=0.3",
        "recipe.schedule=linear", "recipe.warmup_steps=4", "recipe.steps=10",
    )  # fmt: skip
    return load(cfg).recipe


class Net(nn.Module):
    """Two plain parameters, two with a rate and decay of their own, one frozen."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.bias = nn.Parameter(torch.ones(2))
        self.pole = nn.Parameter(torch.ones(4))
        self.step_size = nn.Parameter(torch.ones(1))
        self.gain = nn.Parameter(torch.ones(1))
        self.scale = nn.Parameter(torch.ones(1))
        self.frozen = nn.Parameter(torch.ones(5), requires_grad=False)
        # the order of the keys must not make another group
        self.pole._optim = {"lr": 1e-3, "weight_decay": 0.0}
        self.step_size._optim = {"weight_decay": 0.0, "lr": 1e-3}
        self.gain._optim = {"weight_decay": 0.0}
        self.scale._optim = {"lr_factor": 0.5, "weight_decay": 0.0}


def test_groups_follow_optim(recipe):
    net = Net()
    optimiser, _ = make_optimiser(net, recipe)
    found = {
        (group["initial_lr"], group["weight_decay"]): [p for p in group["params"]]
        for group in optimiser.param_groups
    }
    expected = {
        (0.01, 0.3): [net.weight, net.bias],
        (1e-3, 0.0): [net.pole, net.step_size],
        (0.01, 0.0): [net.gain],
        (0.005, 0.0): [net.scale],
    }
    assert len(optimiser.param_groups) == 4
    assert {key: [id(p) for p in group] for key, group in found.items()} == {
        key: [id(p) for p in group] for key, group in expected.items()
    }


def test_adamw_gets_the_recipes_arguments(recipe):
    optimiser, _ = make_optimiser(Net(), recipe)
    assert type(optimiser) is torch.optim.AdamW
    for group in optimiser.param_groups:
        assert group["betas"] == (0.8, 0.95)
        assert group["eps"] == 1e-7
        assert not group["amsgrad"]


def test_decay_is_decoupled(recipe):
    """Without a gradient AdamW shrinks by lr * decay alone; Adam's L2 would move by about lr."""
    net = Net()
    optimiser, _ = make_optimiser(net, replace(recipe, schedule="constant", warmup_steps=0))
    sum(p.sum() * 0 for p in net.parameters() if p.requires_grad).backward()
    optimiser.step()
    assert torch.allclose(net.weight, torch.full((3,), 1 - 0.01 * 0.3))
    assert torch.equal(net.pole, torch.ones(4))


def test_schedule_scales_every_group(recipe):
    optimiser, schedule = make_optimiser(Net(), recipe)
    rates = []
    for _ in range(10):
        rates.append([group["lr"] for group in optimiser.param_groups])
        optimiser.step()
        schedule.step()
    # step s of linear: s/4 in the warm-up, then down to 0 at step 10
    factors = [0.25, 0.5, 0.75, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0]
    for factor, found in zip(factors, rates, strict=True):
        own = [rate * factor for rate in (0.01, 1e-3, 0.01, 0.005)]
        assert found == pytest.approx(own, abs=1e-15)
