"""``python -m plots``: files, one-line errors, no torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from plots.__main__ import main

ROOT = Path(__file__).parents[2]
# run as a module in a process in which importing any of these fails
BLOCKED = """
import runpy, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "hydra", "models", "kernels", "datasets", "wandb"):
            raise ImportError(name + " is not needed for tables and figures")
sys.meta_path.insert(0, Absent())
module, *sys.argv[1:] = sys.argv[1:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def _run(module, *arguments):
    command = [sys.executable, "-c", BLOCKED, module, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_everything_is_made_without_torch(results, rows, tmp_path):
    done = _run("plots", "--results", results(rows), "--out", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    names = {path.name for path in (tmp_path / "out" / "some-cpu-2.1ghz").iterdir()}
    assert names == {
        "accuracy_vs_speed_laptop_listops.png", "accuracy_vs_speed_laptop_listops.svg",
        "lra_table_laptop.md", "lra_table_laptop.tex", "lra_table_laptop.csv",
        "pairs_laptop.md", "pairs_laptop.tex", "pairs_laptop.csv",
    }  # fmt: skip
    assert len(done.stdout.splitlines()) == 8


@pytest.mark.parametrize("name", ["accuracy_vs_speed", "lra_table", "pairs"])
def test_each_runs_alone(results, rows, name):
    folder = results(rows)
    done = _run(f"plots.{name}", "--results", folder, "--protocol", "laptop")
    assert (done.returncode, done.stderr) == (0, "")
    written = list((folder / "report").rglob("*.*"))
    assert written and all(path.name.startswith(name) for path in written if path.is_file())


def _error(capsys, *arguments):
    assert main(None, [str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return captured.err


def test_empty_or_absent_results_are_one_line(tmp_path, capsys):
    assert "no results in" in _error(capsys, "--results", tmp_path)
    assert "no folder" in _error(capsys, "--results", tmp_path / "absent")


def test_foreign_results_are_one_line_and_write_nothing(results, rows, capsys):
    folder = results(rows)
    path = folder / "measured" / "some-cpu-2.1ghz" / "runs.csv"
    path.write_text("model,score\nx,1\n")
    assert "runs.csv: row 1: missing columns cell" in _error(capsys, "--results", folder)
    assert not (folder / "report").exists()


def test_results_without_published_numbers_are_one_line(results, rows, capsys):
    folder = results(rows)
    for path in (folder / "published").glob("*.csv"):
        path.unlink()
    assert "no published numbers" in _error(capsys, "--results", folder)
    assert not (folder / "report").exists()


def test_unwritable_folder_and_unknown_names_are_one_line(results, rows, tmp_path, capsys):
    folder = results(rows)
    (tmp_path / "file").write_text("")
    error = _error(capsys, "--results", folder, "--out", tmp_path / "file")
    assert error.startswith("error: cannot write") and "choose another folder" in error
    assert "did you mean 'laptop'" in _error(capsys, "--results", folder, "--protocol", "lapto")


def test_only_failures_make_a_table_but_no_figure(results, make_row, capsys):
    folder = results([make_row("lru", 0, status="oom", test_acc=None)])
    assert main(None, ["--results", str(folder)]) == 0
    assert "lra_table_laptop.md" in capsys.readouterr().out
    assert main("pairs", ["--results", str(folder)]) == 2
    assert "pairs has nothing to show" in capsys.readouterr().err
