"""The generator: every tree obeys the law and its label is its value; the distribution is right."""

import hashlib
from itertools import islice

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from lra.data.listops_set import distinct_trees, split_of
from lra.data.listops_trees import OFFICIAL, OPERATORS, TOKENS, TreeLaw, Trees, draw_chunk
from lra.errors import UserError

TEXTS = {token: text for text, token in TOKENS.items()}
LAPTOP = TreeLaw(max_depth=6, max_args=5, min_length=32, max_length=128)


def rows(trees):
    """(token ids, label) of each tree."""
    parts = np.split(trees.tokens, np.cumsum(trees.lengths))[:-1]
    return zip((part.tolist() for part in parts), trees.labels.tolist(), strict=True)


def joined(parts):
    return Trees(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def parse(tokens):
    """Nested lists [name, child, ...] from token ids, written apart from the generator."""
    stack = [[]]
    for text in map(TEXTS.__getitem__, tokens):
        if text == "]":
            node = stack.pop()
            stack[-1].append(node)
        elif text[0] == "[":
            stack.append([text[1:]])
        else:
            stack[-1].append(int(text))
    (top,) = stack
    (tree,) = top
    return tree


def evaluate(tree):
    if isinstance(tree, int):
        return tree
    name, *children = tree
    values = [evaluate(child) for child in children]
    return {
        "MIN": lambda: min(values),
        "MAX": lambda: max(values),
        "MED": lambda: int(np.median(values)),
        "SM": lambda: sum(values) % 10,
        "FIRST": lambda: values[0],
        "LAST": lambda: values[-1],
    }[name]()


def depth(tree):
    return 1 if isinstance(tree, int) else 1 + max(map(depth, tree[1:]))


def operators(tree):
    """(name, number of arguments) of every operator below the root, and of the root."""
    if isinstance(tree, int):
        return []
    return [(tree[0], len(tree) - 1), *(o for child in tree[1:] for o in operators(child))]


@settings(max_examples=30, deadline=None)
@given(
    max_depth=st.integers(2, 6),
    max_args=st.integers(2, 12),
    min_length=st.integers(0, 30),
    room=st.integers(2, 40),
    names=st.sets(st.sampled_from(sorted(OPERATORS)), min_size=1),
    seed=st.integers(0, 2**40),
)
def test_every_tree_obeys_the_law_and_has_its_value(
    max_depth, max_args, min_length, room, names, seed
):
    try:
        law = TreeLaw(max_depth, max_args, min_length, min_length + room, tuple(names))
    except UserError:
        assume(False)
    for tokens, label in islice(rows(draw_chunk(law, seed, 0)), 40):
        tree = parse(tokens)
        assert evaluate(tree) == label
        assert min_length < len(tokens) < min_length + room
        assert depth(tree) <= max_depth
        assert all(name in names and 2 <= args <= max_args for name, args in operators(tree))


def test_both_bounds_are_strict_and_reached():
    law = TreeLaw(max_depth=3, max_args=10, min_length=4, max_length=9)
    lengths = draw_chunk(law, 0, 0).lengths
    assert set(lengths.tolist()) == {5, 6, 7, 8}


def exact_lengths(law):
    """P(length) of a tree whose root is an operator, from the recursion of probabilities."""
    size = law.max_length
    leaf = np.eye(1, size, 1)[0]

    def times(a, b):
        return np.convolve(a, b)[:size]

    def of_operator(child):
        power, total = child, np.zeros(size)
        for _ in range(2, law.max_args + 1):
            power = times(power, child)
            total += power / (law.max_args - 1)
        return np.concatenate([[0, 0], total[:-2]])

    child = leaf
    for _ in range(law.max_depth - 2):
        child = 0.75 * leaf + 0.25 * of_operator(child)
    return of_operator(child)


def test_lengths_follow_the_exact_distribution():
    law = TreeLaw(max_depth=5, max_args=6, min_length=3, max_length=60)
    parts = [draw_chunk(law, 1, i) for i in range(4)]
    lengths = joined(parts).lengths
    expected = exact_lengths(law)[4:60] * 4 * law.candidates
    observed = np.bincount(lengths, minlength=60)[4:60]
    inside = expected > 5
    # also tests how many trees are kept of those begun
    statistic = ((observed - expected) ** 2 / expected)[inside].sum()
    assert stats.chi2.sf(statistic, inside.sum()) > 1e-3
    assert inside.sum() > 40


def test_digits_and_operators_are_uniform():
    trees = draw_chunk(LAPTOP, 2, 0)
    counts = np.bincount(trees.tokens, minlength=17)
    assert stats.chisquare(counts[1:11]).pvalue > 1e-3
    assert stats.chisquare(counts[11:15]).pvalue > 1e-3
    assert counts[0] == counts[16] == 0
    assert counts[11:15].sum() == counts[15]


def test_the_official_distribution_has_the_published_figures():
    """Figures of 20,000 trees of the official program; bands are 3 standard errors or more."""
    trees = joined(distinct_trees(TreeLaw(), 12_000, 0, 1))
    quantiles = np.quantile(trees.lengths, [0.05, 0.25, 0.5, 0.75, 0.95])
    assert np.abs(quantiles - [540, 706, 961, 1315, 1805]).max() < 30
    assert trees.lengths.mean() == pytest.approx(1039, abs=15)
    share = np.bincount(trees.labels, minlength=10) / trees.labels.size
    assert share[0] == pytest.approx(0.170, abs=0.015)
    assert share[9] == pytest.approx(0.167, abs=0.015)
    assert share[1:9].min() > 0.065 and share[1:9].max() < 0.1
    root = trees.tokens[np.cumsum(trees.lengths) - trees.lengths]
    votes = np.zeros((17, 10))
    np.add.at(votes, (root, trees.labels), 1)
    per_root = votes[11:14].max(axis=1) / votes[11:14].sum(axis=1)
    assert votes[11:14].argmax(axis=1).tolist() == [0, 9, 4]
    assert np.abs(per_root - [0.576, 0.570, 0.213]).max() < 0.04
    assert votes.max(axis=1).sum() / votes.sum() == pytest.approx(0.363, abs=0.02)
    few = [parse(tokens) for tokens, _ in islice(rows(trees), 3000)]
    args = np.bincount([len(tree) - 1 for tree in few], minlength=11) / len(few)
    assert args[10] == pytest.approx(0.16, abs=0.03)
    assert args[2] == pytest.approx(0.046, abs=0.015)


def test_the_stream_does_not_depend_on_the_number_of_workers():
    law = TreeLaw(min_length=100, max_length=400)
    alone, three = (list(distinct_trees(law, 9000, 5, workers)) for workers in (1, 3))
    assert len(alone) > 2
    for a, b in zip(alone, three, strict=True):
        for column_a, column_b in zip(a, b, strict=True):
            np.testing.assert_array_equal(column_a, column_b)


def test_a_seed_keeps_its_trees():
    """Published results name a seed: whoever changes what it draws must raise GENERATOR."""
    trees = draw_chunk(LAPTOP, 0, 0)
    digest = hashlib.sha256(trees.tokens.tobytes() + trees.labels.tobytes()).hexdigest()
    assert digest[:16] == "b6ba519198e247a8"


def test_seeds_and_chunks_draw_different_trees():
    chunks = [draw_chunk(LAPTOP, seed, i) for seed in (0, 1) for i in (0, 1)]
    seen = [{tuple(tokens) for tokens, _ in rows(chunk)} for chunk in chunks]
    for i, a in enumerate(seen):
        for b in seen[:i]:
            assert len(a & b) < 0.01 * len(a)


def test_no_tree_comes_twice_and_the_count_is_kept():
    # 4,400 different trees: repetitions must occur and go
    law = TreeLaw(max_depth=2, max_args=10, min_length=3, max_length=6)
    trees = joined(distinct_trees(law, 3000, 0, 1))
    assert trees.labels.size == 3000
    assert len({tuple(tokens) for tokens, _ in rows(trees)}) == 3000


def test_splits_of_a_small_support_have_one_distribution():
    """Short trees come early in a stream without repetitions, so slices of it would differ."""
    law = TreeLaw(max_depth=2, max_args=10, min_length=3, max_length=6)
    lengths = joined(distinct_trees(law, 4000, 0, 1)).lengths
    split = split_of([2000, 2000], 0)
    assert stats.ttest_ind(lengths[:2000], lengths[2000:]).pvalue < 1e-6
    assert stats.ttest_ind(lengths[split == 0], lengths[split == 1]).pvalue > 1e-3


@pytest.mark.parametrize(
    "law, n, says",
    [
        (TreeLaw(max_depth=2, min_length=3, max_length=6), 5000, "different trees"),
        (TreeLaw(max_args=2, min_length=4, max_length=6), 10, "widen the bounds"),
        (TreeLaw(max_depth=3, max_args=9, min_length=80, max_length=90), 10, "1 in 10,000"),
    ],
    ids=["exhausted", "no such length", "rare"],
)
def test_what_cannot_be_drawn_ends_with_advice(law, n, says):
    with pytest.raises(UserError, match=says):
        list(distinct_trees(law, n, 0, 1))


@pytest.mark.parametrize(
    "knobs, says",
    [
        (dict(min_length=500, max_length=501), "max_length to 502"),
        (dict(min_length=0, max_length=4), "max_length to 5"),
        (dict(max_depth=3, max_args=4, min_length=32, max_length=99), "has 26 tokens"),
        (dict(max_depth=1), "max_depth=1"),
        (dict(max_args=1), "max_args=1"),
        (dict(max_args=256), "max_args=256"),
        (dict(operators=()), "write a list"),
        (dict(operators="MIN"), "write a list"),
        (dict(operators=("MIN", "MAXX")), "did you mean 'MAX'"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_impossible_laws_are_refused(knobs, says):
    with pytest.raises(UserError, match=says):
        TreeLaw(**knobs)


def test_the_order_of_operators_is_not_a_knob():
    assert TreeLaw(operators=OFFICIAL[::-1]) == TreeLaw()
