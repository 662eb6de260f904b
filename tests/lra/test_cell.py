"""The identity of a cell: all that can change its number, and nothing else; and its rows."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import lra.cell_run
from lra import presets
from lra.config import RunConfig, load
from lra.errors import UserError
from lra.resolvers import checkout
from lra.results import cell as cells
from lra.results.cell import Cell, cell_id
from lra.results.collect import read_rows
from lra.results.fingerprint import Fingerprint
from lra.results.schema import RunRow
from lra.results.source import closure

HERE = Fingerprint(
    device="a CPU", n_threads=2, n_processes=1, matmul_precision="highest",
    versions="python=3.11.7 torch=2.13.0+cpu triton=3.7.1", git_sha="abc",
)  # fmt: skip
CUSTOM = ("model=custom", "mixer._target_=my_module.MyMixer", "protocol=smoke")


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return load(presets.compose(*CUSTOM))


def identity(config, manifest=None, source="s", here=HERE, origin=None) -> str:
    return cell_id(config, manifest or {"sha256": "x"}, source, here, origin)


CHANGES = [
    "seed=1", "recipe.lr=0.5", "recipe.dropout=0.3", "recipe.precision=bf16-mixed",
    "recipe.batch=32", "task.max_depth=4", "block.ffn=false", "+mixer.gain=2.0",
    "backend=reference", "bidirectional=true", "layers=[transformer]",
    "mixer._target_=my_module.Slow", "protocol=laptop",
]  # fmt: skip


@pytest.mark.parametrize("override", CHANGES)
def test_what_can_change_the_number_is_another_cell(config, override):
    other = load(presets.compose(*CUSTOM, override))
    assert identity(other) != identity(config)


def test_names_that_differ_are_other_cells(config):
    """Also where everything else is equal."""
    assert identity(replace(config, model="another")) != identity(config)


@pytest.mark.parametrize(
    "change",
    [
        {"manifest": {"sha256": "y"}},
        {"source": "t"},
        {"origin": "evaluated from 0123"},
        {"here": replace(HERE, device="another CPU")},
        {"here": replace(HERE, n_threads=1)},
        {"here": replace(HERE, n_processes=2)},
        {"here": replace(HERE, matmul_precision="high")},
        {"here": replace(HERE, versions=HERE.versions.replace("torch=2.13.0", "torch=2.14.0"))},
    ],
)
def test_data_code_and_machine_are_part_of_it(config, change):
    assert identity(config, **change) != identity(config)


@pytest.mark.parametrize(
    "overrides",
    [
        ("paths.results=/elsewhere", "paths.data=/elsewhere"),
        ("limits.time_s=7", "limits.memory_gib=3"),
        ("logger=none",),
        ("rerun=true",),
        ("device=cpu",),
    ],
)
def test_what_changes_no_number_is_the_same_cell(config, overrides):
    other = load(presets.compose(*CUSTOM, *overrides), list(overrides))
    assert identity(other) == identity(config)
    # neither do libraries that were not used, nor the commit
    here = replace(HERE, versions=HERE.versions + " xformers=1.0", git_sha="def+")
    assert identity(other, here=here) == identity(config)


def test_it_is_short_stable_and_the_same_in_another_process(config, command):
    code = f"""
import sys
sys.path.insert(0, {checkout()!r})
from lra import presets
from lra.config import load
from lra.results.cell import cell_id
from lra.results.fingerprint import Fingerprint
config = load(presets.compose(*{CUSTOM!r}))
print(cell_id(config, {{"sha256": "x"}}, "s", Fingerprint(**{asdict(HERE)!r}), None))
"""
    ended = command("-c", code)
    assert ended.stdout.strip() == identity(config), ended.stderr
    assert len(identity(config)) == 12


# -- which code counts -------------------------------------------------------------------------


def counted(monkeypatch, model: str) -> set[str]:
    """The files that a model's cell depends on."""
    asked = {}

    def digest(files, within):
        asked.update(files=list(files), within=within)
        return "digest"

    monkeypatch.setattr(lra.cell_run, "source_digest", digest)
    config = load(presets.compose(f"model={model}", "protocol=smoke"))
    assert lra.cell_run.CellRun._source(SimpleNamespace(config=config)) == "digest"
    names = [path.relative_to(checkout()).as_posix() for path in closure(asked["files"])]
    return {name for name in names if name.startswith(tuple(asked["within"]))}


