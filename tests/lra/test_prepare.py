"""``python -m lra prepare``: it says what it builds, and builds what is asked for."""

import json

import pytest

from lra.cli.main import main


def prepare(tmp_path, capsys, *arguments):
    """Exit code, standard output and standard error."""
    code = main(["prepare", *arguments, "--root", str(tmp_path / "data")])
    return (code, *capsys.readouterr())


def manifest(tmp_path):
    (path,) = (tmp_path / "data").rglob("manifest.json")
    return json.loads(path.read_text())


def test_it_says_that_the_default_is_a_sample(tmp_path, capsys):
    sizes = ("task.n_train=3", "task.n_val=1", "task.n_test=2")
    code, out, _ = prepare(tmp_path, capsys, "pathfinder", *sizes)
    assert code == 0
    said = out.splitlines()[0]
    assert said.startswith("pathfinder, protocol laptop: ")
    assert "difficulty=easy n_train=3 n_val=1 n_test=2 pixels=scalar" in said
    assert said.endswith("; other data: --protocol NAME or task.KNOB=VALUE")
    assert "train: 3 examples (regenerated)" in out and "test: 2 examples" in out
    facts = manifest(tmp_path)
    assert facts["rows"] == {"train": 3, "val": 1, "test": 2}
    assert facts["law"]["contour_length"] == 6


def test_knobs_stand_above_the_protocols(tmp_path, capsys):
    knobs = ("task.difficulty=hard", "task.n_train=2", "task.n_val=1", "task.n_test=1")
    code, out, _ = prepare(tmp_path, capsys, "pathfinder", *knobs, "--protocol", "smoke")
    assert code == 0
    assert out.startswith("pathfinder, protocol smoke: n_train=2 n_val=1 n_test=1; other")
    assert manifest(tmp_path)["law"]["contour_length"] == 14


@pytest.mark.parametrize(
    "knob, says",
    [
        ("recipe.lr=1", "recipe.lr=1: prepare takes task.KNOB=VALUE only, as task.n_train=1000"),
        ("task.n_train", "task.n_train: prepare takes task.KNOB=VALUE only"),
        ("task.n_trian=3", "unknown key 'task.n_trian': did you mean 'task.n_train'?"),
        ("task.n_train=0", "n_train=0: write a whole number from 1"),
    ],
)
def test_a_wrong_knob_is_one_line(tmp_path, capsys, knob, says):
    code, out, err = prepare(tmp_path, capsys, "listops", knob)
    assert code == 2 and not out
    assert err.startswith(f"error: {says}") and err.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_no_knob_is_needed(tmp_path, capsys):
    code, out, _ = prepare(tmp_path, capsys, "needle", "--protocol", "smoke")
    assert code == 0 and out.startswith("needle, protocol smoke: n_train=512 ")
