"""Checks of what a system does when asked for what its card says it cannot, or with bad input."""

from typing import Any

import torch

from kernels.errors import Unsupported
from lra.conformance.direction import positions_of, takes
from lra.conformance.outcome import NotApplicable, Refuses
from lra.conformance.probe import (
    assert_finite,
    assert_same,
    forward,
    inputs,
    prefix_mask,
    raises,
    real_rows,
)
from lra.conformance.subject import DIM, HEADS, MAX_LEN, Subject


def refusals(subject: Subject) -> None:
    """Wrong shapes, widths, knobs and lengths are errors of one line that say what to do."""
    system = subject.build(dtype=torch.float32)
    if subject.level == "mixer":
        x = inputs(2, 5, dtype=torch.float32)
        for shape in ((2, 4), (2, 6), (1, 5), (5, 2)):
            mask = torch.ones(shape, dtype=torch.bool)
            raises(ValueError, lambda mask=mask: system(x, mask), f"a mask {shape} for x (2, 5)")
        raises(ValueError, lambda: system(x[..., 1:]), f"x of width {DIM - 1}")
        raises(ValueError, lambda: subject.build(heads=3, qkv_dim=DIM), f"3 heads for width {DIM}")
        raises(ValueError, lambda: subject.build(heads=0), "heads=0")
        raises(ValueError, lambda: subject.build(max_len=0), "max_len=0")
    raises(ValueError, lambda: subject.with_knobs(no_such_knob=1).build(), "an unknown knob")
    if subject.card.length_bound:
        too_long = inputs(1, MAX_LEN + 1, dtype=torch.float32)
        raises(Unsupported, lambda: system(too_long), f"{MAX_LEN + 1} positions of {MAX_LEN}")


def bad_knobs(subject: Subject) -> None:
    """A whole-number knob of 0 or below is a ValueError, not a crash or a wrong result."""
    names = [
        name for name, value in subject.config.items()
        if isinstance(value, int) and not isinstance(value, bool)
    ]  # fmt: skip
    if not names:
        raise NotApplicable("no knob that counts something")
    for name in names:
        wrong = subject.with_knobs(**{name: -1})
        raises(ValueError, lambda wrong=wrong: wrong.build(), f"{name}=-1")


def rotary(subject: Subject) -> None:
    """Rotary positions act and keep padding invariant; who does not take them refuses."""
    _inner_positions(subject, "rotary")


def alibi(subject: Subject) -> None:
    """ALiBi acts and keeps padding invariant; who does not take it refuses."""
    _inner_positions(subject, "alibi")


def _inner_positions(subject: Subject, kind: str) -> None:
    if subject.level != "mixer":
        raise NotApplicable(f"{kind} positions belong to mixers")
    if not takes(subject, kind):
        raise Refuses(f"takes no {kind} positions")
    inside: dict[str, Any] = {kind: True}
    lengths = (1, 2, 17, MAX_LEN)
    x = inputs(len(lengths), MAX_LEN)
    for mode in subject.modes():
        system = subject.build(mode, **inside)
        plain, _ = forward(subject.build(mode), x)
        y, real = forward(system, x, prefix_mask(lengths, MAX_LEN))
        assert not torch.allclose(forward(system, x)[0], plain), f"{mode}: changes nothing"
        if subject.card.padding == "content_only":
            continue
        for row, n in enumerate(lengths):
            alone, _ = forward(system, x[row : row + 1, :n])
            assert_same(f"{mode}, true length {n}", real_rows(y, real, row), alone[0])


def cross(subject: Subject) -> None:
    """Keys and values from a context of another length, its padding unseen; else it refuses."""
    if subject.level != "mixer":
        raise NotApplicable("a context belongs to mixers")
    mixer: Any = subject.build().part
    x, context = inputs(2, 5), inputs(2, MAX_LEN, seed=2)
    if not subject.card.cross:
        raises(Unsupported, lambda: mixer(x, context=context), "a context")
        raise Refuses("takes no keys and values from another sequence")
    mask, context_mask = prefix_mask([5, 2], 5), prefix_mask([MAX_LEN, 3], MAX_LEN)
    y = mixer(x, mask, context=context, context_mask=context_mask)
    assert y.shape == (2, 5, DIM), f"with a context: {tuple(y.shape)}"
    dirty = context.masked_fill(~context_mask[..., None], float("nan"))
    again = mixer(x, mask, context=dirty, context_mask=context_mask)
    assert_finite("NaN in the padding of the context", again)
    assert_same("NaN in the padding of the context", again[mask], y[mask])
    short = mixer(x[1:, :2], context=context[1:, :3])
    assert_same("a context without its padding", y[1:, :2], short)
    moved = mixer(x, mask, context=context + context_mask[..., None], context_mask=context_mask)
    assert not torch.allclose(moved, y), "the context changes nothing"
    if not mixer.causal:
        assert_same("x as its own context", mixer(x, context=x), mixer(x))
    if subject.card.causality != "no":
        _causal_memory(subject)


def _causal_memory(subject: Subject) -> None:
    """A causal segment with what went before it in the context gives the whole's last outputs."""
    whole = inputs(2, MAX_LEN)
    for name, positions in positions_of(subject).items():
        mixer = subject.build("causal", **positions).part
        try:
            segment = mixer(whole[:, -5:], context=whole)
        except Unsupported:
            # it may take a context in the bidirectional form only, if it says so
            continue
        told = f"a causal segment after its memory, {name}"
        assert_same(told, segment, mixer(whole)[:, -5:])


def heads(subject: Subject) -> None:
    """One head and many heads both work."""
    for count in (1, HEADS, DIM // 2):
        y, _ = forward(subject.build(heads=count), inputs(1, 5))
        assert_finite(f"{count} heads", y)
