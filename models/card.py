"""The card of a system: what it claims, in a form that tests can hold it to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Family = Literal[
    "exact", "sparse", "hashed", "low_rank", "linear", "recurrent", "ssm", "conv", "whole_model"
]
FAMILIES: tuple[str, ...] = Family.__args__  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Equals:
    """A limit in which one mixer is another: the strongest test there is.

    ``knobs(n)`` are the knob values that make it so at length n; ``prepare(mixer)`` sets what no
    knob can (an identity projection); ``causal`` says in which directions the identity holds.
    """

    mixer: str
    knobs: Callable[[int], Mapping[str, Any]]
    prepare: Callable[[Any], None] | None = None
    causal: tuple[bool, ...] = (False, True)


@dataclass(frozen=True)
class Card:
    """Facts about a mixer, block or backbone; a class attribute of it.

    Attributes:
        title, authors, year, link: the paper.
        family: one word, also the folder.
        time, memory: complexity as an expression of N (and of the knobs), e.g. ``"N w d"``.
        causal_time: that of the causal form, where it is another one.
        causality: ``native`` (is causal by construction), ``masked`` (causal by a mask or a
            triangular form), ``no`` (cannot be causal).
        bidirectional: can see both sides without the shared two-direction wrapper.
        recurrent: decodes by ``step`` with a state (a constant one, or a key-value cache).
        cross: takes keys and values from ``context``.
        length_bound: names of parameters whose size fixes the longest length.
        randomised: draws features, hashes or samples.
        drawn_once: draws them when it is made and keeps them, in training too.
        grid: needs the rows and columns of a flattened 2-D input.
        replaces_ffn: the paper's layer has no feed-forward network because the mixer holds its
            parameters: the residual block then adds none.
        ops: the ops of ``kernels`` that it uses.
        equals: limits in which it is another mixer.
        padding: ``invariant`` (a padded example equals the unpadded one) or ``content_only``
            (padded content cannot leak, but the padded length changes the result: say why).
        smooth: knobs under which autograd gives the whole gradient, where a deliberate
            stop-gradient cuts a term elsewhere (``deviations`` says so).
        deviations: what differs from the paper or its authors' code, one sentence each.
    """

    title: str
    authors: str
    year: int
    link: str
    family: Family
    time: str
    memory: str
    causality: Literal["native", "masked", "no"]
    bidirectional: bool
    causal_time: str = ""
    recurrent: bool = False
    cross: bool = False
    length_bound: tuple[str, ...] = ()
    randomised: bool = False
    drawn_once: bool = False
    grid: bool = False
    replaces_ffn: bool = False
    ops: tuple[str, ...] = ()
    equals: tuple[Equals, ...] = ()
    padding: Literal["invariant", "content_only"] = "invariant"
    padding_reason: str = ""
    smooth: Mapping[str, Any] = field(default_factory=dict)
    deviations: tuple[str, ...] = ()
