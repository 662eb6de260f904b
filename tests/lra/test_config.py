"""Configurations: every one composes, every knob can be overridden, what is wrong is one line."""

import inspect
import itertools
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

from lra import presets
from lra.config import Limits, Recipe, RunConfig, load
from lra.errors import UserError

# tasks that measure, on inputs of no meaning
NO_DATA = ("lengths", "kernels")
CUSTOM = ("model=custom", "mixer._target_=my_module.MyMixer", "protocol=smoke")


def loaded(*overrides: str) -> RunConfig:
    return load(presets.compose(*overrides), list(overrides))


# -- every preset ------------------------------------------------------------------------------


@pytest.mark.parametrize("task", presets.names("task"))
@pytest.mark.parametrize("protocol", presets.names("protocol"))
def test_every_protocol_and_task_validates_or_says_why_not(protocol, task):
    overrides = ("model=custom", "mixer._target_=my.Mixer", f"protocol={protocol}", f"task={task}")
    if f"{protocol}_{task}" in presets.names("recipe"):
        config = loaded(*overrides)
        assert config.protocol["name"] == protocol and config.task["name"] == task
        assert config.protocol["about"]
    else:
        with pytest.raises(UserError, match=f"protocol '{protocol}' has no recipe for .*'{task}'"):
            loaded(*overrides)


def test_protocol_without_a_recipe_says_what_to_give(monkeypatch):
    cfg = presets.compose(*CUSTOM, "recipe.dim=null", "recipe.lr=null")
    with pytest.raises(UserError) as caught:
        load(cfg)
    assert str(caught.value) == (
        "protocol 'smoke' has no recipe for task 'listops': choose another protocol, or give "
        "recipe.dim=..., recipe.lr=..."
    )


@pytest.mark.parametrize("name", presets.names("recipe"))
def test_recipe_files_are_named_after_protocol_and_task(name):
    pairs = itertools.product(presets.names("protocol"), presets.names("task"))
    assert name in {f"{protocol}_{task}" for protocol, task in pairs}


@pytest.mark.parametrize("model", presets.models())
def test_model_preset_is_named_after_itself(model):
    config = loaded(f"model={model}")
    assert config.model == model
    assert config.protocol["name"] == "laptop"


@pytest.mark.parametrize("model", presets.models())
def test_every_knob_can_be_overridden_without_a_plus(model):
    before = presets.compose(f"model={model}")
    knobs = [
        (group, knob)
        for group in ("mixer", "block", "backbone")
        for knob in before[group]
        if knob != "_target_"
    ]
    after = presets.compose(f"model={model}", *(f"{group}.{knob}=123456" for group, knob in knobs))
    for group, knob in knobs:
        assert after[group][knob] == 123456, f"{group}.{knob}"


def test_every_other_value_can_be_overridden_without_a_plus():
    for group, kind in (("recipe", Recipe), ("limits", Limits)):
        for field in fields(kind):
            cfg = presets.compose(*CUSTOM, f"{group}.{field.name}=123456")
            assert cfg[group][field.name] == 123456
    for knob in presets.compose(*CUSTOM).task:
        assert presets.compose(*CUSTOM, f"task.{knob}=123456").task[knob] == 123456


def test_recipe_keys_are_the_dataclass():
    """A key without a field would be dead, a field without a key unknown to the user."""
    assert list(presets.compose(*CUSTOM).recipe) == [field.name for field in fields(Recipe)]
    assert list(presets.compose(*CUSTOM).limits) == [field.name for field in fields(Limits)]


@pytest.mark.parametrize("task", [t for t in presets.names("task") if t not in NO_DATA])
def test_task_knobs_are_the_constructor(task):
    """Their defaults are held equal beside each task's own tests."""
    knobs = presets.compose(*CUSTOM, f"task={task}").task
    module, _, name = knobs["_target_"].rpartition(".")
    known = inspect.signature(getattr(import_module(module), name)).parameters
    assert set(knobs) - {"name", "_target_"} == set(known) - {"root"}


# -- what loading makes of it ------------------------------------------------------------------


