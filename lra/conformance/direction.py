"""Checks of direction: who sees whom, and whether decoding step by step is the same computation."""

import inspect
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kernels.errors import Unsupported
from lra.conformance.outcome import NotApplicable, Refuses
from lra.conformance.probe import (
    assert_same,
    forward,
    holey_mask,
    inputs,
    raises,
)
from lra.conformance.subject import DIM, HEADS, MAX_LEN, Mode, Subject, System, to_dtype
from lra.measurement.memory import tensors_in
from models.block import Block
from models.build import make, make_mixer
from models.cache import KeyValueCache
from models.mixer import Mixer
from models.qkv import Decoding
from models.spec import LayerSpec
from models.wake import wake


def causality(subject: Subject) -> None:
    """Changing x from position t on leaves every output before t as it was."""
    if subject.card.causality == "no":
        raises(Unsupported, lambda: _direct(subject, causal=True), "causal=True")
        raise Refuses("cannot be causal")
    system = subject.build("causal")
    for mask in (None, holey_mask([MAX_LEN], MAX_LEN)):
        # row t of the batch has another future from position t on
        position = torch.arange(MAX_LEN)
        future = position >= position[:, None]
        x = inputs(1, MAX_LEN)
        changed = torch.where(future[..., None], 3 * inputs(1, MAX_LEN, seed=2), x)
        rows = None if mask is None else mask.expand(MAX_LEN, -1)
        y, real = forward(system, x, mask)
        assert y.shape[1] == MAX_LEN, "causal systems keep the length"
        other, _ = forward(system, changed, rows)
        past = ~future & real
        expected = y.expand_as(other)
        assert_same("an output before the change", other[past], expected[past])
        assert not torch.allclose(other[0], y[0]), "outputs do not depend on the inputs at all"


def _direct(subject: Subject, *, causal: bool) -> nn.Module:
    """The system in a direction that it does not have; a mixer by its constructor, since a causal
    only one is otherwise built causally on any task."""
    if subject.level != "mixer":
        return subject.build("causal" if causal else "both")
    sizes = {"heads": HEADS, "max_len": MAX_LEN}
    return make(subject.mixer, Mixer, DIM, causal=causal, **sizes)


def reach(system: System, n: int, *, seed: int = 1) -> Tensor:
    """Who sees whom, (N, N) bool: whether output i has a gradient towards input j."""
    x = inputs(1, n, seed=seed).requires_grad_()
    y, _ = forward(system, x)
    weight = inputs(1, y.shape[1], seed=3)
    rows = []
    for i in range(y.shape[1]):
        (grad,) = torch.autograd.grad((y[0, i] * weight[0, i]).sum(), x, retain_graph=True)
        rows.append(grad[0].abs().amax(-1))
    size = torch.stack(rows)
    return size > 1e-9 * size.max()


def both_sides(subject: Subject) -> None:
    """A bidirectional system looks about as far ahead as back, and so does the wrapped causal one.

    Far, not everywhere: patterns may be local or in blocks.
    """
    modes: list[Mode] = [mode for mode in subject.modes() if mode != "causal"]
    if subject.level == "backbone":
        modes = [mode for mode in modes if _keeps_length(subject, mode)]
    for mode in modes:
        seen = reach(subject.build(mode), 17).nonzero()
        distance = seen[:, 1] - seen[:, 0]
        ahead, back = int(distance.max()), int(-distance.min())
        assert ahead >= 1, f"{mode}: no output sees an input after it"
        assert 2 * ahead >= back, f"{mode}: looks {back} positions back but only {ahead} ahead"
    if not subject.card.bidirectional:
        raises(Unsupported, lambda: _direct(subject, causal=False), "causal=False")
        raise Refuses("causal only; sees both sides by the two-direction wrapper")
    if not modes:
        raise NotApplicable("its outputs are not the input's positions")


def _keeps_length(subject: Subject, mode: Mode) -> bool:
    return forward(subject.build(mode), inputs(1, 17))[0].shape[1] == 17


