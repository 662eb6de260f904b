"""From row files to committed packs, and strangers' packs into ours."""

import json
from dataclasses import replace

import pytest

from lra.errors import UserError
from lra.results.collect import collect, publish, read_all, read_rows, write_row
from lra.results.csv_io import read_csv, write_csv
from lra.results.merge import merge
from lra.results.packs import device_slug, newest
from lra.results.schema import KernelRow, LengthRow, RunRow

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
    test_acc=0.25,
    device="Some CPU @ 2.0GHz",
    versions="torch=2.13.0",
    date="2026-01-01T00:00:00",
)
LENGTH = LengthRow(
    cell="l0",
    model="performer",
    family="linear",
    level="mixer",
    mixer_knobs="{}",
    protocol="laptop",
    length=256,
    batch=1,
    causal=False,
    dim=64,
    heads=2,
    layers=1,
    pass_="forward",
    status="ok",
    device="Some CPU @ 2.0GHz",
    versions="torch=2.13.0",
    date="2026-01-01",
)
PACK = "measured/some-cpu-2.0ghz/runs.csv"


def _write(results, *rows):
    for row in rows:
        write_row(row, results / "local")


def test_a_cell_is_one_file_named_after_it(tmp_path):
    path = write_row(ROW, tmp_path)
    assert path == tmp_path / "runs" / "c0.json"
    assert json.loads(path.read_text())["row"]["test_acc"] == 0.25
    write_row(replace(ROW, test_acc=0.5), tmp_path)
    assert read_rows(tmp_path) == [replace(ROW, test_acc=0.5)]


def test_rows_of_one_cell_that_differ_in_pass_are_all_kept(tmp_path):
    rows = [LENGTH, replace(LENGTH, pass_="step"), replace(LENGTH, length=512)]
    _write(tmp_path, *rows)
    assert sorted(map(repr, read_rows(tmp_path / "local", "lengths"))) == sorted(map(repr, rows))


def test_collect_is_stable_and_keeps_every_cell(tmp_path):
    rows = [replace(ROW, cell=f"c{i}", seed=seed) for i, seed in enumerate((2, 0, 1))]
    rows.append(replace(ROW, cell="killed", status="interrupted", seed=3, device=None))
    _write(tmp_path, *rows, LENGTH)
    found = collect(tmp_path)
    assert list(found) == ["runs", "lengths"]
    assert [row.seed for row in found["runs"]] == [3, 0, 1, 2]
    text = (tmp_path / "local" / "runs.csv").read_bytes()
    _write(tmp_path, *reversed(rows))
    collect(tmp_path)
    assert (tmp_path / "local" / "runs.csv").read_bytes() == text
    assert read_csv(tmp_path / "local" / "lengths.csv", LengthRow) == [LENGTH]


def test_collect_of_nothing_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match=r"no finished cells .* `python run.py"):
        collect(tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{torn", "Expecting"),
        ("[]", "is not a row"),
        ('{"schema": 99, "row": {}}', "has schema 99"),
        ('{"schema": 1, "row": {"cell": "x"}}', "missing columns model"),
    ],
)
def test_a_broken_row_file_is_named(tmp_path, text, says):
    path = write_row(ROW, tmp_path)
    path.write_text(text)
    with pytest.raises(UserError, match=f"c0.json: .*{says}.*run its cell again"):
        read_rows(tmp_path)


def test_publish_sorts_by_device_and_leaves_interrupted_cells(tmp_path):
    _write(
        tmp_path,
        ROW,
        replace(ROW, cell="c1", device="Other GPU"),
        replace(ROW, cell="c2", status="interrupted"),
    )
    paths = publish(tmp_path)
    assert paths == [tmp_path / "measured/other-gpu/runs.csv", tmp_path / PACK]
    assert [row.cell for row in read_csv(tmp_path / PACK, RunRow)] == ["c0"]


def test_publish_replaces_the_same_cell_and_keeps_the_others(tmp_path):
    other = replace(ROW, cell="other", seed=1)
    write_csv(tmp_path / PACK, [ROW, other], RunRow)
    _write(tmp_path, replace(ROW, test_acc=0.5))
    publish(tmp_path)
    assert read_csv(tmp_path / PACK, RunRow) == [replace(ROW, test_acc=0.5), other]


def test_a_cell_of_new_code_takes_the_place_of_the_old(tmp_path):
    """Else seed 0 would count twice in a mean over seeds."""
    write_csv(tmp_path / PACK, [ROW], RunRow)
    new = replace(ROW, cell="c9", test_acc=0.5, date="2026-02-01T00:00:00")
    _write(tmp_path, new)
    publish(tmp_path)
    assert read_csv(tmp_path / PACK, RunRow) == [new]


