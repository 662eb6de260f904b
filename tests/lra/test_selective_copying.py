"""Selective copying: the layout of a row, its distribution, its limits."""

import numpy as np
import pytest
from scipy import stats

from lra.errors import UserError
from lra.tasks.selective_copying import SelectiveCopying, SelectiveCopyLaw

DRAWN = ("1 4 1 1 5 3 1 2 2 2", ". . . . . . . 1 2 0")


def checked(x, y, n):
    """The places of the symbols of a row, from its layout alone."""
    context = x[:-n]
    assert (x[-n:] == 2).all() and (y[:-n] == -100).all()
    places = np.flatnonzero(context != 1)
    assert len(places) == n and context.min() >= 1 and (context != 2).all()
    np.testing.assert_array_equal(y[-n:], context[places].astype(int) - 3)
    return places


@pytest.mark.parametrize("length", [6, 7, 40])
def test_every_row_is_laid_out_as_said(length):
    rows = SelectiveCopyLaw(length, 3, 5).draw(np.random.default_rng(0), 500)
    places = np.array([checked(x, y, 3) for x, y in zip(rows["x"], rows["y"], strict=True)])
    assert rows["x"].shape == (500, length)
    if length > 6:
        assert stats.chisquare(np.bincount(places.ravel(), minlength=length - 3)).pvalue > 1e-3
    assert stats.chisquare(np.bincount(rows["y"][:, -1], minlength=5)).pvalue > 1e-3


def test_places_and_symbols_are_drawn_apart():
    rows = SelectiveCopyLaw(12, 2, 4).draw(np.random.default_rng(1), 4000)
    first = (rows["x"][:, :10] != 1).argmax(axis=1)
    joint = np.zeros((9, 4))
    np.add.at(joint, (first, rows["y"][:, -2]), 1)
    assert stats.chi2_contingency(joint).pvalue > 1e-3


def test_the_drawn_example_is_one():
    assert all(line in " ".join(SelectiveCopying.__doc__.split()) for line in DRAWN)
    x, y = (np.array([int(t) if t != "." else -100 for t in line.split()]) for line in DRAWN)
    checked(x, y, 3)


def test_symbols_must_fit(tmp_path):
    with pytest.raises(UserError, match="n_symbols=16 .* need max_length=32 or more, got 31"):
        SelectiveCopying(root=tmp_path, max_length=31)
    with pytest.raises(UserError, match="n_symbols=0: write a whole number from 1"):
        SelectiveCopying(root=tmp_path, n_symbols=0)
    # noise, go and 14 symbols are the paper's 16; padding is ours
    assert SelectiveCopying(root=tmp_path).spec.vocab == 17
