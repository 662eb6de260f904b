"""The checks can fail: every one of them finds a mixer made to break it, and passes sound ones."""

from dataclasses import replace

import pytest

from lra.conformance import complexity
from lra.conformance.checks import CHECKS, examine, run
from lra.conformance.subject import Subject, load
from lra.errors import UserError
from lra.results.expression import Degree, degree

SPECIMENS, FAULTY = "tests.conformance.specimens", "tests.conformance.faults"

# fault, check that must find it, words of its message
FAULTS = [
    ("NoLink", "card", "https"),
    ("ListsAnOpThatNeverRuns", "ops", "never run"),
    ("LosesAPosition", "shapes", "out of 17"),
    ("LosesAPosition", "any_length", "N=3"),
    ("HasAnIdleParameter", "gradients", "idle receives no gradient"),
    ("HasAnIdleParameter", "model", "idle receives no gradient"),
    ("HasAWrongGradient", "gradcheck", "the gradient of x is"),
    ("WantsMultiplesOfFour", "any_length", "shape mismatch"),
    ("WantsTwoHeads", "heads", "8 heads"),
    ("FixesTheLengthUnsaid", "parameters", "table"),
    ("SeesThePaddedLength", "padding", "true length 1"),
    ("SeesThePaddedLength", "model", "true length 1"),
    ("IgnoresTheMask", "padding", "true length 1"),
    ("IgnoresHoles", "holes", "content under the mask"),
    ("LeaksNaN", "nan_in_padding", "not finite"),
    ("CouplesTheBatch", "batch_independence", "alone"),
    ("LeaksTheFuture", "causality", "before the change"),
    ("LooksBackOnly", "both_sides", "no output sees an input after it"),
    ("MixesNothing", "mixes", "no output sees another"),
    ("ForgetsItsCache", "recurrent", "against the causal forward"),
    ("GrowsItsState", "recurrent", "grows to"),
    ("DecodesAgainstItsCard", "recurrent", "went through"),
    ("DropsItsState", "segments", "against the whole"),
    ("DoesNotRotate", "rotary", "changes nothing"),
    ("DoesNotBias", "alibi", "changes nothing"),
    ("IgnoresTheContext", "cross", "changes nothing"),
    ("TakesAContextUnsaid", "cross", "went through"),
    ("ClaimsAnEquality", "equals", "against transformer"),
    ("ClaimsToBeDense", "dense", "at any length"),
    ("HasAnotherMatrix", "reference_matrix", "differs"),
    ("ClaimsLinearTime", "time", "declared as 'N d'"),
    ("CostsItsLongestLength", "time", "declared as 'N d^2'"),
    ("ClaimsQuadraticTime", "time", "declared as 'N^2 d'"),
    ("ClaimsQuadraticMemory", "memory", "declared as 'N^2'"),
    ("ClaimsLinearMemory", "memory", "declared as 'N d'"),
    ("CancelsInBf16", "bf16", "away from fp32"),
    ("DrawsInEvaluation", "determinism", "two results"),
    ("IgnoresDropout", "dropout", "does nothing"),
    ("DoesNotSaveWhatItDrew", "state_dict", "after loading"),
    ("BreaksOnStep", "hooks", "not finite"),
    ("NeverDrawsAnew", "hooks", "the same result after 1000 steps"),
    ("DrawsTheSameForEverySeed", "hooks", "every seed draws the same"),
    ("DrawsAnewUnsaid", "hooks", "another result after 1000 steps"),
    ("TakesAnyMask", "refusals", "a mask"),
    ("TakesAnyLength", "refusals", "34 positions of 33"),
    ("TakesAnyKnob", "bad_knobs", "order=-1"),
    ("RefusesWhatItClaims", "shapes", "refuses what its card claims"),
]


def specimen(name: str, module: str = SPECIMENS, **knobs) -> Subject:
    return Subject(name, {"_target_": f"{module}.{name}", **knobs})


@pytest.mark.parametrize(
    ("fault", "check", "words"), FAULTS, ids=[f"{check}-{fault}" for fault, check, _ in FAULTS]
)
def test_fault_is_found(fault, check, words, monkeypatch):
    # of the lengths at which growth is counted the greatest take seconds, and show no more
    monkeypatch.setattr(complexity, "BASES", complexity.BASES[:1])
    knobs = {"order": 1} if fault == "TakesAnyKnob" else {}
    outcome = run(check, specimen(fault, FAULTY, **knobs))
    assert outcome.status == "fail", f"{check} did not find that it {fault}"
    assert words in outcome.reason


def hosted(**parts: str) -> Subject:
    targets = {part: {"_target_": target} for part, target in parts.items()}
    return Subject("hosted", {"_target_": f"{SPECIMENS}.Sound"}, **targets)


BLOCK, BACKBONE = f"{SPECIMENS}.SoundBlock", f"{SPECIMENS}.SoundBackbone"


@pytest.mark.parametrize(
    ("subject", "level"),
    [
        (hosted(block=BLOCK), "block"),
        (hosted(backbone=BACKBONE), "backbone"),
        (hosted(block=BLOCK, backbone=BACKBONE), "backbone"),
    ],
)
def test_blocks_and_backbones_are_examined_too(subject, level):
    assert subject.level == level
    failed = [outcome for outcome in examine(subject) if outcome.status == "fail"]
    assert not failed, failed


def test_fault_of_a_backbone_is_found():
    assert "true length" in run("padding", hosted(backbone=f"{FAULTY}.LeakyBackbone")).reason


def test_unknown_config_key_is_found():
    assert "nope" in run("knobs", specimen("Sound", nope=1)).reason


def test_argument_without_a_config_key_is_found():
    subject = replace(load("custom", [f"mixer._target_={SPECIMENS}.SoundDecay"]), name="decay")
    assert "without a config key: ['order']" in run("knobs", subject).reason


def test_every_check_has_a_fault():
    assert {check for _, check, _ in FAULTS} | {"knobs"} == set(CHECKS)


@pytest.mark.parametrize("name", ["Sound", "SoundDecay"])
def test_sound_mixer_passes(name):
    failed = [outcome for outcome in examine(specimen(name)) if outcome.status == "fail"]
    assert not failed, failed


def test_refusals_are_verified():
    checks = ["both_sides", "rotary", "alibi", "cross", "reference_matrix"]
    outcomes = examine(specimen("SoundDecay"), checks)
    assert [outcome.status for outcome in outcomes] == ["refuses"] * 5


def test_mixer_from_outside_is_loaded():
    subject = load("custom", [f"mixer._target_={SPECIMENS}.SoundDecay", "mixer.order=3"])
    assert subject.mixer["order"] == 3
    assert run("recurrent", subject).status == "pass"


def test_mixer_from_outside_must_be_named():
    with pytest.raises(UserError, match="_target_"):
        load("custom")


def test_unknown_preset_has_a_nearest():
    with pytest.raises(UserError, match="did you mean 'custom'"):
        load("costum")


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("N^2 d", Degree(2, 0)),
        ("N w d", Degree(1, 0)),
        ("N log N d + N n d", Degree(1, 1)),
        ("N m d + m^3", Degree(1, 0)),
        ("N^1.5 d", Degree(1.5, 0)),
        ("N N d", Degree(2, 0)),
        ("N log k d", Degree(1, 0)),
        ("d^2", Degree(0, 0)),
    ],
)
def test_degree(expression, expected):
    assert degree(expression) == expected


@pytest.mark.parametrize("expression", ["", "N +", "N*d", "O(N)", "N (W + S) d"])
def test_unreadable_degree(expression):
    with pytest.raises(ValueError, match="complexity"):
        degree(expression)
