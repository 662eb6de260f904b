"""The conformance card of every preset in conf/model: a new config is tested without a new line."""

import pytest

from lra.conformance.checks import CHECKS
from lra.conformance.outcome import NotApplicable, Refuses
from lra.conformance.subject import CONF, load, presets


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("model", presets())
def test_conformance(model, check):
    try:
        CHECKS[check](load(model))
    except Refuses:
        # it cannot, says so, and was seen to refuse
        pass
    except NotApplicable as reason:
        pytest.skip(str(reason))


def test_every_mixer_has_a_preset():
    mixers = {path.stem for path in (CONF / "mixer").glob("*.yaml")}
    hosted = {file.stem for name in presets() for file in load(name).files[1:2]}
    assert mixers - {"custom"} == hosted


@pytest.mark.parametrize("model", presets())
def test_preset_is_named_after_its_file(model):
    assert f"name: {model}\n" in (CONF / "model" / f"{model}.yaml").read_text()
