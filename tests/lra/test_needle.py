"""Needle: the layout of a row, its distribution, its depth, its limits."""

import numpy as np
import pytest
from scipy import stats

from lra.errors import UserError
from lra.tasks.needle import Needle, NeedleLaw

DRAWN = ("1 5 1 2 7 1 1 4 2", ". . . . . . . . 4")


def checked(x, y, n_decoys):
    """The depth of a row's key and the places of its decoys, from its layout alone."""
    (keys,) = np.nonzero(x == 2)
    depth, query = keys.tolist()
    assert query == len(x) - 1 and depth < query - 1
    assert (x == 1).sum() == len(x) - 3 - n_decoys
    assert (y[:-1] == -100).all() and y[-1] == int(x[depth + 1]) - 3
    values = set(np.flatnonzero(x > 2).tolist()) - {depth + 1}
    assert len(values) == n_decoys
    return depth, sorted(values)


@pytest.mark.parametrize("length", [5, 6, 50])
def test_every_row_is_laid_out_as_said(length):
    rows = NeedleLaw(length, 5, 2).draw(np.random.default_rng(0), 3000)
    assert rows["x"].shape == (3000, length)
    found = [checked(x, y, 2) for x, y in zip(rows["x"], rows["y"], strict=True)]
    depths = [depth for depth, _ in found]
    assert rows["depth"].tolist() == depths
    assert stats.chisquare(np.bincount(depths, minlength=length - 2)).pvalue > 1e-3
    assert stats.chisquare(np.bincount(rows["y"][:, -1], minlength=5)).pvalue > 1e-3
    if length == 50:
        # decoys stand anywhere else with one chance
        gone = np.zeros(49)
        np.add.at(gone, depths, 1)
        np.add.at(gone, np.add(depths, 1), 1)
        counts = np.bincount([place for _, places in found for place in places], minlength=49)
        assert stats.chisquare(counts, (3000 - gone) * 6000 / (3000 - gone).sum()).pvalue > 1e-3


def test_decoys_say_nothing_of_the_needle():
    rows = NeedleLaw(20, 4, 3).draw(np.random.default_rng(1), 8000)
    joint = np.zeros((4, 4))
    for x, y in zip(rows["x"], rows["y"], strict=True):
        _, places = checked(x, y, 3)
        joint[x[places[0]] - 3, y[-1]] += 1
    assert stats.chi2_contingency(joint).pvalue > 1e-3


def test_the_drawn_example_is_one():
    assert all(line in " ".join(Needle.__doc__.split()) for line in DRAWN)
    x, y = (np.array([int(t) if t != "." else -100 for t in line.split()]) for line in DRAWN)
    assert checked(x, y, 2) == (3, [1, 7])


def test_the_depth_is_kept_with_the_row(tmp_path):
    task = Needle(root=tmp_path, n_train=30, n_val=5, n_test=5, max_length=12, n_decoys=4)
    for row in task.build("train"):
        assert checked(np.array(row["x"]), np.array(row["y"]), 4)[0] == row["depth"]


def test_long_rows_take_little_to_hold(tmp_path):
    task = Needle(root=tmp_path, n_train=3, n_val=1, n_test=1, max_length=65_536)
    assert task.manifest()["files"]["train"][0]["bytes"] < 3 * 65_536 * 2 * 1.1
    assert task.collate(task.build("test"), np.array([0])).x.shape == (1, 65_536)


def test_decoys_must_fit(tmp_path):
    with pytest.raises(UserError, match="n_decoys=7, .* need max_length=10 or more, got 9"):
        Needle(root=tmp_path, max_length=9)
    with pytest.raises(UserError, match="n_decoys=0: write a whole number from 1"):
        Needle(root=tmp_path, n_decoys=0)
