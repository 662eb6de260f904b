"""Checks that every module owes: shapes, gradients, lengths, precision, saving, drawing."""

import io
from collections.abc import Callable

import torch
from torch import Tensor

from lra.conformance.outcome import NotApplicable
from lra.conformance.probe import (
    assert_finite,
    assert_same,
    forward,
    inputs,
    normal_like,
    parameter_grads,
    prefix_mask,
)
from lra.conformance.subject import DIM, MAX_LEN, Subject, System

LENGTHS = (1, 2, 3, 5, 17, 31, 33)
# what is drawn anew in training is drawn within so many steps
REDRAWN = 1000


def shapes(subject: Subject) -> None:
    """(B, N, D) in and out, finite; a mask as long as the output."""
    for mode in subject.modes():
        y, real = forward(subject.build(mode), inputs(3, 17), prefix_mask([17, 5, 1], 17))
        if subject.level != "backbone":
            assert y.shape[1] == 17, f"{mode}: {y.shape[1]} positions out of 17"
        assert y.ndim == 3 and y.shape[0] == 3 and y.shape[2] == DIM, f"{mode}: {tuple(y.shape)}"
        assert real.shape == y.shape[:2] and real.dtype == torch.bool, f"{mode}: mask {real.shape}"
        assert_finite(mode, y)
    if subject.level == "mixer":
        y, _ = forward(subject.build(qkv_dim=DIM // 2, layer=1, depth=2), inputs(2, 5))
        assert y.shape == (2, 5, DIM), f"qkv_dim={DIM // 2}: {tuple(y.shape)}"


def gradients(subject: Subject) -> None:
    """Every parameter receives a finite gradient that is not zero everywhere, and so does x."""
    for mode in subject.modes():
        system = subject.build(mode).train()
        x = inputs(2, MAX_LEN).requires_grad_()
        y, _ = forward(system, x)
        for name, grad in parameter_grads(system, y).items():
            assert grad is not None, f"{mode}: {name} receives no gradient"
            assert_finite(f"{mode}: gradient of {name}", grad)
            assert grad.abs().max() > 0, f"{mode}: the gradient of {name} is zero everywhere"
        (grad,) = torch.autograd.grad(forward(system, x)[0].square().sum(), x)
        assert_finite(f"{mode}: gradient of x", grad)


def gradcheck(subject: Subject) -> None:
    """In fp64 the gradients of x and of every parameter give the central differences of a random
    projection of y along random directions (what torch's fast gradcheck does, told by name)."""
    mask = prefix_mask([5, 3], 5)
    subject = subject.with_knobs(**subject.card.smooth)
    for mode in subject.modes():
        system, x = subject.build(mode), inputs(2, 5)
        leaves = {"x": x} | {n: p for n, p in system.named_parameters() if p.requires_grad}
        for leaf in leaves.values():
            leaf.requires_grad_()

        def value(system: System = system, x: Tensor = x) -> Tensor:
            y, real = forward(system, x, mask)
            return (y * normal_like(y, seed=4))[real].sum()

        found = torch.autograd.grad(value(), list(leaves.values()), allow_unused=True)
        for (name, leaf), grad in zip(leaves.items(), found, strict=True):
            grad = torch.zeros_like(leaf) if grad is None else grad
            direction = normal_like(leaf, seed=5)
            expected = _central_difference(value, leaf, direction)
            error = abs((grad * direction).sum().item() - expected)
            scale = max(abs(expected), grad.norm().item(), 1e-6)
            assert error <= 1e-5 * scale, (
                f"{mode}: the gradient of {name} is {error / scale:.2g} off, relative"
            )


def _central_difference(value: Callable[[], Tensor], leaf: Tensor, direction: Tensor) -> float:
    step, found = 1e-5, []
    with torch.no_grad():
        middle = leaf.clone()
        for sign in (1, -1):
            leaf.copy_(middle + sign * step * direction)
            found.append(value().item())
        leaf.copy_(middle)
    return (found[0] - found[1]) / (2 * step)


def any_length(subject: Subject) -> None:
    """Every length works, block multiple or not, and longer than max_len where nothing is bound."""
    longer = () if subject.card.length_bound else (MAX_LEN + 7,)
    for mode in subject.modes():
        system = subject.build(mode, dtype=torch.float32)
        for n in (*LENGTHS, *longer):
            x = inputs(2, n, dtype=torch.float32).requires_grad_()
            y, _ = forward(system, x)
            assert y.shape[0] == 2 and y.shape[2] == DIM, f"{mode}, N={n}: {tuple(y.shape)}"
            assert subject.level == "backbone" or y.shape[1] == n, f"{mode}, N={n}: {y.shape[1]}"
            assert_finite(f"{mode}, N={n}", y)
            (grad,) = torch.autograd.grad(y.square().sum(), x)
            assert_finite(f"{mode}, N={n}: gradient of x", grad)


def bf16(subject: Subject) -> None:
    """Under bf16 autocast: finite, and within a few roundings of fp32; gradients finite.

    Where a system hashes, rounding turns a bit here and there, and rows are estimated from other
    tokens: there the typical row is held to it.
    """
    for mode in subject.modes():
        system = subject.build(mode, dtype=torch.float32)
        x, mask = inputs(2, MAX_LEN, dtype=torch.float32), prefix_mask([MAX_LEN, 17], MAX_LEN)
        wide, real = forward(system, x, mask)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y, _ = forward(system, x, mask)
        assert_finite(mode, y)
        rows = -1 if subject.card.family == "hashed" else None
        wrong = (y.float() - wide)[real].norm(dim=rows) / wide[real].norm(dim=rows)
        error = wrong.median()
        assert error < 0.05, f"{mode}: {error:.2g} away from fp32, relative"
        for name, grad in parameter_grads(system, y.float()).items():
            assert_finite(f"{mode}: gradient of {name}", torch.zeros(()) if grad is None else grad)


def state_dict(subject: Subject) -> None:
    """What was saved and loaded, weights only, into another instance computes the same."""
    for mode in subject.modes():
        first, second = subject.build(mode, seed=0), subject.build(mode, seed=1)
        first.train()
        for part in first.parts:
            # drawn features may differ by now from what the constructor drew
            part.on_step(1)
        first.eval()
        file = io.BytesIO()
        torch.save(first.state_dict(), file)
        file.seek(0)
        second.load_state_dict(torch.load(file, weights_only=True))
        x = inputs(2, 17)
        y, other = forward(first, x)[0], forward(second, x)[0]
        assert torch.equal(y, other), f"{mode}: another result after loading"


def determinism(subject: Subject) -> None:
    """The same seed gives the same parameters and outputs; evaluation draws nothing."""
    x = inputs(2, 17)
    for mode in subject.modes():
        first, second = subject.build(mode, seed=3), subject.build(mode, seed=3)
        for name, value in first.state_dict().items():
            assert torch.equal(value, second.state_dict()[name]), f"{mode}: {name} differs"
        y = first(x)[0]
        assert torch.equal(y, first(x)[0]), f"{mode}: evaluating twice gives two results"
        assert torch.equal(y, second(x)[0]), f"{mode}: same seed, another output"
        trained = [forward(system.train(), x)[0] for system in (first, second)]
        assert torch.equal(*trained), f"{mode}: same seed, another output in training"


def dropout(subject: Subject) -> None:
    """Dropout acts in training and not in evaluation."""
    x = inputs(2, 17)
    without, system = subject.build(), subject.build(dropout=0.5, mixer_dropout=0.5)
    assert_same("evaluation", forward(system, x)[0], forward(without, x)[0])
    dropped = forward(system.train(), x)[0]
    assert_finite("training", dropped)
    assert not torch.allclose(dropped, forward(without.train(), x)[0]), "dropout=0.5 does nothing"


def parameters(subject: Subject) -> None:
    """What is saved depends on the longest length only where the card says so, by name."""
    for mode in subject.modes():
        short = subject.build(mode, max_len=17).state_dict()
        long = subject.build(mode, max_len=33).state_dict()
        assert short.keys() == long.keys(), f"{mode}: other parameters at another max_len"
        bound = {name for name in short if short[name].shape != long[name].shape}
        claimed = set(subject.card.length_bound)
        told = {name for name in bound if claimed & set(name.split("."))}
        assert bound == told, f"{mode}: {sorted(bound - told)} fix the length, unsaid"
        missing = {c for c in claimed if not any(c in name.split(".") for name in bound)}
        assert not missing, f"{mode}: {sorted(missing)} do not fix the length"


def hooks(subject: Subject) -> None:
    """The auxiliary loss is a finite scalar; the step hook leaves a working system. What the card
    calls randomised draws anew in training, or, drawn once, differently in another instance."""
    system = subject.build().train()
    parts = system.parts
    x = inputs(2, 17)
    y, _ = forward(system, x)
    losses = [loss for part in parts if (loss := part.aux_loss()) is not None]
    for loss in losses:
        assert loss.ndim == 0 and torch.isfinite(loss), "aux_loss is not a finite scalar"
        assert loss.requires_grad, "aux_loss has no gradient"
    for step in range(1, 4):
        for part in parts:
            part.on_step(step)
    assert_finite("after on_step", forward(system, x)[0])
    if subject.card.randomised:
        _drawn(subject)
    elif not losses:
        raise NotApplicable("no loss of its own, nothing drawn")


def _drawn(subject: Subject) -> None:
    """Two draws give two results."""
    x, once = inputs(2, MAX_LEN), subject.card.drawn_once
    for mode in subject.modes():
        system, other = subject.build(mode, seed=0).train(), subject.build(mode, seed=1).train()
        for mine, theirs in zip(system.parameters(), other.parameters(), strict=True):
            theirs.data.copy_(mine.data)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            first, _ = system(x)
            for step in range(1, REDRAWN + 1):
                for part in system.parts:
                    part.on_step(step)
            second, _ = system(x)
        same, apart = torch.equal(first, second), forward(other, x)[0]
        assert same == once, (
            f"{mode}: {'another' if once else 'the same'} result after {REDRAWN} steps of training"
        )
        assert not once or not torch.allclose(first, apart), f"{mode}: every seed draws the same"
