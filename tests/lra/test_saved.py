"""A saved model: builds itself again, and refuses what it was not made for."""

import io
import os
from dataclasses import replace

import pytest
import torch

from lra import presets
from lra.config import RunConfig, load
from lra.errors import UserError
from lra.model import build
from lra.saved import load_model, save_model
from lra.tasks.spec import TaskSpec

TASK = TaskSpec(
    name="counting", kind="classify", length=12, classes=3, vocab=5, chance_acc=1 / 3,
    tier="stand-in", grid=(3, 4),
)  # fmt: skip


def loaded(*overrides: str) -> RunConfig:
    cfg = presets.compose(
        "protocol=smoke", "model=custom", "mixer._target_=my_module.MyMixer", "recipe.dim=8",
        *overrides,
    )  # fmt: skip
    return load(cfg)


def saved(tmp_path, *overrides: str):
    config = loaded("+mixer.gain=3.0", "recipe.positions=none", *overrides)
    torch.manual_seed(7)
    model = build(config, TASK, None).model
    save_model(tmp_path / "model.pt", model, config, TASK, 40)
    return model, load_model(str(tmp_path / "model.pt"))


def test_it_builds_itself_whatever_the_command_line_says(tmp_path):
    model, found = saved(tmp_path, "recipe.depth=2")
    other = loaded("recipe.dim=64", "recipe.batch=4", "recipe.eval_batch=9", "seed=5",
                   "recipe.precision=bf16-mixed", "mixer._target_=my_module.Slow")  # fmt: skip
    config = found.config(other)
    assert (config.recipe.dim, config.recipe.depth) == (8, 2)
    assert config.layers[0]["mixer"] == {"_target_": "my_module.MyMixer", "gain": 3.0}
    # how it is evaluated is the command line's
    assert (config.recipe.batch, config.recipe.eval_batch, config.seed) == (4, 9, 5)
    assert config.recipe.precision == "bf16-mixed"
    again = build(config, TASK, found).model.eval()
    x, mask = torch.randint(1, 5, (2, 12)), torch.ones(2, 12, dtype=torch.bool)
    assert torch.equal(again(x, mask), model.eval()(x, mask))
    assert found.step == 40


def test_digest_tells_models_apart(tmp_path):
    _, one = saved(tmp_path)
    assert load_model(str(tmp_path / "model.pt")).digest == one.digest
    _, other = saved(tmp_path, "recipe.depth=2")
    assert other.digest != one.digest


@pytest.mark.parametrize(
    "change", [{"classes": 4}, {"vocab": 6}, {"kind": "match"}, {"vocab": None, "features": 1}]
)
def test_another_kind_of_task_is_refused(tmp_path, change):
    _, found = saved(tmp_path)
    key = next(iter(change))
    with pytest.raises(UserError, match=f"was trained on counting with {key}="):
        found.task(replace(TASK, name="other", **change))


@pytest.mark.parametrize(
    ("overrides", "length"),
    [((), 20), (("recipe.positions=learned",), 12), (("mixer._target_=my_module.ShortOnly",), 12)],
)
def test_another_length_where_nothing_fixes_it(tmp_path, overrides, length):
    if "ShortOnly" in str(overrides):
        config = loaded(*overrides)
        model = build(config, TASK, None).model
        save_model(tmp_path / "model.pt", model, config, TASK, 1)
        found = load_model(str(tmp_path / "model.pt"))
    else:
        _, found = saved(tmp_path, *overrides)
    assert found.task(replace(TASK, length=20)).length == length


def test_parameters_that_do_not_fit_are_one_line(tmp_path):
    _, found = saved(tmp_path)
    config = found.config(loaded())
    other = {**config.layers[0], "mixer": {"_target_": "my_module.ShortOnly"}}
    config = replace(config, layers=[other])
    with pytest.raises(UserError, match="does not fit this model and task: .*gate") as caught:
        build(config, TASK, found)
    assert "\n" not in str(caught.value)


def test_what_is_no_model_is_refused_and_never_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "owned"),))

    evil = io.BytesIO()
    torch.save({"format": 2, "built": "{}", "state": Evil()}, evil)
    other = io.BytesIO()
    torch.save({"weights": torch.zeros(2)}, other)
    for content in (b"", b"text", evil.getvalue(), other.getvalue()):
        path = tmp_path / "file.pt"
        path.write_bytes(content)
        with pytest.raises(UserError, match="give the model.pt of a cell's folder"):
            load_model(str(path))
    assert not (tmp_path / "owned").exists()
    with pytest.raises(UserError, match="cannot read checkpoint .*: No such file"):
        load_model(str(tmp_path / "absent.pt"))
    with pytest.raises(UserError, match="cannot read checkpoint .*: Is a directory"):
        load_model(str(tmp_path))
