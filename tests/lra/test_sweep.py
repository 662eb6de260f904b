"""Sweeps: each cell a child of its own, with any launcher; one that fails or dies loses no other;
the same command goes on where it stopped; no child outlives its sweep."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lra import sweep
from lra.errors import CellFailed
from lra.resolvers import checkout

RUN = f"{checkout()}/run.py"


def rows(results: Path) -> dict[str, dict]:
    """Every row by its mixer, the same in both places."""
    found = {}
    for path in results.glob("runs/*/row.json"):
        row = json.loads(path.read_text())
        local = json.loads((results / "local" / "runs" / f"{row['cell']}.json").read_text())
        assert local["row"] == row
        found[row["mixer"]] = row
    return found


def mixers(*names: str) -> str:
    return "mixer._target_=" + ",".join(f"my_module.{name}" for name in names)


def test_a_failing_cell_loses_no_other_and_the_rest_is_not_repeated(
    fork, command, tmp_path, built_data
):
    results = tmp_path / "results"
    line = fork.tiny(results, f"paths.data={built_data}", mixers("Broken", "Refusing", "MyMixer"))
    first = command(RUN, "-m", *line)
    found = rows(results)
    assert {name: row["status"] for name, row in found.items()} == {
        "Broken": "error", "Refusing": "unsupported", "MyMixer": "ok",
    }  # fmt: skip
    # what a system cannot do is an answer, an error is not
    assert first.returncode == 1
    for number in (1, 2, 3):
        assert f"cell {number} of 3" in first.stderr
    assert "error: refuses [/every] sequence" in first.stderr
    assert "Traceback" not in first.stdout + first.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"results"}

    times = {
        path: path.stat().st_mtime_ns
        for name in ("mymixer", "refusing")
        for path in results.glob(f"runs/{name}_*/*.*")
    }
    # without the broken one the sweep has succeeded, and nothing is left to do
    line = fork.tiny(results, f"paths.data={built_data}", mixers("Refusing", "MyMixer"))
    again = command(RUN, "-m", *line)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("is finished already") == 2 and "training:" not in again.stderr
    assert times == {path: path.stat().st_mtime_ns for path in times}


def test_joblib_cells_die_alone(fork, command, tmp_path, built_data):
    """One is killed by the system, one wants more memory than the limit, one is well."""
    line = fork.tiny(
        tmp_path / "results", f"paths.data={built_data}", "limits.memory_gib=6",
        mixers("Killed", "Greedy", "MyMixer"), "hydra/launcher=joblib",
    )  # fmt: skip
    ended = command(RUN, "-m", *line)
    found = rows(tmp_path / "results")
    assert {name: row["status"] for name, row in found.items()} == {
        "Killed": "oom", "Greedy": "oom", "MyMixer": "ok",
    }  # fmt: skip
    assert found["Killed"]["reason"].startswith("killed by the system")
    assert "can't allocate memory" in found["Greedy"]["reason"]
    assert ended.returncode == 1
    assert "Traceback" not in ended.stdout + ended.stderr


def test_a_wrong_name_ends_a_sweep_before_any_cell_runs(command, tmp_path):
    results = f"paths.results={tmp_path / 'results'}"
    for wrong, said in (
        ("model=custom,performr", "error: unknown model 'performr': did you mean 'performer'?"),
        ("recipe.btch=1,2", "error: unknown key 'recipe.btch': did you mean 'recipe.batch'?"),
    ):
        ended = command(RUN, "-m", wrong, results)
        assert ended.returncode == 2
        assert ended.stderr.splitlines() == [said] and not ended.stdout
    assert not list(tmp_path.rglob("*.json"))


def test_a_sweep_over_every_model_skips_the_one_that_is_nobodys(command, tmp_path):
    """``model=glob(*)`` finds custom.yaml, too: a line, and no failure."""
    ended = command(RUN, "-m", "model=glob(cust*)", f"paths.results={tmp_path / 'results'}")
    assert ended.returncode == 0
    assert "skipped: custom is a mixer of your own, mixer._target_=..." in ended.stderr
    assert not list(tmp_path.rglob("*.json"))
    # alone it is a mistake
    alone = command(RUN, "model=custom", f"paths.results={tmp_path / 'results'}")
    assert alone.returncode == 2
    assert "error: mixer._target_ is missing" in alone.stderr


def test_an_unwritable_folder_is_one_line(command, tmp_path):
    (tmp_path / "file").write_text("")
    ended = command(RUN, "-m", "seed=0,1", f"paths.results={tmp_path / 'file' / 'below'}")
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: cannot write") and "set paths.results=..." in line


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def family(pid: int) -> list[int]:
    """The process's children, theirs, and so on."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            child = int(stat.parent.name)
            found += [child, *family(child)]
    return found


