"""Cards: every system says what differs from its paper."""

import pytest
from omegaconf import OmegaConf

from lra.conformance.subject import CONF, load, presets
from models.build import mixer_class

MIXERS = sorted(path for path in (CONF / "mixer").glob("*.yaml") if path.stem != "custom")


@pytest.mark.parametrize("name", presets())
def test_every_preset_says_what_differs_from_its_paper(name):
    assert load(name).card.deviations


@pytest.mark.parametrize("path", MIXERS, ids=[path.stem for path in MIXERS])
def test_every_mixer_says_what_differs_from_its_paper(path):
    assert mixer_class({"_target_": OmegaConf.load(path)._target_}).card.deviations
