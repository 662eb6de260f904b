"""Cards: every system says what differs from its paper, and what it replaces is not there."""

from functools import partial

import pytest
from omegaconf import OmegaConf

from lra.conformance.subject import CONF, load, presets
from models.block import Block
from models.blocks.residual import ResidualBlock
from models.build import make, make_mixer, mixer_class
from models.spec import LayerSpec

MIXERS = sorted(path for path in (CONF / "mixer").glob("*.yaml") if path.stem != "custom")


@pytest.mark.parametrize("name", presets())
def test_every_preset_says_what_differs_from_its_paper(name):
    assert load(name).card.deviations


@pytest.mark.parametrize("path", MIXERS, ids=[path.stem for path in MIXERS])
def test_every_mixer_says_what_differs_from_its_paper(path):
    assert mixer_class({"_target_": OmegaConf.load(path)._target_}).card.deviations


# their papers' layers have no feed-forward network
REPLACE_THE_FFN = {"mamba", "mamba2"}


def block_of(name, direction, **knobs):
    subject = load(name)
    spec = LayerSpec(
        dim=16, heads=2, max_len=8, ffn_dim=32, causal=direction == "causal",
        two_way=direction == "two_way",
    )  # fmt: skip
    return make({**subject.block, **knobs}, Block, spec, partial(make_mixer, subject.mixer))


@pytest.mark.parametrize("name", presets())
def test_a_layer_has_a_feed_forward_network_unless_its_mixer_replaces_it(name):
    subject = load(name)
    assert subject.card.replaces_ffn == (name in REPLACE_THE_FFN)
    # a backbone may have no blocks at all
    if subject.level != "backbone":
        direction = "both" if subject.card.bidirectional else "causal"
        assert (block_of(name, direction).ffn is None) == (name in REPLACE_THE_FFN)


@pytest.mark.parametrize("name", sorted(REPLACE_THE_FFN))
@pytest.mark.parametrize("direction", ["causal", "one_way", "two_way"])
def test_a_replaced_network_is_gone_in_every_direction_until_asked_for(name, direction):
    block = block_of(name, direction)
    assert isinstance(block, ResidualBlock)
    assert block.ffn is None and not hasattr(block, "ffn_norm")
    assert block_of(name, direction, ffn=True).ffn is not None
