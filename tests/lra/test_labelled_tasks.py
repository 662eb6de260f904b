"""What text and image share: knobs and their config, where data comes from, a cell of each."""

import inspect
import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lra.cli.main import main
from lra.tasks.image import Image
from lra.tasks.text import Text
from tests.lra.built import nothing_built

CHECKOUT = Path(__file__).resolve().parents[2]
TASKS = {"text": Text, "image": Image}
# title, name on the hub, archive
OFFERS = {
    "text": (
        "IMDb",
        "stanfordnlp/imdb",
        "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
    ),
    "image": (
        "CIFAR-10",
        "uoft-cs/cifar10",
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    ),
}
PREPARED = {
    "text": ("train: 54 examples (stand-in)", "majority: 50.00 % of test"),
    "image": ("train: 36 examples (stand-in)", "majority: 10.00 % of test"),
}


@pytest.mark.parametrize("name", TASKS)
def test_the_config_names_the_knobs_and_their_defaults(name):
    config = OmegaConf.to_container(OmegaConf.load(CHECKOUT / "conf" / "task" / f"{name}.yaml"))
    kind = TASKS[name]
    assert config.pop("name") == name
    assert config.pop("_target_") == f"{kind.__module__}.{kind.__name__}"
    knobs = inspect.signature(kind).parameters
    assert config == {knob: knobs[knob].default for knob in knobs if knob != "root"}


@pytest.mark.parametrize("name", TASKS)
def test_nothing_is_done_before_it_is_asked_for(tmp_path, name):
    TASKS[name](root=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", TASKS)
def test_prepare(tmp_path, name, request, capsys):
    source = request.getfixturevalue(f"{name}_source")
    smoke = ("prepare", name, "--protocol", "smoke", "--root", str(tmp_path / "root"))
    assert main([*smoke, "--source", str(source)]) == 0
    said = capsys.readouterr().out
    for part in PREPARED[name]:
        assert part in said
    missing = tmp_path / "none"
    assert main([*smoke, "--source", str(missing)]) == 2
    assert f"there is no {missing}: get {OFFERS[name][0]}" in capsys.readouterr().err


@pytest.mark.parametrize("name", TASKS)
def test_the_hub_out_of_reach_is_told_with_the_commands_that_help(tmp_path, name, capsys):
    # tests run with HF_HUB_OFFLINE
    assert main(["prepare", name, "--protocol", "smoke", "--root", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    _, hub, archive = OFFERS[name]
    assert said.startswith(f"error: cannot get {hub} from the hub (") and said.count("\n") == 1
    for part in (
        f"hf download {hub} --repo-type dataset --local-dir {hub.split('/')[1]}",
        archive,
        f"python -m lra prepare {name} --source FOLDER",
    ):
        assert part in said
    assert nothing_built(tmp_path)


def row_of(fork, results, *asked):
    """The row of a tiny cell."""
    ended = fork(*fork.tiny(results, *asked))
    assert ended.code == 0, ended.err
    (path,) = (results / "runs").glob("*/row.json")
    return json.loads(path.read_text())


def test_a_cell_on_text(fork, tmp_path, text_source):
    row = row_of(
        fork, tmp_path / "results", f"task.source='{text_source}'", "task.split=legacy", "task=text"
    )
    assert (row["status"], row["task"], row["tier"]) == ("ok", "text_standin", "stand-in")
    assert (row["n_test"], row["length"], row["chance_acc"]) == (40, 64, 0.5)
    assert row["label"].startswith("validated on the test split")
    # where the data lies is no departure from a protocol
    assert "task.split=legacy" in row["label"] and "source" not in row["label"]


def test_a_cell_on_images(fork, tmp_path, image_source):
    row = row_of(
        fork, tmp_path / "results", f"task.source='{image_source}'", "task=image",
        "task.max_length=64", "task.pixels=scalar",
    )  # fmt: skip
    assert (row["status"], row["task"], row["n_test"]) == ("ok", "image_standin", 20)
    assert (row["length"], row["chance_acc"], row["majority_acc"]) == (64, 0.1, 0.1)
