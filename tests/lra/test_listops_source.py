"""ListOps from files: whose trees they are, what recurs, where they are to be had; and EOS."""

import shutil

import numpy as np
import pytest

from lra.cli.main import main
from lra.data.listops_tsv import FILES
from lra.errors import UserError
from lra.tasks import listops
from lra.tasks.listops import ListOps

TREE = "[MIN 2 9 ]"


def write(folder, **trees):
    """Files of one tree, or of those given by split."""
    folder.mkdir(exist_ok=True)
    for split, name in FILES.items():
        rows = trees.get(split, [f"{TREE}\t2"])
        (folder / name).write_text("Source\tTarget\n" + "".join(f"{row}\n" for row in rows))
    return folder


def test_the_first_operator_line_of_the_official_sample(listops_sample, tmp_path):
    task = ListOps(root=tmp_path, source=listops_sample)
    lines = task.baselines()
    # the sample's own note says 37.2 %: that is learned on test
    assert lines["first_operator"] == pytest.approx(0.3675, abs=1e-9)
    assert lines["majority"] == pytest.approx(0.17, abs=0.03)
    facts = task.manifest()
    assert facts["rows"] == facts["source_rows"] == {"train": 2000, "val": 2000, "test": 2000}
    assert set(facts["source_sha256"]) == set(FILES.values())
    assert facts["duplicates"] == {"val in train": 0, "test in train": 0, "test in val": 0}


def test_files_of_other_sizes_are_a_stand_in(tmp_path, monkeypatch):
    three = [f"[MAX {i} 1 ]\t{i}" for i in (2, 3, 4)]
    folder = write(tmp_path / "a", train=three)
    spec = ListOps(root=tmp_path / "data", source=folder).spec
    assert (spec.name, spec.tier, spec.published) == ("listops_standin", "stand-in", None)
    monkeypatch.setattr(listops, "ROWS", {"train": 3, "val": 1, "test": 1})
    for knobs in ({}, {"n_train": 1}):
        spec = ListOps(root=tmp_path / "data", source=folder, **knobs).spec
        assert (spec.name, spec.tier, spec.published) == ("listops", "official", "listops")
        assert spec.notes == ()
    # fewer to test on is said, as of the other tasks
    monkeypatch.setattr(listops, "ROWS", {"train": 3, "val": 1, "test": 4})
    spec = ListOps(root=tmp_path / "data", source=folder).spec
    assert (spec.tier, spec.notes) == (
        "official", ("only 1 of the 4 test examples are there",),
    )  # fmt: skip


def test_the_published_sizes():
    assert listops.ROWS == {"train": 96_000, "val": 2_000, "test": 2_000}


def test_rows_are_counted_with_and_without_a_last_line_end(tmp_path):
    folder = write(tmp_path / "a")
    path = folder / FILES["test"]
    for content, rows in (
        (f"Source\tTarget\r\n{TREE}\t2\r\n{TREE}\t2", 2),
        (f"Source\tTarget\n{TREE}\t2\n", 1),
    ):
        path.write_text(content)
        facts = ListOps(root=tmp_path / "data", source=folder).manifest()
        assert facts["source_rows"]["test"] == facts["rows"]["test"] == rows


def test_what_recurs_across_splits_is_counted_and_kept(tmp_path):
    trees = [f"[MAX {i} 1 ]\t{max(i, 1)}" for i in range(6)]
    folder = write(tmp_path / "a", train=trees[:4], val=[trees[5]], test=[*trees[2:], trees[2]])
    facts = ListOps(root=tmp_path / "data", source=folder).manifest()
    assert facts["duplicates"] == {"val in train": 0, "test in train": 3, "test in val": 1}
    assert facts["rows"] == {"train": 4, "val": 1, "test": 5}


def test_limits_cut(listops_sample, tmp_path):
    task = ListOps(
        root=tmp_path, source=listops_sample, n_train=3, n_val=2, n_test=1, max_length=600
    )
    assert task.manifest()["rows"] == {"train": 3, "val": 2, "test": 1}
    assert max(map(len, task.build("train")["x"])) == 600


def test_a_changed_source_is_read_again_and_a_moved_one_is_the_same_data(tmp_path):
    def made(folder, label):
        write(folder, train=[f"{TREE}\t2"], val=[f"{TREE}\t2"], test=[f"{TREE}\t{label}"])
        return ListOps(root=tmp_path / "data", source=folder)

    first = made(tmp_path / "a", 2)
    assert first.build("test")["y"][:] == [2]
    assert made(tmp_path / "b", 2).manifest() == first.manifest()
    shutil.rmtree(tmp_path / "a")
    assert made(tmp_path / "a", 3).build("test")["y"][:] == [3]


def test_a_missing_source_says_where_to_get_it(tmp_path, capsys):
    root = ("--root", str(tmp_path / "data"))
    assert main(["prepare", "listops", "--source", str(tmp_path), *root]) == 2
    said = capsys.readouterr().err
    for part in (
        f"error: there is no {tmp_path / 'basic_train.tsv'}: take LRA's archive",
        "https://storage.googleapis.com/long-range-arena/lra_release.gz",
        "python -m lra prepare listops --source lra_release/listops-1000",
        "leave out task.source",
    ):
        assert part in said
    assert said.count("\n") == 1


def test_the_source_needs_no_possible_law(tmp_path):
    task = ListOps(root=tmp_path / "data", source=write(tmp_path / "a"), max_length=100)
    assert task.spec.length == 100


def test_eos_follows_the_cut_tree(tmp_path):
    folder = write(tmp_path / "a", train=["[MIN 2 9 3 ]\t2", f"{TREE}\t2"])
    task = ListOps(root=tmp_path / "data", source=folder, max_length=5, eos=True)
    batch = task.collate(task.build("train"), np.arange(2))
    # the first tree loses its bracket; 17 is S4's eighteenth id
    assert batch.x.tolist() == [[11, 3, 10, 4, 17], [11, 3, 10, 15, 17]] and batch.mask.all()
    assert (task.spec.vocab, task.spec.length) == (18, 5)
    more = ListOps(root=tmp_path / "data", source=folder, eos=True, operators=["MIN", "LAST"])
    assert more.collate(more.build("train"), np.array([1])).x.tolist() == [[11, 3, 10, 15, 19]]
    assert more.spec.vocab == 20
    with pytest.raises(UserError, match="eos=1: write true or false"):
        ListOps(root=tmp_path, eos=1)


def test_a_generated_tree_leaves_room_for_eos(tmp_path):
    knobs = dict(n_train=200, n_val=5, n_test=5, min_length=16, max_length=24)
    plain, ended = (ListOps(root=tmp_path, **knobs, eos=eos) for eos in (False, True))
    data = plain.build("train")
    # one store serves both
    assert ended.manifest() == plain.manifest()
    batch = ended.collate(data, np.arange(200))
    assert batch.x.shape[1] <= 24 and (batch.x == 17).sum(1).tolist() == [1] * 200
    lengths = plain.collate(data, np.arange(200)).mask.sum(1)
    assert batch.mask.sum(1).equal(lengths + 1)
    assert (batch.x.gather(1, lengths[:, None]) == 17).all()
