"""Intervals against closed forms and against how often they should be right."""

import math
import warnings

import numpy as np
import pytest

from lra.results.statistics import (
    binomial_interval,
    compare,
    interquartile_mean,
    left_chance,
    mean_interval,
    rank_stability,
)


def test_three_seeds_use_student_t():
    estimate = mean_interval([0.40, 0.42, 0.44])
    # t(0.975, 2 degrees of freedom) = 4.302653; standard error 0.02 / sqrt(3)
    assert estimate.mean == pytest.approx(0.42)
    assert estimate.half_width == pytest.approx(4.302653 * 0.02 / math.sqrt(3), rel=1e-6)
    assert estimate.n == 3


def test_one_seed_has_no_interval_and_none_is_refused():
    estimate = mean_interval([0.4])
    assert (estimate.mean, estimate.low, estimate.high, estimate.n) == (0.4, None, None, 1)
    assert estimate.half_width is None
    with pytest.raises(ValueError, match="missing, not 0"):
        mean_interval([])


@pytest.mark.parametrize("n", [3, 12])
def test_interval_covers_the_truth_about_as_often_as_it_says(n):
    rng = np.random.default_rng(1)
    trials = 200
    hits = 0
    for _ in range(trials):
        estimate = mean_interval(list(rng.normal(0.5, 0.02, n)))
        hits += estimate.low <= 0.5 <= estimate.high
    assert 0.87 <= hits / trials <= 0.99


def test_many_seeds_use_the_bootstrap_and_give_the_same_every_time():
    values = [0.5, 0.7, 0.5, 0.7, 0.5, 0.7, 0.5, 0.7, 0.5, 0.7]
    first, second = mean_interval(values), mean_interval(values)
    assert first == second
    assert 0.5 < first.low < 0.6 < first.high < 0.7


def test_equal_seeds_have_an_interval_of_no_width():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mean_interval([0.5] * 3).half_width == 0
        assert mean_interval([0.5] * 12).half_width == 0


def test_binomial_interval_is_clopper_pearson():
    low, high = binomial_interval(0.0, 10)
    assert low == 0 and high == pytest.approx(1 - 0.025 ** (1 / 10))
    low, high = binomial_interval(1.0, 10)
    assert low == pytest.approx(0.025 ** (1 / 10)) and high == 1
    with pytest.raises(ValueError, match="36.37"):
        binomial_interval(36.37, 2000)


def test_left_chance_needs_more_than_a_lucky_run():
    # 2,000 examples: half an interval near 36 % is 2.1 points
    assert not left_chance(0.37, 2000, 0.1, 0.36)
    assert left_chance(0.39, 2000, 0.1, 0.36)
    assert left_chance(0.15, 2000, 0.1, None)
    assert not left_chance(0.39, 20, 0.1, 0.36)


def test_compare_resolves_what_exceeds_the_seed_spread():
    far = compare([0.50, 0.51, 0.52], [0.40, 0.41, 0.42])
    near = compare([0.50, 0.41, 0.46], [0.45, 0.43, 0.44])
    assert far.verdict == "resolved" and far.difference == pytest.approx(0.10)
    assert far.low < 0.10 < far.high and far.low > 0 and far.p_value < 0.05
    assert near.verdict == "not resolved" and near.low < 0 < near.high


def test_compare_agrees_with_the_welch_formula():
    a, b = [0.5, 0.52, 0.57], [0.4, 0.47]
    found = compare(a, b)
    error = math.sqrt(np.var(a, ddof=1) / 3 + np.var(b, ddof=1) / 2)
    degrees = error**4 / ((np.var(a, ddof=1) / 3) ** 2 / 2 + (np.var(b, ddof=1) / 2) ** 2 / 1)
    from scipy.stats import t

    expected = 2 * t.sf(abs(np.mean(a) - np.mean(b)) / error, degrees)
    assert found.p_value == pytest.approx(expected)


def test_compare_of_few_or_equal_seeds():
    assert compare([0.5], [0.4, 0.41]).verdict == "n too small"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compare([0.5, 0.5], [0.5, 0.5]).verdict == "not resolved"
        assert compare([0.5, 0.5], [0.4, 0.4]).verdict == "resolved"
    with pytest.raises(ValueError, match="nothing to compare"):
        compare([], [0.4])


def test_the_interquartile_mean_leaves_out_both_ends():
    values = [0.0, 0.1, 0.50, 0.51, 0.52, 0.53, 0.54, 0.55, 0.56, 0.57, 0.9, 1.0]
    estimate = interquartile_mean(values)
    assert estimate.mean == pytest.approx(np.mean(values[3:9]))
    assert 0.35 < estimate.low < estimate.mean < estimate.high < 0.7
    assert interquartile_mean(values) == estimate
    few = interquartile_mean([0.1, 0.5, 0.6])
    assert (few.mean, few.low, few.high, few.n) == (pytest.approx(0.4), None, None, 3)
    same = interquartile_mean([0.5] * 12)
    assert (same.low, same.high) == (0.5, 0.5)
    with pytest.raises(ValueError, match="missing, not 0"):
        interquartile_mean([])


def test_ranks_are_sure_where_seeds_are_close_and_means_far():
    found = rank_stability({"worst": [0.1, 0.101, 0.102], "best": [0.9, 0.901, 0.902],
                            "middle": [0.5, 0.501, 0.502]})  # fmt: skip
    assert {name: (r.rank, r.low, r.high) for name, r in found.items()} == {
        "worst": (3, 3, 3), "best": (1, 1, 1), "middle": (2, 2, 2),
    }  # fmt: skip
    assert found["best"].shares[0] > 0.99


def test_ranks_of_equal_systems_are_a_toss():
    found = rank_stability({"a": [0.4, 0.5, 0.6], "b": [0.4, 0.5, 0.6]})
    assert (found["a"].rank, found["b"].rank) == (1, 1)
    assert (found["a"].low, found["a"].high) == (1, 2)
    assert found["a"].shares[0] == pytest.approx(0.5, abs=0.03)
    assert sum(found["a"].shares) == pytest.approx(1)


def test_shares_of_ranks_are_those_of_the_t_distribution():
    # one seed has no spread: b wins where t with 2 degrees of freedom exceeds 1
    found = rank_stability({"a": [0.5 + math.sqrt(0.01 / 3)], "b": [0.4, 0.5, 0.6]})
    assert found["b"].shares[0] == pytest.approx(0.2113, abs=0.03)
    with pytest.raises(ValueError, match="leave it out"):
        rank_stability({"a": []})
