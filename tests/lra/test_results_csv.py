"""Rows survive CSV exactly; a file that does not fit is refused with file, row and column."""

import string
import subprocess
import sys
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lra.errors import UserError
from lra.results.csv_io import read_csv, schema, write_csv, write_text
from lra.results.schema import TABLES, RunRow, columns

ROW = RunRow(
    cell="c0",
    model="performer",
    family="linear",
    mixer="performer",
    block="default",
    backbone="encoder",
    mixer_knobs="",
    task="listops",
    tier="regenerated",
    length=128,
    batch=32,
    causal=False,
    protocol="laptop",
    label="standard",
    seed=0,
    status="ok",
    test_acc=0.1 + 0.2,
    step_ms=1e-17,
    degenerate=True,
)


def _values(column):
    if column.choices:
        value = st.sampled_from(column.choices)
    elif column.kind is bool:
        value = st.booleans()
    elif column.kind is int:
        value = st.integers(0, 10**17)
    elif column.kind is float:
        value = st.floats(0, 1)
    else:
        text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
        value = text | st.sampled_from(['a "b", c', "two\nlines", "nan", "007", " x "])
    return st.none() | value if column.optional else value


def _rows(row_type):
    return st.builds(row_type, **{c.field: _values(c) for c in schema(row_type)})


@pytest.mark.parametrize("table", TABLES)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_round_trip_is_exact(table, data, tmp_path_factory):
    row = data.draw(_rows(TABLES[table]))
    path = tmp_path_factory.mktemp("csv") / "table.csv"
    write_csv(path, [row], TABLES[table])
    assert read_csv(path, TABLES[table]) == [row]


def test_types_survive_and_none_is_empty(tmp_path):
    path = write_csv(tmp_path / "runs.csv", [ROW], RunRow)
    header, line = path.read_text().splitlines()
    assert header.split(",") == columns(RunRow)
    (row,) = read_csv(path, RunRow)
    assert row == ROW
    assert [type(getattr(row, f.name)) for f in fields(row)] == [
        type(getattr(ROW, f.name)) for f in fields(ROW)
    ]
    cells = dict(zip(header.split(","), line.split(","), strict=True))
    assert cells["val_acc"] == "" and cells["test_acc"] == "0.30000000000000004"


def test_pass_column_has_no_underscore():
    assert "pass" in columns(TABLES["lengths"]) and "pass_" not in columns(TABLES["lengths"])


@pytest.mark.parametrize(
    ("column", "text", "says"),
    [
        ("status", "fine", "is none of ok, oom"),
        ("tier", "mine", "is none of official"),
        ("family", "magic", "is none of exact"),
        ("family", "", "is none of exact"),
        ("step_ms", "-1.0", "at least 0"),
        ("step_ms", "nan", "not a finite number"),
        ("step_ms", "1e999", "finite"),
        ("step_ms", "fast", "not a finite number"),
        ("seed", "0.0", "not a whole number"),
        ("seed", "", "is empty"),
        ("model", "", "is empty"),
        ("causal", "maybe", "neither true nor false"),
        ("test_acc", "36.37", "above 1"),
    ],
)
def test_wrong_cell_is_named(tmp_path, column, text, says):
    path = write_csv(tmp_path / "runs.csv", [replace(ROW, cell="a"), ROW], RunRow)
    lines = [line.split(",") for line in path.read_text().splitlines()]
    lines[2][columns(RunRow).index(column)] = text
    path.write_text("\n".join(map(",".join, lines)))
    with pytest.raises(UserError, match=rf"runs.csv: row 3, column '{column}': .*{says}"):
        read_csv(path, RunRow)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace(",seed,", ",sed,", 1), "row 1: missing column seed; unknown"),
        (
            lambda text: text.replace(",seed,", ",task,", 1),
            "row 1: missing column seed; repeated column task",
        ),
        (lambda text: text + text.splitlines()[1], "row 3, column 'cell': the same as in row 2"),
        (lambda text: text.rstrip() + ",1", r"row 2: (\d+) cells under \d+ columns"),
        (lambda text: "", "row 1: no header"),
        (lambda text: text + '"', "cannot be read as CSV"),
    ],
)
def test_wrong_file_is_refused(tmp_path, change, says):
    path = write_csv(tmp_path / "runs.csv", [ROW], RunRow)
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match=f"runs.csv: {says}"):
        read_csv(path, RunRow)


def test_binary_or_missing_file_is_refused(tmp_path):
    (tmp_path / "image.csv").write_bytes(b"\x89PNG\xff\xfe")
    for name in ("image.csv", "absent.csv"):
        with pytest.raises(UserError, match=f"{name}: cannot be read as CSV"):
            read_csv(tmp_path / name, RunRow)


def test_spreadsheet_habits_are_understood(tmp_path):
    path = write_csv(tmp_path / "runs.csv", [ROW], RunRow)
    text = path.read_text().replace("\n", "\r\n").replace("true", "TRUE") + "\r\n"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_csv(path, RunRow) == [ROW]


@pytest.mark.parametrize(
    "change", [{"test_acc": float("nan")}, {"seed": True}, {"steps": 1.0}, {"status": "great"}]
)
def test_wrong_row_is_not_written(tmp_path, change):
    path = write_csv(tmp_path / "runs.csv", [ROW], RunRow)
    before = path.read_text()
    with pytest.raises(ValueError, match=f"column '{next(iter(change))}'"):
        write_csv(path, [ROW, replace(ROW, cell="b", **change)], RunRow)
    assert path.read_text() == before


def test_a_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = write_text(tmp_path / "a.txt", "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="a.txt: No space left on device: choose another folder"):
        write_text(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_who_has_the_old_file_open_keeps_it_whole(tmp_path):
    path = write_text(tmp_path / "a.txt", "old")
    with path.open() as reader:
        write_text(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new"


def test_a_folder_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "results").write_text("")
    with pytest.raises(UserError, match="cannot write .*choose another folder"):
        write_text(tmp_path / "results" / "a.txt", "new")


def test_results_modules_need_neither_torch_nor_hydra():
    program = (
        "import sys, importlib\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'hydra', 'omegaconf', 'datasets'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "names = 'csv_io packs collect merge published statistics schema'.split()\n"
        "[importlib.import_module('lra.results.' + name) for name in names]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_strings_are_kept_whole(tmp_path):
    row = replace(ROW, reason=string.printable)
    path = write_csv(tmp_path / "runs.csv", [row], RunRow)
    assert read_csv(path, RunRow) == [row]