def wait_until(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_no_child_outlives_a_killed_sweep(fork, command, tmp_path, built_data, launcher):
    """It saves and ends; the same sweep goes on from there."""
    line = fork.tiny(
        tmp_path / "results", f"paths.data={built_data}", mixers("Slow"), "recipe.steps=300",
        "recipe.eval_every=300",
    )  # fmt: skip
    n_cells = 1 if launcher == "basic" else 2
    words = [sys.executable, RUN, "-m", *line, "seed=0,1", f"hydra/launcher={launcher}"]
    log, steps = tmp_path / "log", tmp_path / "steps"
    steps.write_text("")

    def are_training() -> bool:
        times = Counter(steps.read_text().split()).values()
        return len(times) == n_cells and min(times) > 2 or parent.poll() is not None

    with log.open("w") as file:
        parent = subprocess.Popen(
            words,
            stdout=file, stderr=file, env={**os.environ, "SLOW_LOG": str(steps)},
        )  # fmt: skip
    try:
        wait_until(are_training)
        children = family(parent.pid)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert len(children) >= n_cells, log.read_text()
        wait_until(lambda: not any(map(alive, children)), 60)
    finally:
        parent.kill()
    found = [json.loads(path.read_text()) for path in tmp_path.glob("results/runs/*/row.json")]
    assert len(found) == n_cells, log.read_text()
    assert {(row["status"], row["reason"]) for row in found} == {("interrupted", "by SIGTERM")}
    again = command(*words[1:], env={**os.environ, "SLOW_S": "0"})
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("resumed at step") == n_cells
    found = [json.loads(path.read_text()) for path in tmp_path.glob("results/runs/*/row.json")]
    assert [(row["status"], row["steps"]) for row in found] == [("ok", 300)] * 2


# -- the parts, without processes that take seconds --------------------------------------------


class Child:
    """A child that never ends by itself."""

    def __init__(self):
        self.returncode, self.asked = None, []

    def communicate(self, order, timeout):
        if self.returncode is None:
            raise subprocess.TimeoutExpired("child", timeout)

    def kill(self):
        self.asked.append("kill")
        self.returncode = -9

    def wait(self, timeout=None):
        if self.returncode is None:
            raise subprocess.TimeoutExpired("child", timeout)


def test_a_child_that_does_not_end_in_time_is_killed():
    child = Child()
    assert sweep._wait(child, "order", 5.0) == (-9, True)
    assert child.asked == ["kill"]


def test_a_stopped_sweep_lets_its_child_save_first():
    class Asked(Child):
        def communicate(self, order, timeout):
            raise KeyboardInterrupt

        def terminate(self):
            self.asked.append("terminate")

    child = Asked()
    with pytest.raises(KeyboardInterrupt):
        sweep._wait(child, "order", None)
    assert child.asked == ["terminate", "kill"]


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        ("sys.exit(0)", None),
        ("sys.exit(1)", 1),
        ("sys.exit(2)", 2),
        ("sys.exit(130)", 130),
        ("os.kill(os.getpid(), 9)", 1),
        ("os.abort()", 1),
    ],
)
def test_exit_codes_of_children(monkeypatch, script, outcome):
    """A child that dies before it tells of its cell has no row, and fails the sweep just so."""
    popen = subprocess.Popen

    def start(command, **options):
        code = f"import os, sys; sys.stdin.read(); {script}"
        return popen([sys.executable, "-c", code], **options)

    monkeypatch.setattr(sweep.subprocess, "Popen", start)
    cfg = OmegaConf.create({"mixer": {"_target_": "a.B"}, "limits": {"time_s": None}})
    if outcome is None:
        sweep.run_in_child(cfg, ["seed=0"], number=0)
    else:
        with pytest.raises(CellFailed) as caught:
            sweep.run_in_child(cfg, ["seed=0"], number=0)
        assert caught.value.exit_code == outcome


def test_a_death_never_overwrites_another_processs_result(fork, tmp_path):
    """The killed child's cell was finished by somebody else before the parent looked."""
    from lra.results.cell import Cell

    assert fork(*fork.tiny(tmp_path)).code == 0
    (path,) = tmp_path.glob("runs/*/row.json")
    row = json.loads(path.read_text())
    cell = Cell(row["cell"], path.parent.name, tmp_path)
    told = json.dumps({"id": cell.id, "name": cell.name, "results": str(tmp_path)})
    sweep._record_death(told, signal.SIGKILL, False)
    assert cell.row().status == "ok"
    path.write_text(json.dumps({**row, "status": "interrupted"}))
    sweep._record_death(told, signal.SIGSEGV, False)
    assert (cell.row().status, cell.row().reason) == ("error", "killed by SIGSEGV")