def test_an_old_cell_does_not_take_the_place_of_a_newer_one(tmp_path):
    write_csv(tmp_path / PACK, [ROW], RunRow)
    _write(tmp_path, replace(ROW, cell="c9", test_acc=0.5, date="2025-12-31T00:00:00"))
    publish(tmp_path)
    assert read_csv(tmp_path / PACK, RunRow) == [ROW]


def test_newest_does_not_join_different_experiments():
    rows = [
        ROW,
        replace(ROW, cell="k", mixer_knobs="nb_features=8"),
        replace(ROW, cell="s", seed=1),
    ]
    assert len(newest(rows)) == 3


def test_only_interrupted_cells_publish_nothing(tmp_path):
    _write(tmp_path, replace(ROW, status="interrupted"))
    with pytest.raises(UserError, match="only interrupted cells"):
        publish(tmp_path)
    assert not (tmp_path / "measured").exists()


@pytest.mark.parametrize(
    ("device", "slug"),
    [
        ("NVIDIA H100 80GB HBM3", "nvidia-h100-80gb-hbm3"),
        ("../../etc/passwd", "etc-passwd"),
        ("..", "unknown-device"),
        (None, "unknown-device"),
        ("Intel(R) Xeon(R) CPU @ 2.20GHz", "intel-r-xeon-r-cpu-2.20ghz"),
        ("x" * 500, "x" * 80),
    ],
)
def test_device_slug(device, slug):
    assert device_slug(device) == slug


def test_read_all_prefers_committed_rows(tmp_path):
    mine = replace(ROW, cell="mine", test_acc=0.9, date="2027-01-01")
    new = replace(ROW, cell="new", model="my_mixer")
    write_csv(tmp_path / PACK, [ROW], RunRow)
    for row in (mine, new):
        write_row(row, tmp_path / "local")
    assert sorted(row.cell for row in read_all(tmp_path, "runs")) == ["c0", "new"]
    assert read_all(tmp_path / "nothing", "runs") == []


def test_merge_adds_a_pack_and_is_idempotent(tmp_path):
    file = write_csv(tmp_path / "theirs.csv", [ROW], RunRow)
    lengths = write_csv(tmp_path / "theirs2.csv", [LENGTH], LengthRow)
    into = tmp_path / "results"
    paths = merge([file, lengths], into)
    assert paths == [into / PACK, into / PACK.replace("runs", "lengths")]
    assert merge([file], into) == paths[:1]
    assert read_csv(into / PACK, RunRow) == [ROW]


def test_merge_tells_tables_apart_by_their_columns(tmp_path):
    kernel = KernelRow(
        op="attention", backend="sdpa", batch=1, heads=1, length=8, key_length=8, head_dim=4,
        causal=False, window=None, dtype="float32", pass_="forward", status="ok", device="d",
        versions="torch=2.13.0", date="2026-01-01",
    )  # fmt: skip
    file = write_csv(tmp_path / "runs.csv", [kernel], KernelRow)
    assert merge([file], tmp_path) == [tmp_path / "measured/d/kernels.csv"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"test_acc": 0.5}, "row 3, column 'test_acc': 0.5 contradicts 0.25 of the same experim"),
        ({"cell": "c7"}, r"row 3, column 'cell': 'c7' contradicts 'c0' .*\(cell c0\)"),
        ({"cell": "n", "seed": 1, "device": None}, "row 3, column 'device': is empty"),
        ({"cell": "n", "seed": 1, "versions": None}, "row 3, column 'versions': is empty"),
        ({"cell": "n", "seed": 1, "date": None}, "row 3, column 'date': is empty"),
        ({"cell": "n", "seed": 1, "status": "interrupted"}, "row 3, column 'status': interrupted"),
    ],
)
def test_merge_refuses_and_writes_nothing(tmp_path, change, says):
    into = tmp_path / "results"
    write_csv(into / PACK, [ROW], RunRow)
    good = write_csv(tmp_path / "good.csv", [replace(ROW, cell="g", device="d2")], RunRow)
    first = replace(ROW, cell="f", seed=5)
    file = write_csv(tmp_path / "bad.csv", [first, replace(ROW, **change)], RunRow)
    with pytest.raises(UserError, match=f"bad.csv: {says}"):
        merge([good, file], into)
    assert read_csv(into / PACK, RunRow) == [ROW]
    assert not (into / "measured" / "d2").exists()


def test_merge_refuses_missing_columns_and_foreign_files(tmp_path):
    file = write_csv(tmp_path / "theirs.csv", [ROW], RunRow)
    file.write_text(file.read_text().replace("peak_mem_mib", "memory", 1))
    with pytest.raises(UserError, match="row 1: missing column peak_mem_mib; unknown column mem"):
        merge([file], tmp_path)
    file.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="theirs.csv: row 1: none of its columns"):
        merge([file], tmp_path)
    write_csv(file, [], RunRow)
    with pytest.raises(UserError, match="theirs.csv: has columns but no rows"):
        merge([file], tmp_path)
