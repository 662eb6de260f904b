"""Checks against another computation of the same thing: the strongest there are."""

from typing import Any

import torch

from kernels.errors import Unsupported
from lra.conformance.outcome import NotApplicable, Refuses
from lra.conformance.probe import assert_same, forward, holey_mask, inputs, prefix_mask, raises
from lra.conformance.subject import MAX_LEN, Mode, Subject, System, load
from models.card import Equals
from models.mixer import Mixer
from models.qkv import QKVMixer


def equals(subject: Subject) -> None:
    """In each limit of the card it computes what the other mixer computes, parameters copied by
    name, in fp64; the length of the limit is the true length, padded or not."""
    if not subject.card.equals:
        raise NotApplicable("the card names no limit")
    for limit in subject.card.equals:
        for n in (1, 2, 16, 17):
            limited = subject.with_knobs(**limit.knobs(n))
            for mode in _directions(limited, limit):
                _compare(limited, limit, mode, n)


def dense(subject: Subject) -> None:
    """Where ``dense_at(n)`` says plain dense attention, dense attention it is; never at any length,
    unless the system is exact."""
    exact = subject.card.family == "exact"
    part: Any = subject.build().part
    if not hasattr(part, "dense_at"):
        raise NotApplicable("a backbone is judged by its mixers")
    assert exact or not part.dense_at(1 << 20), "claims to be dense attention at any length"
    lengths = [n for n in range(1, MAX_LEN + 1) if part.dense_at(n)]
    if not lengths:
        raise NotApplicable("not dense attention at any of these lengths")
    limits = [limit for limit in subject.card.equals if limit.mixer == "transformer"]
    limit = limits[0] if limits else Equals("transformer", lambda n: {})
    n = max(lengths)
    # the knobs that give the length are as they are; others (a convolution besides) as in the limit
    wanted, longer = limit.knobs(n), limit.knobs(n + 1)
    limited = subject.with_knobs(**{k: v for k, v in wanted.items() if v == longer[k]})
    for mode in _directions(limited, limit):
        _compare(limited, limit, mode, n)


def _directions(subject: Subject, limit: Equals) -> list[Mode]:
    return [
        mode for mode, causal in (("both", False), ("causal", True))
        if mode in subject.modes() and causal in limit.causal
    ]  # fmt: skip


def _compare(subject: Subject, limit: Equals, mode: Mode, n: int) -> None:
    """The subject against the limit's mixer at length n; an equal limit is dense if that one is."""
    for padded in (0, 3):
        size = n + padded
        system = subject.build(mode, max_len=size)
        other = load(limit.mixer).build(mode, max_len=size, seed=1)
        if limit.prepare is not None:
            with torch.no_grad():
                limit.prepare(system.part)
        copy_by_name(system, other)
        x, mask = inputs(2, size), prefix_mask([n, n], size) if padded else None
        y, real = forward(system, x, mask)
        expected, _ = forward(other, x, mask)
        told = f"{mode}, N={n}{', padded' if padded else ''}: against {limit.mixer}"
        assert_same(told, y[real], expected[real])
        if limit.mixer == "transformer" and limit.prepare is None:
            denied = f"equals dense attention at N={n}, dense_at({n}) denies it"
            assert system.part.dense_at(n), denied


def copy_by_name(source: System, target: System) -> None:
    """Copies what both have under one name and shape; the rest of ``source`` is its own."""
    mine, theirs = source.state_dict(), target.state_dict()
    shared = [k for k in mine if k in theirs and mine[k].shape == theirs[k].shape]
    assert shared, "the two mixers share no parameter name: nothing can be compared"
    target.load_state_dict({k: mine[k] for k in shared}, strict=False)


def reference_matrix(subject: Subject) -> None:
    """The output is the N x N matrix times the values, through the output projection."""
    cls = subject.mixer_class
    if subject.level != "mixer":
        raise NotApplicable("matrices belong to mixers")
    if cls.reference_matrix is Mixer.reference_matrix:
        part: Any = subject.build().part
        raises(Unsupported, lambda: part.reference_matrix(inputs(1, 5)), "reference_matrix")
        raise Refuses("has no N x N matrix")
    if not issubclass(cls, QKVMixer):
        raise NotApplicable("its matrix acts on no values of its own: tested with the mixer")
    for mode in [mode for mode in subject.modes() if mode != "two_way"]:
        for n in (1, 2, 17, MAX_LEN):
            system = subject.build(mode)
            mixer: Any = system.part
            lengths = [n, (n + 1) // 2]
            for mask in (None, prefix_mask(lengths, n), holey_mask(lengths, n)):
                x = inputs(2, n)
                matrix = mixer.reference_matrix(x, mask)
                _, _, v, _ = mixer.project(x, mask)
                expected = mixer.output((matrix @ v).transpose(1, 2).flatten(2))
                y, real = forward(system, x, mask)
                assert_same(f"{mode}, N={n}", y[real], expected[real])