def test_code_that_counts(monkeypatch):
    found = counted(monkeypatch, "performer")
    assert {
        "models/mixers/linear/performer.py", "models/qkv.py", "models/model.py", "models/head.py",
        "models/blocks/residual.py", "models/backbones/encoder.py", "models/norm.py",
        "kernels/linear_attention/eager.py", "kernels/dispatch.py", "lra/model.py",
        "lra/training/loop.py", "lra/training/schedule.py", "lra/training/batches.py",
        "lra/tasks/listops.py", "lra/data/listops_trees.py", "lra/measurement/measure.py",
    } <= found  # fmt: skip
    # neither another model nor what only shows, writes or starts
    others = [name for name in found if name.startswith("models/mixers/")]
    assert {Path(name).name for name in others} <= {"__init__.py", "performer.py"}
    assert not {
        name for name in found if name.startswith(("kernels/long_conv", "plots", "lra/cli"))
    }
    assert not found & {"lra/report.py", "lra/app.py", "lra/tracking.py", "lra/progress.py"}


def test_models_depend_on_their_own_ops(monkeypatch):
    found = counted(monkeypatch, "s4d")
    assert "kernels/long_conv/eager.py" in found
    assert not {name for name in found if name.startswith("kernels/linear_attention")}


# -- rows --------------------------------------------------------------------------------------


def row(**values) -> RunRow:
    facts = {
        "cell": "abc", "model": "m", "family": "exact", "mixer": "M", "block": "B",
        "backbone": "E", "mixer_knobs": "{}", "task": "t", "tier": "official", "length": 8,
        "batch": 2, "causal": False, "protocol": "smoke", "label": "standard", "seed": 0,
        "status": "interrupted",
    }  # fmt: skip
    return RunRow(**{**facts, **values})


@pytest.fixture
def cell(tmp_path) -> Cell:
    return Cell("abc", "m_t_smoke_s0_abc", tmp_path / "results")


def test_a_row_is_in_both_places(cell):
    assert cell.row() is None and cell.finished() is None
    with cell.alone():
        cell.write_row(row(status="ok", test_acc=0.5))
    assert cell.row() == cell.finished() == row(status="ok", test_acc=0.5)
    assert read_rows(cell.rows) == [row(status="ok", test_acc=0.5)]


@pytest.mark.parametrize(
    ("status", "finished"),
    [("ok", True), ("oom", True), ("nan", True), ("timeout", True), ("unsupported", True),
     ("interrupted", False), ("error", False)],
)  # fmt: skip
def test_which_ends_are_for_good(cell, status, finished):
    cell.write_row(row(status=status))
    assert (cell.finished() is not None) == finished


@pytest.mark.parametrize("content", ["", "{", "[]", '{"cell": "abc"}', '"text"', "null"])
def test_a_damaged_row_is_no_row(cell, content):
    cell.write_row(row(status="ok"))
    (cell.folder / "row.json").write_text(content)
    assert cell.row() is None


def test_a_row_of_another_schema_is_no_row(cell):
    cell.write_row(row(status="ok"))
    values = json.loads((cell.folder / "row.json").read_text())
    (cell.folder / "row.json").write_text(json.dumps({**values, "new_column": 1}))
    assert cell.row() is None


def test_the_row_that_counts_is_written_last(cell, monkeypatch):
    """A process killed in between is tried again, and its row among the results is mended."""

    def die(row, folder):
        raise KeyboardInterrupt

    cell.write_row(row())
    monkeypatch.setattr(cells, "write_row", die)
    with pytest.raises(KeyboardInterrupt):
        cell.write_row(row(status="ok"))
    assert cell.finished() is None


def test_an_unwritable_folder_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    cell = Cell("abc", "name", tmp_path / "file" / "results")
    with pytest.raises(UserError, match="cannot write results to .*another folder with paths.res"):
        cells.check_writable(cell.results)
    with pytest.raises(UserError, match="cannot write results"), cell.alone():
        pass


def test_a_cell_is_for_one_process(cell, caplog):
    """A second holder waits; the first one's end lets it in."""
    import threading
    import time

    caplog.set_level("INFO")
    order = []

    def second():
        with Cell(cell.id, cell.name, cell.results).alone():
            order.append("second")

    with cell.alone():
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.3)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert "another process works on this cell" in caplog.text
