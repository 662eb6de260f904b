"""Every published recipe and experiment says the numbers of its source, knobs inside included."""

from functools import cache
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from lra import presets
from lra.config import load
from lra.model import make_model, model_spec
from lra.tasks.spec import TaskSpec
from tests.lra.published_recipes import (
    ALL_OF,
    FIVE,
    LRA_CHANGED,
    LRA_COLUMNS,
    LRA_INNER,
    LRA_INPUT,
    LRA_MODELS,
    LRA_PAPER,
    LRA_REPO,
    MEGA,
    PIXELS,
    S4,
    SKYFORMER,
    XFORMER,
    XFORMER_METHODS,
)


@cache
def composed(*overrides: str) -> dict[str, Any]:
    """The configuration of a run, with the two numbers of it that a table states otherwise."""
    found: Any = OmegaConf.to_container(presets.compose(*overrides), resolve=True)
    recipe, task = found["recipe"], found["task"]
    found["qkv"] = recipe["qkv_dim"] or recipe["dim"]
    found["length"] = task.get("max_length") or task["size"] ** 2
    return found


def hold(found: dict[str, Any], expected: dict[str, Any], *parts: str) -> None:
    """Every expected value is that of the configuration, or of one part of it."""
    own = {key: value for part in parts for key, value in found[part].items()}
    own |= {"qkv": found["qkv"], "length": found["length"]}
    assert {key: own[key] for key in expected} == expected


# -- Long Range Arena --------------------------------------------------------------------------


def lra_repo(task: str) -> dict[str, Any]:
    """What LRA's base file of a task asks for."""
    row = dict(zip(LRA_COLUMNS, LRA_REPO[task], strict=True))
    learned = row["positions"] == "learned"
    return ALL_OF["lra_repo"] | row | {
        "position_std": 0.02 if learned else None, "head_dim": row["ffn_dim"],
        "head": "mlp3" if task == "retrieval" else "mlp",
        "grad_clip": 1.0 if task == "path_x" else None,
    }  # fmt: skip


@pytest.mark.parametrize("task", LRA_REPO)
def test_lra_repo(task):
    found = composed("protocol=lra_repo", f"task={task}")
    hold(found, lra_repo(task), "recipe")
    hold(found, LRA_INPUT[task], "task")
    if task == "retrieval":
        hold(found, {"pairing": "concat"}, "recipe")