def test_types_are_converted():
    config = loaded(*CUSTOM, "recipe.lr=1", "recipe.betas=[0,0.5]", "limits.time_s=3")
    assert config.recipe.lr == 1.0 and type(config.recipe.lr) is float
    assert config.recipe.betas == [0.0, 0.5] and type(config.recipe.betas) is list
    assert type(config.limits.time_s) is float


def test_custom_model_is_named_after_its_class():
    config = loaded(*CUSTOM, "+mixer.gain=2.0")
    assert config.model == "mymixer"
    (layer,) = config.layers
    assert layer["mixer"] == {"_target_": "my_module.MyMixer", "gain": 2.0}
    assert layer["block"]["_target_"] == "models.blocks.residual.ResidualBlock"


def test_layers_are_models_with_their_blocks_and_sizes():
    names = ("linformer", "mega", "rwkv4")
    config = loaded(*CUSTOM, f"layers=[{','.join(names)}]", "task.max_length=80")
    for name, layer in zip(names, config.layers, strict=True):
        assert [layer] == loaded(f"model={name}", "protocol=smoke", "task.max_length=80").layers
    assert config.model == "linformer+mega+rwkv4"
    assert loaded(*CUSTOM, "layers=[s4d,s4d]").model == "s4d"


def test_knobs_of_the_block_count_for_layers_of_its_kind():
    config = loaded(*CUSTOM, "layers=[s4d,rwkv4]", "block.ffn=false")
    assert [layer["block"]["ffn"] for layer in config.layers] == [False, None]


