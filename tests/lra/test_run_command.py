"""``run.py``: what a cell leaves, that a finished one is not run again, and how each end looks."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from lra.resolvers import checkout
from lra.results.csv_io import from_mapping
from lra.results.schema import RunRow

RUN = f"{checkout()}/run.py"


def row_of(results: Path) -> RunRow:
    """The one row, the same in both places."""
    (path,) = (results / "runs").glob("*/row.json")
    row = from_mapping(RunRow, json.loads(path.read_text()))
    local = json.loads((results / "local" / "runs" / f"{row.cell}.json").read_text())
    assert from_mapping(RunRow, local["row"]) == row
    return row


def mixer(name: str) -> str:
    return f"mixer._target_=my_module.{name}"


# -- the whole, as a user starts it ------------------------------------------------------------


def test_a_cell_from_data_to_row(command, tmp_path):
    """The real command in a real process: data, training, test, measuring, W&B off."""
    arguments = [
        "model=custom", mixer("MyMixer"), "protocol=smoke", "protocol.parameter_budget=null",
        f"paths.results={tmp_path}/results", f"paths.data={tmp_path}/data", "logger=none",
        "task.n_train=64", "task.n_val=40", "task.n_test=50", "recipe.steps=6",
        "recipe.eval_every=3",
    ]  # fmt: skip
    first = command(RUN, *arguments)
    assert first.returncode == 0, first.stderr
    results = tmp_path / "results"
    row = row_of(results)
    folder = results / "runs" / f"mymixer_listops_smoke_s0_{row.cell}"
    files = {path.name for path in folder.iterdir()}
    assert {"row.json", "config.json", "environment.json", "history.csv", "model.pt"} <= files
    assert not {name for name in files if "step" in name or name == "error.txt"}

    # the row says what there is to say
    assert (row.status, row.reason, row.model, row.family) == ("ok", None, "mymixer", "linear")
    assert (row.mixer, row.block, row.backbone) == ("MyMixer", "ResidualBlock", "Encoder")
    assert (row.task, row.tier, row.protocol, row.seed) == ("listops", "regenerated", "smoke", 0)
    assert (row.steps, row.batch, row.length, row.n_test) == (6, 16, 64, 50)
    changed = "protocol.parameter_budget=null recipe.eval_every=3 recipe.steps=6 task.n_test=50"
    assert row.label.startswith(f"changed {changed}")
    assert 0 <= row.test_acc <= 1 and 0 <= row.val_acc <= 1 and row.chance_acc == 0.1
    assert row.trivial_acc > 0.1 and row.trivial_name in ("majority", "first_operator")
    for name in ("n_params", "train_s", "steps_per_s", "tokens_per_s", "forward_ms",
                 "forward_backward_ms", "step_ms", "peak_mem_mib", "pred_mem_mib",
                 "step_gflop"):  # fmt: skip
        assert getattr(row, name) > 0, name
    assert row.forward_ms < row.step_ms
    assert 0 <= row.data_wait_frac <= 1 and 0 < row.flop_coverage <= 1
    assert "torch=2.13.0" in row.versions and row.n_threads == 1 and row.device

    # config, environment and history are there to be read
    config = json.loads((folder / "config.json").read_text())
    assert config["layers"][0]["mixer"] == {"_target_": "my_module.MyMixer"}
    assert config["recipe"]["steps"] == 6 and config["task"]["n_test"] == 50
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["data"]["rows"] == {"train": 64, "val": 40, "test": 50}
    with (folder / "history.csv").open() as file:
        history = list(csv.DictReader(file))
    assert [line["step"] for line in history] == ["3", "6"]
    assert max(float(line["val_acc"]) for line in history) == row.val_acc

    # what a person sees
    said = first.stdout
    assert said.splitlines()[0].startswith("protocol smoke: a few steps")
    for text in ("test, 50 labels, 95 % interval", "majority", "first_operator", "chance",
                 "published", "training step", "parameters"):  # fmt: skip
        assert text in said
    wrote = [line.removeprefix("wrote ") for line in said.splitlines() if line.startswith("wrote")]
    assert {(tmp_path / path).resolve() for path in wrote} >= {folder / "row.json"}
    assert all((tmp_path / path).exists() for path in wrote)
    assert "6/6 steps" in first.stderr

    # logger=none makes no W&B run
    assert not [path for path in tmp_path.rglob("*") if "wandb" in path.name]
    # nothing was written beside: the folder that the command ran in is empty but for our own
    assert {path.name for path in tmp_path.iterdir()} == {"results", "data"}

    # again: the finished row, at once, nothing changed
    times = {path: path.stat().st_mtime_ns for path in results.rglob("*") if path.is_file()}
    again = command(RUN, *arguments)
    assert again.returncode == 0
    assert f"cell {row.cell} is finished already (rerun=true runs it again)" in again.stdout
    assert "steps" not in again.stderr
    assert f"{100 * row.test_acc:.2f}" in again.stdout
    assert times == {path: path.stat().st_mtime_ns for path in results.rglob("*") if path.is_file()}


@pytest.mark.parametrize("question", ["--help", "--cfg job"])
def test_questions_are_answered_at_once(tmp_path, question):
    """Under 2 seconds of CPU time, and nothing heavy is imported."""
    code = f"""