@pytest.mark.parametrize("model", LRA_INNER)
@pytest.mark.parametrize("task", FIVE)
def test_lra_repo_by_model(task, model):
    """A model without a file of its own has LRA's numbers by default."""
    name = f"lra_repo_{task}_{model}"
    if name in presets.names("experiment"):
        found = composed(f"experiment={name}")
    else:
        found = composed("protocol=lra_repo", f"task={task}", f"model={model}")
    assert (found["model"]["name"], found["task"]["name"]) == (model, task)
    assert found["protocol"]["name"] == "lra_repo"
    expected = lra_repo(task)
    if task in LRA_MODELS:
        heads, depth, dim, qkv, ffn, more = LRA_MODELS[task][model]
        expected |= {"heads": heads, "depth": depth, "dim": dim, "qkv": qkv, "ffn_dim": ffn}
        expected |= {"head_dim": ffn} | more
    hold(found, expected, "recipe")
    hold(found, LRA_INPUT[task], "task")
    inner = LRA_INNER[model] | LRA_CHANGED.get((task, model), {})
    if model == "reformer":
        seen = expected["length"] + (expected["pooling"] == "cls")
        inner |= {"bucket_size": (seen + 10 - seen % 10) // 10}
    hold(found, inner, "mixer")


@pytest.mark.parametrize("task", LRA_PAPER)
def test_lra_paper(task):
    columns = ("heads", "depth", "dim", "qkv", "ffn_dim", "steps", "batch", "lr", "weight_decay",
               "pairing")  # fmt: skip
    row = dict(zip(columns, LRA_PAPER[task], strict=True))
    found = composed("protocol=lra_paper", f"task={task}")
    # of what the paper does not say: its code, but for the sizes
    code = {key: value for key, value in lra_repo(task).items() if key not in (*columns, "head")}
    code |= {"head_dim": row["ffn_dim"], "length": 4000 if task == "text" else code["length"]}
    code |= {"pooling": "cls"} if task == "retrieval" else {}
    hold(found, code | {key: value for key, value in row.items() if value is not None}, "recipe")
    unsaid = {"batch", "weight_decay"} | ({"lr"} if task == "listops" else set())
    said = {key for key, value in row.items() if value is not None}
    hold(found, {key: lra_repo(task)[key] for key in unsaid - said}, "recipe")
    hold(found, LRA_INPUT[task], "task")


# -- Nystromformer and Skyformer ---------------------------------------------------------------


@pytest.mark.parametrize("task", FIVE)
@pytest.mark.parametrize("name", ["xformer_small", "skyformer"])
def test_the_small_model(name, task):
    columns = ("batch", "steps", "lr", "warmup_steps", "eval_every", "length", "padding")
    if name == "skyformer":
        found, row = composed(f"experiment=skyformer_{task}"), SKYFORMER[task]
    else:
        found, row = composed("protocol=xformer_small", f"task={task}"), XFORMER[task]
    assert (found["protocol"]["name"], found["task"]["name"]) == (name, task)
    expected = ALL_OF["xformer_small"] | dict(zip(columns, row, strict=True))
    # an image needs none
    assert found["task"].get("padding") == expected.pop("padding")
    hold(found, expected, "recipe")
    # their ids are those of LRA's code
    ids = {key: value for key, value in LRA_INPUT[task].items() if key != "padding"}
    hold(found, ids, "task")


@pytest.mark.parametrize("method", XFORMER_METHODS)
def test_the_methods_of_the_small_model(method):
    for task in FIVE:
        found = composed("protocol=xformer_small", f"task={task}", method)
        assert (found["protocol"]["name"], found["task"]["name"]) == ("xformer_small", task)
        hold(found, XFORMER_METHODS[method], "mixer")


# -- S4 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", S4)
def test_s4(task):
    dim, depth, state, position, dropout, batch, lr, steps, warmup, dt_min, sets, data = S4[task]
    expected = ALL_OF["s4"] | {
        "dim": dim, "depth": depth, "norm_position": position, "dropout": dropout,
        "mixer_dropout": dropout, "batch": batch, "lr": lr, "steps": steps, "warmup_steps": warmup,
        "head": "mlp" if task == "retrieval" else "linear",
    }  # fmt: skip
    for overrides in (("protocol=s4", f"task={task}"), (f"experiment=s4_{task}",)):
        found = composed(*overrides)
        assert (found["protocol"]["name"], found["task"]["name"]) == ("s4", task)
        hold(found, expected, "recipe")
        hold(found, data, "task")
        assert found["task"].get("padding", "longest") == "longest"
    assert found["model"]["name"] == "s4"
    hold(found, {"d_state": state, "n_ssm": sets, "dt_min": dt_min, "dt_max": 0.1,
                 "lr_ssm": 1e-3}, "mixer")  # fmt: skip
    hold(found, {"ffn": False}, "block")


# -- Mega --------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", MEGA)
def test_mega(task):
    columns = ("depth", "dim", "ffn_dim", "z", "norm", "norm_position", "function", "lr", "batch",
               "accumulate", "steps", "warmup_steps", "warmup_power", "weight_decay", "dropout",
               "data")  # fmt: skip
    row = dict(zip(columns, MEGA[task], strict=True))
    z, function, data = row.pop("z"), row.pop("function"), row.pop("data")
    expected = ALL_OF["mega"] | row | {"head_dim": row["ffn_dim"]}
    for overrides in (("protocol=mega", f"task={task}"), (f"experiment=mega_{task}",)):
        found = composed(*overrides)
        assert (found["protocol"]["name"], found["task"]["name"]) == ("mega", task)
        hold(found, expected, "recipe")
        hold(found, data, "task")
        assert found["task"].get("padding", "longest") == "longest"
        if task == "retrieval":
            hold(found, {"pairing": "concat"}, "recipe")
        if task not in PIXELS:
            assert found["recipe"]["embedding_std"] == pytest.approx(row["dim"] ** -0.5, rel=1e-3)
    assert found["model"]["name"] == "mega"
    inner = {"n_dim": 16, "z_dim": z, "attention_function": function, "rel_bias": "simple"}
    hold(found, inner, "block")
    # h is twice d in every row
    assert found["block"]["h_dim"] in (None, row["ffn_dim"]) and row["ffn_dim"] == 2 * row["dim"]
    chunk = ("block.chunk=4096",) if task == "path_x" else ()
    chunked = composed(f"experiment=mega_{task}", "model=mega_chunk", *chunk)
    hold(chunked, inner | {"chunk": 4096 if chunk else 128}, "block")


# -- all of them -------------------------------------------------------------------------------

PUBLISHED = {"lra_repo": LRA_REPO, "lra_paper": LRA_PAPER, "xformer_small": XFORMER, "s4": S4,
             "mega": MEGA}  # fmt: skip
EXPERIMENTS = [
    name for name in presets.names("experiment")
    if name.startswith(("lra_repo_", "xformer_", "skyformer_", "s4_", "mega_"))
]  # fmt: skip


def test_no_published_file_is_without_a_table():
    recipes = {f"{protocol}_{task}" for protocol, tasks in PUBLISHED.items() for task in tasks}
    assert recipes == {
        name
        for name in presets.names("recipe")
        if name.startswith(tuple(f"{p}_" for p in PUBLISHED))
    }
    models = {f"lra_repo_{task}_{model}" for task in FIVE for model in LRA_INNER}
    others = {f"{name}_{task}" for name, tasks in (("skyformer", SKYFORMER), ("s4", S4),
                                                   ("mega", MEGA)) for task in tasks}  # fmt: skip
    others |= {method.partition("=")[2] for method in XFORMER_METHODS if "experiment" in method}
    assert set(EXPERIMENTS) <= models | others and others <= set(EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_builds(name):
    """One layer of it: constructors take these sizes and knobs together."""
    config = load(presets.compose(f"experiment={name}", "recipe.depth=1"))
    task = config.task["name"]
    length = composed(f"experiment={name}")["length"]
    scalar = config.task.get("pixels") == "scalar"
    side = int(length**0.5)
    spec = TaskSpec(
        task, "match" if task == "retrieval" else "classify", length, 10, 0.1, "official",
        vocab=None if scalar else 257, features=1 if scalar else None,
        grid=(side, side) if task in PIXELS else None,
    )  # fmt: skip
    # a state space is computed when it is made
    with torch.device("cpu" if config.model == "s4" else "meta"):
        model = make_model(config, model_spec(config.recipe, spec, two_way=False))
    assert any(parameter.requires_grad for parameter in model.parameters())
