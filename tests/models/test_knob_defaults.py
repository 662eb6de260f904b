"""A knob's value in its config is the constructor's default: who builds a class in Python gets what
the command line gives."""

import inspect

import pytest

from lra.conformance.subject import load, presets
from models.backbone import Backbone
from models.block import Block
from models.build import knobs_of, locate
from models.mixer import Mixer


@pytest.mark.parametrize("model", presets())
def test_configs_repeat_the_defaults_of_the_constructors(model):
    subject = load(model, sized=None)
    for config, kind in (
        (subject.mixer, Mixer), (subject.block, Block), (subject.backbone, Backbone),
    ):  # fmt: skip
        cls = locate(config["_target_"], kind)
        defaults = {
            name: parameter.default
            for name, parameter in inspect.signature(cls).parameters.items()
            if name in knobs_of(cls)
        }
        assert {name: config[name] for name in defaults} == defaults, cls.__name__
