"""Checks of padding: what is not a real token does not exist, and other examples do not either."""

import torch
from torch import Tensor

from lra.conformance.outcome import NotApplicable
from lra.conformance.probe import (
    assert_finite,
    assert_same,
    forward,
    holey_mask,
    inputs,
    parameter_grads,
    prefix_mask,
    real_rows,
)
from lra.conformance.subject import MAX_LEN, Subject, System

LENGTHS = (1, 2, 5, 17, 31, MAX_LEN)


def padding(subject: Subject) -> None:
    """A padded example equals the unpadded one, at every true length, 1 and 2 included."""
    for mode in subject.modes():
        system, x = subject.build(mode), inputs(len(LENGTHS), MAX_LEN)
        mask = prefix_mask(LENGTHS, MAX_LEN)
        y, real = forward(system, x, mask)
        if subject.card.padding == "content_only":
            assert subject.card.padding_reason, "padding is content_only for no stated reason"
            continue
        for row, n in enumerate(LENGTHS):
            alone = x[row : row + 1, :n]
            for form in (None, torch.ones(1, n, dtype=torch.bool)):
                expected, all_real = forward(system, alone, form)
                assert_same(
                    f"{mode}, true length {n}, mask {'None' if form is None else 'all true'}",
                    real_rows(y, real, row), real_rows(expected, all_real, 0),
                )  # fmt: skip
    if subject.card.padding == "content_only":
        raise NotApplicable(f"content only: {subject.card.padding_reason}")


def holes(subject: Subject) -> None:
    """What stands under a hole of the mask, or in the padding, changes nothing."""
    for mode in subject.modes():
        system, x = subject.build(mode), inputs(len(LENGTHS), MAX_LEN)
        mask = holey_mask(LENGTHS, MAX_LEN)
        y, real = forward(system, x, mask)
        other = torch.where(mask[..., None], x, 100 * inputs(len(LENGTHS), MAX_LEN, seed=2))
        changed, _ = forward(system, other, mask)
        assert_same(f"{mode}, other content under the mask", changed[real], y[real])


def nan_in_padding(subject: Subject) -> None:
    """NaN and infinities under the mask reach no output and no gradient, of empty examples too."""
    if subject.level != "mixer":
        raise NotApplicable("the mixers keep them out; embeddings never make them")
    lengths = (*LENGTHS, 0)
    for mode in subject.modes():
        system = subject.build(mode).train()
        x, mask = inputs(len(lengths), MAX_LEN), holey_mask(lengths, MAX_LEN)
        zeros = x.masked_fill(~mask[..., None], 0)
        clean, clean_grads = _with_gradients(system, zeros, mask)
        for poison in (float("nan"), float("inf"), -float("inf")):
            dirty = x.masked_fill(~mask[..., None], poison)
            y, grads = _with_gradients(system, dirty, mask)
            assert_finite(f"{mode}, {poison} in the padding", y)
            assert_same(f"{mode}, {poison} in the padding", y[mask], clean[mask])
            for name, grad in grads.items():
                assert_finite(f"{mode}, {poison} in the padding: gradient of {name}", grad)
                expected = clean_grads[name]
                assert_same(f"{mode}, {poison}: gradient of {name}", grad, expected)


def _with_gradients(system: System, x: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Outputs, and gradients of the real ones by parameter name and of x."""
    x = x.clone().requires_grad_()
    y, real = forward(system, x, mask)
    grads = {n: g for n, g in parameter_grads(system, y[real]).items() if g is not None}
    (grads["x"],) = torch.autograd.grad(forward(system, x, mask)[0][real].sum(), x)
    return y.detach(), grads


def batch_independence(subject: Subject) -> None:
    """An example alone gives what it gives among others."""
    for mode in subject.modes():
        system, x = subject.build(mode), inputs(len(LENGTHS), MAX_LEN)
        # an outlier, so that a maximum over the batch shows
        x[3] *= 10
        for mask in (prefix_mask(LENGTHS, MAX_LEN), None):
            y, real = forward(system, x, mask)
            for row in range(len(LENGTHS)):
                one = slice(row, row + 1)
                alone, _ = forward(system, x[one], None if mask is None else mask[one])
                assert_same(
                    f"{mode}, example {row} alone", alone[0][real[row]], real_rows(y, real, row)
                )
