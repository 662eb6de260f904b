"""Copying: the layout of a row, its distribution, its limits."""

import numpy as np
import pytest
from scipy import stats

from lra.errors import UserError
from lra.tasks.copying import Copying, CopyLaw

DRAWN = ("5 3 4 1 1 1 2 1 1 1", ". . . . . . . 2 0 1")


def checked(x, y, n):
    """The symbols of a row, from its layout alone."""
    assert (x[n : -n - 1] == 1).all() and x[-n - 1] == 2 and (x[-n:] == 1).all()
    assert (y[:-n] == -100).all()
    np.testing.assert_array_equal(y[-n:], x[:n].astype(int) - 3)
    return x[:n]


@pytest.mark.parametrize("length", [7, 8, 50])
def test_every_row_is_laid_out_as_said(length):
    rows = CopyLaw(length, 3, 5).draw(np.random.default_rng(0), 500)
    symbols = np.array([checked(x, y, 3) for x, y in zip(rows["x"], rows["y"], strict=True)])
    assert rows["x"].shape == (500, length)
    # 125 different rows, each as likely as any other
    counts = np.bincount(((symbols.astype(int) - 3) * [25, 5, 1]).sum(1), minlength=125)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_the_drawn_example_is_one():
    assert all(line in " ".join(Copying.__doc__.split()) for line in DRAWN)
    x, y = (np.array([int(t) if t != "." else -100 for t in line.split()]) for line in DRAWN)
    checked(x, y, 3)


def test_a_symbol_says_nothing_of_another():
    """What a model without memory of the place can know is the chance and the last symbol."""
    rows = CopyLaw(30, 10, 8).draw(np.random.default_rng(1), 4000)
    joint = np.zeros((8, 8))
    np.add.at(joint, (rows["y"][:, -1], rows["y"][:, -2]), 1)
    assert stats.chi2_contingency(joint).pvalue > 1e-3


def test_symbols_must_fit(tmp_path):
    with pytest.raises(UserError, match="n_symbols=10 .* need max_length=21 or more, got 20"):
        Copying(root=tmp_path, max_length=20)
    with pytest.raises(UserError, match="n_values=1: write a whole number from 2"):
        Copying(root=tmp_path, n_values=1)
    assert Copying(root=tmp_path, max_length=21).spec.vocab == 11
