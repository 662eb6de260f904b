"""A run that is killed anywhere goes on with the same command and ends as an unbroken one would,
to the bit: parameters, history, and row but for times. Signals end as ``interrupted``."""

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch

# what may differ between two runs of a cell
MEASURED = {"date", "train_s", "data_wait_frac"}


@dataclass
class Left:
    """What a finished cell left behind."""

    parameters: dict[str, torch.Tensor]
    built: dict
    history: pd.DataFrame
    row: dict

    def assert_same(self, other: "Left") -> None:
        assert self.parameters.keys() == other.parameters.keys()
        for name, value in self.parameters.items():
            assert torch.equal(value, other.parameters[name]), name
        assert self.built == other.built
        pd.testing.assert_frame_equal(self.history, other.history, check_exact=True)
        assert self.row == other.row


def folder_of(results: Path) -> Path:
    (folder,) = (results / "runs").iterdir()
    return folder


def left(results: Path) -> Left:
    folder = folder_of(results)
    saved = torch.load(folder / "model.pt", weights_only=True)
    row = json.loads((folder / "row.json").read_text())
    # the row among the local results is the same
    (local,) = (results / "local" / "runs").glob("*.json")
    assert json.loads(local.read_text())["row"] == row
    assert not list(folder.glob("*step_*")) and not list(folder.glob(".*.part"))
    return Left(
        saved["state"], json.loads(saved["built"]),
        pd.read_csv(folder / "history.csv").drop(columns="train_s"),
        {key: value for key, value in row.items() if key not in MEASURED},
    )  # fmt: skip


def status(results: Path) -> tuple[str, str]:
    row = json.loads((folder_of(results) / "row.json").read_text())
    return row["status"], row["reason"]


@pytest.fixture(scope="module")
def unbroken(fork, tmp_path_factory) -> Left:
    results = tmp_path_factory.mktemp("unbroken")
    ended = fork(*fork.tiny(results))
    assert ended.code == 0, ended.err
    found = left(results)
    assert found.row["status"] == "ok" and list(found.history["step"]) == [2, 4, 6]
    return found


# (moment, which coming of it)
KILLS = [
    ("first row", 1),
    ("step", 1),
    ("step", 4),
    ("checkpoint", 1),
    ("checkpoint", 5),
    ("writing a checkpoint", 1),
    ("writing a checkpoint", 3),
    ("validation", 1),
    ("validation", 4),
    ("test", 1),
    ("validation", 7),
    ("saving the model", 1),
    ("measuring", 1),
    ("between the rows", 2),
    ("clearing", 1),
]


@pytest.mark.parametrize(("at", "count"), KILLS)
def test_killed_there_the_same_command_ends_bit_identical(fork, tmp_path, unbroken, at, count):
    ended = fork(*fork.tiny(tmp_path), at=at, count=count)
    assert ended.code == -9, f"the moment never came: {ended}"
    # a cell that was killed is on record, and as unfinished; the last moment comes after the end
    assert status(tmp_path)[0] == ("ok" if at == "clearing" else "interrupted")
    again = fork(*fork.tiny(tmp_path))
    assert again.code == 0, again.err
    left(tmp_path).assert_same(unbroken)


def test_killed_three_times_it_ends_bit_identical(fork, tmp_path, unbroken):
    for at, count in (("step", 2), ("writing a checkpoint", 2), ("validation", 3)):
        assert fork(*fork.tiny(tmp_path), at=at, count=count).code == -9
    assert fork(*fork.tiny(tmp_path)).code == 0
    left(tmp_path).assert_same(unbroken)


def test_features_that_are_redrawn_are_those_of_an_unbroken_run(fork, tmp_path):
    """New ones every second step: the generator that draws them goes on, too."""

    def words(name: str) -> list[str]:
        tiny = fork.tiny(tmp_path / name, "model=performer", "mixer.redraw_interval=2")
        own = ("model=custom", "mixer._target_")
        return [word for word in tiny if not word.startswith(own)]

    assert fork(*words("unbroken")).code == 0
    assert fork(*words("killed"), at="step", count=4).code == -9
    assert fork(*words("killed")).code == 0
    left(tmp_path / "killed").assert_same(left(tmp_path / "unbroken"))