def test_relative_paths_count_from_the_checkout(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    checkout = Path(presets.CONF).parent
    config = loaded(*CUSTOM, "paths.results=here/results", "paths.data='~/data'")
    assert config.results == checkout / "here" / "results"
    assert config.data == Path.home() / "data"
    assert not (tmp_path / "here").exists()


def test_sizes_follow_the_protocol():
    from omegaconf import OmegaConf

    def window(*overrides: str, value: str = "128") -> int:
        cfg = presets.compose(*CUSTOM, f"+mixer.window=${{sized:{value}}}", *overrides)
        return OmegaConf.to_container(cfg, resolve=True)["mixer"]["window"]

    assert window("task.max_length=129", "protocol=laptop") == 129 // 8
    assert window("task.max_length=3") == 1
    assert window("protocol=s4") == 128
    assert window("task.max_length=129", value="8,2") == 2
    assert window("protocol=s4", value="8,2") == 8


# -- what is wrong -----------------------------------------------------------------------------

WRONG = {
    # names
    "model=transformr": "unknown model 'transformr': did you mean 'transformer'?",
    "model=": "unknown model '': choose from ",
    "task=listop": "unknown task 'listop': did you mean 'listops'?",
    "task=null": "unknown task 'null': choose from ",
    "protocol=laptp": "unknown protocol 'laptp': did you mean 'laptop'?",
    "logger=wandb_ofline": "unknown logger 'wandb_ofline': did you mean 'wandb_offline'?",
    "mixer=transformr": "unknown mixer 'transformr': did you mean 'transformer'?",
    "recipe=laptop_listop": "unknown recipe 'laptop_listop': did you mean 'laptop_listops'?",
    "experiment=nothing_like_it": "unknown experiment 'nothing_like_it'",
    "device=cud": "unknown device 'cud': did you mean 'cuda'?",
    "layers=[transformr]": "unknown model in layers 'transformr': did you mean 'transformer'?",
    "logger.mode=ofline": "unknown logger.mode 'ofline': did you mean 'offline'?",
    # keys
    "sead=1": "unknown key 'sead': did you mean 'seed'?",
    "+sead=1": "unknown key 'sead': did you mean 'seed'?",
    "recipe.step=1": "unknown key 'recipe.step': did you mean 'recipe.steps'?",
    "+recipe.step=1": "unknown key 'recipe.step': did you mean 'recipe.steps'?",
    "task.max_len=9": "unknown key 'task.max_len': did you mean 'task.max_length'?",
    "block.ff=true": "unknown key 'block.ff': did you mean 'block.ffn'?",
    "mixer.gain=2": "a knob of a mixer of your own needs a plus: +mixer.gain=...",
    # types
    "recipe.lr=abc": "recipe.lr: Value 'abc' of type 'str' could not be converted to Float",
    "recipe.steps=1.5": "recipe.steps: Value '1.5' of type 'float' could not be converted",
    "recipe.betas=0.9": "recipe.betas: ",
    "limits.memory_gib=abc": "limits.memory_gib: Value 'abc'",
    "seed=1.5": "seed must be a whole number of at least 0, got 1.5",
    "seed=true": "seed must be a whole number",
    "rerun=1": "rerun must be true or false, got 1",
    "bidirectional=maybe": "bidirectional must be true or false, got maybe",
    "layers=transformer": "layers must be a list of model names",
    "backend=3": "backend must be a backend for every op, or {op: backend}, got 3",
    "checkpoint=3": "checkpoint must be the path of a saved model.pt, got 3",
    "init=3": "init must be the path of a saved model.pt, got 3",
    "paths.results=null": "paths.results must be a folder, got None",
    "limits=null": "limits is a group of values",
    # values
    "recipe.lr=-1": "recipe.lr must be more than 0, got -1.0",
    "recipe.lr=nan": "recipe.lr must be more than 0, got nan",
    "recipe.lr=inf": "recipe.lr must be more than 0, got inf",
    "recipe.steps=0": "recipe.steps must be more than 0, got 0",
    "recipe.batch=0": "recipe.batch must be more than 0, got 0",
    "recipe.dim=-8": "recipe.dim must be more than 0, got -8",
    "recipe.warmup_steps=-1": "recipe.warmup_steps must be at least 0, got -1",
    "recipe.dropout=1": "recipe.dropout must be below 1, got 1.0",
    "recipe.heads=3": "recipe.heads=3 must divide recipe.qkv_dim or dim, 32",
    "recipe.qkv_dim=33": "recipe.heads=2 must divide recipe.qkv_dim or dim, 33",
    "recipe.accumulate=3": "recipe.accumulate=3 must divide recipe.batch=16",
    "recipe.betas=[0.9]": "recipe.betas must be two numbers in [0, 1), got [0.9]",
    "recipe.betas=[0.9,1.0]": "recipe.betas must be two numbers in [0, 1), got [0.9, 1.0]",
    "recipe.norm=layr": "unknown recipe.norm 'layr': did you mean 'layer'?",
    "recipe.schedule=cosin": "unknown recipe.schedule 'cosin': did you mean 'cosine'?",
    "recipe.precision=16": "unknown recipe.precision '16': choose from 16-mixed, 32-true",
    "limits.time_s=0": "limits.time_s must be more than 0, got 0.0",
    "seed=-1": "seed must be a whole number of at least 0, got -1",
    # grammar
    "model": "cannot read 'model' (",
    "model=[": "cannot read 'model=[' (",
    "seed=0,1": "seed=0,1: a sweep needs -m, a list brackets: seed=[0,1]",
    "model=glob(*)": "requires --multirun",
    "recipe.dim=${nope}": "Interpolation key 'nope' not found",
}


@pytest.mark.parametrize("override", WRONG)
def test_what_is_wrong_is_one_line(override):
    with pytest.raises(UserError) as caught:
        loaded(*CUSTOM, override)
    message = str(caught.value)
    assert WRONG[override] in message
    assert "\n" not in message


@pytest.mark.parametrize("overrides", [("model=custom",), (*CUSTOM, "mixer._target_=null")])
def test_custom_without_a_class_is_refused(overrides):
    with pytest.raises(UserError, match="give mixer._target_=my_module.MyClass"):
        loaded(*overrides)


def test_knobs_are_those_of_the_chosen_mixer():
    """The nearest knob comes from the model on the command line, not from the default one."""
    # one with a long name of each model that has any
    with_knobs = {
        model: str(knob)
        for model in presets.models()
        for knob in presets.compose(f"model={model}").mixer
        if knob != "_target_" and len(knob) > 5
    }
    assert len(with_knobs) > 10
    for model, knob in with_knobs.items():
        with pytest.raises(UserError, match=f"did you mean 'mixer.{knob}'"):
            presets.compose(f"model={model}", f"mixer.{knob}x=1")