import resource, runpy, sys
sys.path.insert(0, {checkout()!r})
sys.argv = ["run.py", *{question.split()!r}]
try:
    runpy.run_path({RUN!r}, run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
heavy = {{"torch", "datasets", "pandas", "wandb", "lightning_fabric", "matplotlib", "scipy"}}
print("HEAVY", sorted(heavy & set(sys.modules)))
used = resource.getrusage(resource.RUSAGE_SELF)
print("SECONDS", used.ru_utime + used.ru_stime)
"""
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert answer.returncode == 0, answer.stderr
    assert "HEAVY []" in answer.stdout
    assert float(answer.stdout.split("SECONDS")[1]) < 2
    assert "seed: 0" in answer.stdout and "recipe:" in answer.stdout
    assert not answer.stderr
    assert not list(tmp_path.iterdir())


# -- once, again, and evaluated ----------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(fork, tmp_path_factory) -> Path:
    """The folder of a finished cell."""
    results = tmp_path_factory.mktemp("finished")
    ended = fork(*fork.tiny(results))
    assert ended.code == 0, ended.err
    (folder,) = results.glob("runs/*")
    return folder


def test_rerun_runs_it_again_to_the_same_numbers(fork, tmp_path):
    assert fork(*fork.tiny(tmp_path)).code == 0
    before = row_of(tmp_path)
    (model,) = tmp_path.rglob("model.pt")
    model.unlink()
    again = fork(*fork.tiny(tmp_path, "rerun=true"))
    assert again.code == 0 and "6/6 steps" in again.err and model.exists()
    after = row_of(tmp_path)
    assert (after.cell, after.test_acc, after.val_acc) == (
        before.cell, before.test_acc, before.val_acc,
    )  # fmt: skip


@pytest.mark.parametrize(
    "other",
    ["seed=1", "recipe.lr=0.002", "task.n_test=41", "+mixer.gain=2.0", "bidirectional=true",
     "recipe.precision=bf16-mixed", mixer("Restless")],
)  # fmt: skip
def test_what_changes_the_number_is_another_cell(fork, finished, other):
    ended = fork(*fork.tiny(finished.parents[1], other))
    assert ended.code == 0, ended.err
    assert "finished already" not in ended.out


def test_what_changes_no_number_is_the_same_cell(fork, finished):
    ended = fork(*fork.tiny(finished.parents[1], "limits.time_s=1000", "logger=wandb_offline"))
    assert ended.code == 0 and "finished already" in ended.out


def test_a_saved_model_is_evaluated_only(fork, finished, tmp_path):
    saved = finished / "model.pt"
    ended = fork(*fork.tiny(tmp_path, f"checkpoint={saved}", "seed=5"))
    assert ended.code == 0, ended.err
    assert "steps" not in ended.err
    row = row_of(tmp_path)
    assert row.status == "ok" and row.label.startswith("evaluated from ")
    original = json.loads((finished / "row.json").read_text())
    assert row.test_acc == original["test_acc"] and row.n_test == original["n_test"]
    assert row.cell != original["cell"] and row.train_s is None and row.val_acc is None
    assert row.n_params == original["n_params"] and row.steps == original["steps"]
    # no second model, no checkpoint
    assert not list(tmp_path.rglob("*.pt"))
    assert "finished already" in fork(*fork.tiny(tmp_path, f"checkpoint={saved}", "seed=5")).out


def test_a_saved_model_is_trained_further(fork, finished, tmp_path):
    """With steps too small to change a number it scores what it scored, as another cell."""
    words = fork.tiny(tmp_path, f"init={finished / 'model.pt'}", "recipe.lr=1e-12", "seed=5")
    ended = fork(*words)
    assert ended.code == 0, ended.err
    row, original = row_of(tmp_path), json.loads((finished / "row.json").read_text())
    assert row.label.startswith("begun with ") and "steps)" in row.label
    assert row.test_acc == original["test_acc"] and row.train_s is not None
    assert "finished already" in fork(*words).out
    # the same file, for another use, or none, is another cell
    assert len({row.cell, original["cell"]}) == 2


def test_a_model_of_another_shape_cannot_be_trained_further(fork, finished, tmp_path):
    saved = f"init={finished / 'model.pt'}"
    ended = fork(*fork.tiny(tmp_path, saved, "recipe.dim=32"))
    assert ended.code == 2 and "does not fit this model and task" in ended.err
    both = fork(*fork.tiny(tmp_path, saved, f"checkpoint={finished / 'model.pt'}"))
    assert both.code == 2 and "give one" in both.err


def test_a_saved_model_is_evaluated_at_another_length(fork, finished, tmp_path):
    """Sinusoids and this mixer know no length."""
    longer = ("task.min_length=65", "task.max_length=130")
    ended = fork(*fork.tiny(tmp_path, f"checkpoint={finished / 'model.pt'}", *longer))
    assert ended.code == 0, ended.err
    assert row_of(tmp_path).length == 130


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["recipe.positions=learned"], "this model has positions for 64 tokens"),
        ([mixer("ShortOnly"), "recipe.positions=none"], "was built for at most 64 positions"),
    ],
)
def test_a_model_bound_to_its_length_refuses_a_longer_one(fork, finished, tmp_path, changes, said):
    assert fork(*fork.tiny(tmp_path / "a", *changes)).code == 0
    (saved,) = (tmp_path / "a").glob("runs/*/model.pt")
    longer = ("task.min_length=65", "task.max_length=130")
    ended = fork(*fork.tiny(tmp_path / "b", f"checkpoint={saved}", *longer))
    assert ended.code == 2
    assert ended.err.splitlines()[-1].startswith("error: ") and said in ended.err
    assert row_of(tmp_path / "b").status == "unsupported"
    # at its own length it works
    assert fork(*fork.tiny(tmp_path / "c", f"checkpoint={saved}")).code == 0


# -- how a cell can end ------------------------------------------------------------------------


def test_nan_is_a_row(fork, tmp_path):
    ended = fork(*fork.tiny(tmp_path, "recipe.lr=1e30", "recipe.eval_every=6"))
    row = row_of(tmp_path)
    assert ended.code == 1 and row.status == "nan"
    assert row.reason.startswith("loss is nan at step") and row.test_acc is None
    assert f"status nan: {row.reason}" in ended.out
    assert "Traceback" not in ended.out + ended.err
    # it is finished: the same command does not try again, and still fails
    again = fork(*fork.tiny(tmp_path, "recipe.lr=1e30", "recipe.eval_every=6"))
    assert again.code == 1 and "finished already" in again.out


def test_a_time_limit_is_a_row(fork, tmp_path):
    slow = fork.tiny(tmp_path, mixer("Slow"), "recipe.steps=1000", "limits.time_s=1")
    ended = fork(*slow)
    row = row_of(tmp_path)
    assert ended.code == 1 and row.status == "timeout"
    assert row.reason == f"1 s were up after {row.steps} of 1000 steps"
    assert 1 <= row.steps <= 10 and row.train_s > 0
    assert "Traceback" not in ended.out + ended.err
    assert not list(tmp_path.rglob("step_*"))


def test_out_of_memory_is_a_row(fork, tmp_path):
    ended = fork(*fork.tiny(tmp_path, mixer("OutOfMemory")))
    row = row_of(tmp_path)
    assert ended.code == 1 and row.status == "oom"
    assert "not enough memory" in row.reason or "allocate" in row.reason
    assert "Traceback" not in ended.out + ended.err
    assert not list(tmp_path.rglob("error.txt"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Broken", "RuntimeError: the mixer"),
        ("BrokenAtBirth", "AttributeError: 'BrokenAtBirth' object has no attribute"),
    ],
)
def test_a_bug_in_a_mixer_is_a_row(fork, tmp_path, name, reason):
    ended = fork(*fork.tiny(tmp_path, mixer(name)))
    row = row_of(tmp_path)
    assert ended.code == 1 and row.status == "error"
    assert row.reason.startswith(reason)
    assert "Traceback" not in ended.out + ended.err
    (trace,) = tmp_path.rglob("error.txt")
    assert "Traceback" in trace.read_text() and "my_module.py" in trace.read_text()
    assert str(trace.name) in ended.out
    # not finished: the same command tries again
    again = fork(*fork.tiny(tmp_path, mixer(name)))
    assert again.code == 1 and "finished already" not in again.out


def test_an_error_that_is_mended_leaves_no_trace(fork, tmp_path, monkeypatch):
    """The cell goes on where it can, and its old stack trace goes."""
    assert fork(*fork.tiny(tmp_path)).code == 0
    (path,) = tmp_path.glob("runs/*/row.json")
    row = json.loads(path.read_text())
    path.write_text(json.dumps({**row, "status": "error", "reason": "broken", "test_acc": None}))
    (path.parent / "error.txt").write_text("Traceback")
    assert fork(*fork.tiny(tmp_path)).code == 0
    assert row_of(tmp_path).status == "ok" and row_of(tmp_path).reason is None
    assert not (path.parent / "error.txt").exists()


def test_what_a_system_cannot_do_is_a_row_and_a_line(fork, built_data, tmp_path):
    """The reason looks like markup of the terminal: it must be shown as it is."""
    data = f"paths.data={built_data}"
    ended = fork(*fork.tiny(tmp_path, data, mixer("Refusing")))
    row = row_of(tmp_path)
    assert ended.code == 2 and row.status == "unsupported"
    assert row.reason == "refuses [/every] sequence"
    assert ended.err.splitlines() == ["error: refuses [/every] sequence"]
    again = fork(*fork.tiny(tmp_path, data, mixer("Refusing")))
    assert again.code == 2 and "status unsupported: refuses [/every] sequence" in again.out


def test_what_a_system_cannot_be_built_for_is_a_row_too(fork, tmp_path):
    ended = fork(*fork.tiny(tmp_path, "recipe.positions=rope"))
    assert ended.code == 2
    # whoever comes first makes the data, too
    assert ended.err.splitlines()[-1] == (
        "error: MyMixer takes no rotary positions: its recipe.positions are "
        "sinusoidal, learned or none"
    )
    assert row_of(tmp_path).status == "unsupported" and row_of(tmp_path).n_params is None


def test_a_causal_mixer_runs_one_way_or_both(fork, tmp_path):
    one = fork(*fork.tiny(tmp_path / "one", mixer("CausalOnly")))
    both = fork(*fork.tiny(tmp_path / "two", mixer("CausalOnly"), "bidirectional=true"))
    assert (one.code, both.code) == (0, 0), both.err
    assert row_of(tmp_path / "two").n_params > row_of(tmp_path / "one").n_params


def test_other_precisions_run(fork, tmp_path):
    for precision in ("bf16-mixed", "16-mixed"):
        ended = fork(*fork.tiny(tmp_path / precision, f"recipe.precision={precision}"))
        assert ended.code == 0, ended.err
        assert row_of(tmp_path / precision).precision == precision
