"""Checks of the card itself and of the configs: complete, and true of the code."""

import re
from dataclasses import fields
from datetime import date

from kernels.dispatch import record
from lra.conformance.probe import forward, inputs, prefix_mask
from lra.conformance.subject import CONF, Subject
from lra.results.expression import degree
from lra.results.source import ROOT
from models.backbone import Backbone
from models.block import Block
from models.build import knobs_of, locate
from models.card import FAMILIES
from models.mixer import Mixer


def card(subject: Subject) -> None:
    """Every fact is there and well formed, and the family is the folder."""
    facts, cls = subject.card, subject.system_class
    for name in ("title", "authors", "link", "time", "memory"):
        assert getattr(facts, name).strip(), f"{name} is empty"
    assert 1950 <= facts.year <= date.today().year, f"year {facts.year}"
    assert re.match(r"https://\S+$", facts.link), f"link '{facts.link}' is no https address"
    assert facts.family in FAMILIES, f"family '{facts.family}' is none of {', '.join(FAMILIES)}"
    degree(facts.time), degree(facts.causal_time or facts.time), degree(facts.memory)
    assert facts.bidirectional or facts.causality != "no", "neither causal nor bidirectional"
    assert not facts.recurrent or facts.causality != "no", "recurrent but never causal"
    if facts.padding == "content_only":
        assert facts.padding_reason, "padding is content_only for no stated reason"
    if cls.__module__.startswith("models.mixers."):
        folder = cls.__module__.split(".")[2]
        assert facts.family == folder, f"family '{facts.family}' lives in the folder '{folder}'"
    for field in fields(facts):
        if field.type in ("str", str):
            assert "\n" not in getattr(facts, field.name), f"{field.name} is more than one line"
    known = {path.stem for path in (CONF / "mixer").glob("*.yaml")}
    for limit in facts.equals:
        assert limit.mixer in known, f"equals '{limit.mixer}', which conf/mixer does not have"
        unknown = set(limit.knobs(4)) - set(knobs_of(cls))
        assert not unknown, f"equals sets {sorted(unknown)}, which are no knobs of it"


def ops(subject: Subject) -> None:
    """The ops of the card are packages of kernels, and the ones that run."""
    claimed = set(subject.card.ops)
    for name in claimed:
        assert (ROOT / "kernels" / name / "__init__.py").exists(), f"no op '{name}' in kernels"
    ran: set[str] = set()
    for mode in subject.modes():
        system = subject.build(mode)
        for mask in (None, prefix_mask([17, 3], 17)):
            with record() as log:
                forward(system, inputs(2, 17), mask)
            ran |= set(log)
    assert ran <= claimed, f"runs {sorted(ran - claimed)}, which its card does not list"
    assert claimed <= ran, f"its card lists {sorted(claimed - ran)}, which never run"


def knobs(subject: Subject) -> None:
    """The keys of each config are the keyword arguments of the constructor, one for one."""
    parts = ((subject.mixer, Mixer), (subject.block, Block), (subject.backbone, Backbone))
    for config, kind in parts:
        cls: type = locate(config["_target_"], kind)
        written, taken = {str(key) for key in config} - {"_target_"}, set(knobs_of(cls))
        extra, missing = sorted(written - taken), sorted(taken - written)
        assert not extra, f"{cls.__name__}: config keys that no argument takes: {extra}"
        # a preset shows every knob, so that each can be overridden; a mixer from outside need not
        if subject.files and subject.name != "custom":
            assert not missing, f"{cls.__name__}: arguments without a config key: {missing}"
