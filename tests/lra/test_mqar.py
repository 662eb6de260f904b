"""Multi-query associative recall: the layout of a row, its distribution, its limits."""

import numpy as np
import pytest
from scipy import stats

from lra.errors import UserError
from lra.tasks.mqar import MQAR, RecallLaw

DRAWN = ("4 7 2 9 2 1 4 1 1 1 1 1", ". . . . 4 . 2 . . . . .")


def checked(x, y, pairs, vocab, blank=True):
    """The gaps of a row's queries, by key, from its layout alone."""
    keys, values = x[: 2 * pairs : 2], x[1 : 2 * pairs : 2]
    assert len(set(keys)) == len(set(values)) == pairs
    assert keys.min() >= 2 and keys.max() < vocab // 2 <= values.min() and values.max() < vocab
    of = dict(zip(keys.tolist(), values.tolist(), strict=True))
    (places,) = np.nonzero(y != -100)
    assert sorted(x[places].tolist()) == sorted(of)
    assert [of[key] - vocab // 2 for key in x[places].tolist()] == y[places].tolist()
    gaps = places - 2 * pairs
    assert (gaps % 2 == 0).all() and gaps.min() >= 0
    rest = np.delete(x[2 * pairs :], gaps)
    assert (rest == 1).all() if blank else rest.min() >= 2
    place_of = dict(zip(x[places].tolist(), (gaps // 2).tolist(), strict=True))
    return [place_of[key] for key in keys.tolist()]


@pytest.mark.parametrize("length, pairs", [(12, 3), (13, 3), (40, 1), (60, 8)])
@pytest.mark.parametrize("noisy", [False, True])
def test_every_row_is_laid_out_as_said(length, pairs, noisy):
    rows = RecallLaw(length, pairs, 21, 0.01, noisy).draw(np.random.default_rng(0), 300)
    assert rows["x"].shape == (300, length)
    for x, y in zip(rows["x"], rows["y"], strict=True):
        checked(x, y, pairs, 21, blank=not noisy)
    counts = np.bincount(rows["y"][rows["y"] != -100], minlength=11)
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("power_a", [0.01, 0.5, 1.0])
def test_gaps_follow_the_power_law(power_a):
    """The first key is asked in slot g with chance g^(a - 1) over the sum of them all."""
    rows = RecallLaw(28, 2, 12, power_a, False).draw(np.random.default_rng(1), 20_000)
    gaps = [checked(x, y, 2, 12) for x, y in zip(rows["x"], rows["y"], strict=True)]
    chance = np.arange(1, 13) ** (power_a - 1)
    counts = np.bincount([first for first, _ in gaps], minlength=12)
    assert stats.chisquare(counts, chance / chance.sum() * len(gaps)).pvalue > 1e-3


def test_the_drawn_example_is_one():
    assert all(line in " ".join(MQAR.__doc__.split()) for line in DRAWN)
    x, y = (np.array([int(t) if t != "." else -100 for t in line.split()]) for line in DRAWN)
    assert checked(x, y, 2, 10) == [1, 0]


@pytest.mark.parametrize(
    "knobs, says",
    [
        (dict(max_length=255), "num_pairs=64 .* need max_length=256 or more, got 255"),
        (dict(vocab_size=131), "num_pairs=64 .* need vocab_size=132 or more, got 131"),
        (dict(power_a=0), "power_a=0: write a number above 0"),
        (dict(power_a="steep"), "power_a=steep: write a number"),
        (dict(random_non_queries=1), "random_non_queries=1: write true or false"),
        (dict(num_pairs=0), "num_pairs=0: write a whole number from 1"),
    ],
    ids=str,
)
def test_pairs_must_fit(knobs, says, tmp_path):
    with pytest.raises(UserError, match=says):
        MQAR(root=tmp_path, **knobs)


def test_the_tightest_rows_can_be_drawn(tmp_path):
    tight = MQAR(root=tmp_path, n_train=20, n_val=5, n_test=5, max_length=256, vocab_size=132)
    assert (tight.spec.classes, tight.spec.vocab) == (66, 132)
    assert all(len(set(x)) == 64 * 2 + 1 for x in tight.build("train")["x"])