@pytest.mark.parametrize("at", ["building data", "finishing data"])
def test_killed_while_data_is_built(fork, tmp_path, unbroken, at):
    data, results = tmp_path / "data", tmp_path / "results"
    arguments = fork.tiny(results, f"paths.data={data}")
    assert fork(*arguments, at=at).code == -9
    assert not list(data.rglob("manifest.json")), "half a data set passes for a whole one"
    assert fork(*arguments).code == 0
    left(results).assert_same(unbroken)
    assert not list(data.rglob("*.tmp"))


def test_resuming_says_so_and_trains_only_the_rest(fork, tmp_path):
    assert fork(*fork.tiny(tmp_path), at="checkpoint", count=4).code == -9
    assert "resumed at step 4 of 6" in fork(*fork.tiny(tmp_path)).err


def test_a_corrupt_newest_checkpoint_falls_back(fork, tmp_path, unbroken):
    assert fork(*fork.tiny(tmp_path), at="step", count=5).code == -9
    newest = max(folder_of(tmp_path).glob("step_*.pt"))
    newest.write_bytes(newest.read_bytes()[:-1000])
    again = fork(*fork.tiny(tmp_path))
    assert again.code == 0
    assert f"{newest.name} is torn or corrupt: going back to the one before" in again.err
    assert "resumed at step 3 of 6" in again.err
    left(tmp_path).assert_same(unbroken)


@pytest.mark.parametrize("kind", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize(
    ("at", "count"), [("step", 3), ("validation", 2), ("test", 1), ("checkpoint", 2)]
)
def test_signals_save_and_end_as_interrupted(fork, tmp_path, unbroken, at, count, kind):
    ended = fork(*fork.tiny(tmp_path), at=at, count=count, kind=kind)
    assert ended.code == 130
    assert status(tmp_path) == ("interrupted", f"by {kind}")
    assert f"interrupted: by {kind}" in ended.out
    assert "Traceback" not in ended.out + ended.err
    assert list(folder_of(tmp_path).glob("step_*.pt"))
    again = fork(*fork.tiny(tmp_path))
    assert again.code == 0
    assert "resumed at step" in again.err
    left(tmp_path).assert_same(unbroken)


def test_a_signal_before_the_cell_is_known_leaves_no_trace(fork, tmp_path):
    data, results = tmp_path / "data", tmp_path / "results"
    ended = fork(*fork.tiny(results), f"paths.data={data}", at="building data", kind="SIGTERM")
    assert ended.code == 130
    assert "Traceback" not in ended.out + ended.err
    assert not list(data.rglob("*.arrow*")) and not list(results.rglob("*.json"))


def test_two_processes_on_one_cell(fork, tmp_path, unbroken):
    """Both end well, one trains, the other waits and shows the finished row."""
    both = fork.together(fork.tiny(tmp_path), fork.tiny(tmp_path))
    assert [ended.code for ended in both] == [0, 0], both
    trained, waited = sorted(both, key=lambda ended: "finished already" in ended.out)
    assert "6/6 steps" in trained.err and "wrote" in trained.out
    assert "finished already" in waited.out
    assert "steps" not in waited.err and "wrote" not in waited.out
    left(tmp_path).assert_same(unbroken)


def test_a_killed_process_frees_the_cell_for_the_one_that_waits(fork, tmp_path, unbroken):
    """The lock dies with its holder: whoever waits goes on from its checkpoint."""
    both = [fork.tiny(tmp_path)] * 2
    first, second = fork.together(*both, at="checkpoint", count=3)
    # both are to be killed at their third checkpoint: one did at step 3, the other, resumed, later
    assert sorted([first.code, second.code]) == [-9, -9]
    assert "resumed at step 3" in first.err + second.err
    assert fork(*fork.tiny(tmp_path)).code == 0
    left(tmp_path).assert_same(unbroken)
