"""What a row says of departures from its protocol."""

from lra.model import CHANGES, departures


def test_every_spelling_of_a_departure_is_told():
    changed = [
        "model=performer", "mixer.eps=0.1", "++recipe.steps=3", "recipe=smoke_listops",
        "protocol.parameter_budget=null", "+block.ffn=false", "seed=3", "experiment=three_seeds",
    ]  # fmt: skip
    assert departures(changed, CHANGES, apart=()) == (
        "block.ffn=false protocol.parameter_budget=null recipe.steps=3 recipe=smoke_listops"
    )
    assert departures(changed, CHANGES, apart=("recipe.",)).count("recipe") == 1