def mixes(subject: Subject) -> None:
    """Some output sees an input other than its own: it is a mixer."""
    for mode in subject.modes():
        # features may be zero at one input and not at another
        system = subject.build(mode)
        seen = torch.stack([reach(system, 17, seed=seed) for seed in (1, 2, 4)]).any(0)
        assert seen.any(1).all(), f"{mode}: an output that depends on nothing"
        assert seen.sum() > seen.shape[0], f"{mode}: no output sees another position"


def recurrent(subject: Subject) -> None:
    """Token by token through ``step`` gives what the causal forward gives, with any positions, from
    a state that does not grow, or a key-value cache; so it does in the block of the preset."""
    if subject.level == "backbone":
        raise NotApplicable("decoding belongs to mixers and blocks")
    if not subject.card.recurrent:
        part = subject.build("causal" if "causal" in subject.modes() else None).part
        raises(Unsupported, lambda: part.init_state(1), "init_state")
        raise Refuses("does not decode step by step")
    for name, positions in positions_of(subject).items():
        _assert_decodes(f"steps, {name}", subject.build("causal", **positions))
    if subject.level == "mixer":
        _assert_decodes("steps of the block", _block(subject))


def _assert_decodes(told: str, system: System) -> None:
    x = inputs(2, MAX_LEN)
    state, outputs, sizes = system.part.init_state(2), [], []
    for x_t in x.unbind(1):
        y_t, state = system.part.step(x_t, state)
        outputs.append(y_t)
        sizes.append(sum(part.nbytes for part in tensors_in(state)))
    expected, _ = forward(system, x)
    assert_same(f"{told}, against the causal forward", torch.stack(outputs, 1), expected)
    first, last = sizes[0], sizes[-1]
    assert _has_cache(state) or first == last, (
        f"{told}: the state of {first} bytes after one token grows to {last} after {len(sizes)}"
    )


def _has_cache(state: Any) -> bool:
    """Whether a state holds keys and values of all tokens, by design."""
    if isinstance(state, tuple):
        return any(_has_cache(part) for part in state)
    return isinstance(state.inner if isinstance(state, Decoding) else state, KeyValueCache)


def _block(subject: Subject) -> System:
    """The causal block that a mixer's preset puts around it."""
    spec = LayerSpec(dim=DIM, heads=HEADS, ffn_dim=2 * DIM, max_len=MAX_LEN, causal=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block = make(subject.block, Block, spec, partial(make_mixer, subject.mixer))
        wake(block)
    return System(to_dtype(block, torch.float64)).eval()


def takes(subject: Subject, positions: str) -> bool:
    """Whether the mixer takes ``rotary`` or ``alibi``; a mixer that does not must say so."""
    inside: dict[str, Any] = {positions: True}
    try:
        subject.build(**inside)
    except Unsupported:
        return False
    return True


def positions_of(subject: Subject) -> dict[str, dict[str, Any]]:
    """The positions that can act inside the mixer, by name, as sizes for ``build``."""
    inside = [name for name in ("rotary", "alibi") if takes(subject, name)]
    return {"no positions": {}} | {name: {name: True} for name in inside}


def segments(subject: Subject) -> None:
    """A sequence in segments, the state handed on, gives what the whole sequence gives."""
    if subject.level != "mixer" or not subject.card.recurrent:
        raise NotApplicable("no state to hand on")
    mixer = subject.build("causal").part
    if "state" not in inspect.signature(type(mixer).forward).parameters:
        raise NotApplicable("forward takes no state")
    x = inputs(2, MAX_LEN)
    whole, _ = forward(subject.build("causal"), x)
    state, outputs, start = mixer.init_state(2), [], 0
    for n in (1, 16, 3, MAX_LEN - 20):
        y, state = mixer(x[:, start : start + n], state=state)
        outputs.append(y)
        start += n
    assert_same("segments against the whole", torch.cat(outputs, 1), whole)
    y_t, _ = mixer.step(x[:, 0], mixer.init_state(2))
    assert_same("a step after no segment", y_t, whole[:, 0])
