"""Exponents and cross-over lengths of curves whose answers are known."""

import math
from dataclasses import replace

import numpy as np
import pytest

from lra.results.crossover import crossover, memory_crossover, time_crossover
from lra.results.curves import (
    curve,
    exceeds,
    fit,
    flop_curve,
    median_error,
    memory_curve,
    time_curve,
)
from lra.results.schema import LengthRow

LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384)
INF = math.inf


def row(length: int, ms: float | None = None, **changes) -> LengthRow:
    made = LengthRow(
        cell="c", model="performer", family="linear", level="model", mixer_knobs="{}",
        length=length, batch=1, causal=False, dim=64, heads=2, layers=2, pass_="forward",
        status="ok", median_ms=ms, cv=0.05, n_samples=25,
    )  # fmt: skip
    return replace(made, **changes)


def of(value, lengths=LENGTHS, error=0.0, exceeded=None):
    """The curve of a function of N."""
    return curve(((n, value(n), error) for n in lengths), exceeded)


# -- curves --------------------------------------------------------------------------------------


def test_unsorted_missing_and_impossible_values():
    made = curve([(4, 2.0, None), (1, 1.0, 0.1), (2, None, 0.0), (3, math.nan, 0.0), (5, INF, 0.0),
                  (6, 0.0, 0.0), (7, -1.0, 0.0)])  # fmt: skip
    assert (made.lengths, made.values, made.errors) == ((1, 4), (1.0, 2.0), (0.1, None))
    with pytest.raises(ValueError, match="two values at one of the lengths"):
        curve([(1, 1.0, 0.0), (1, 2.0, 0.0)])


def test_rows_to_curves_of_one_sequence():
    rows = [
        row(512, 8.0, batch=2, peak_mem_mib=30.0, gflop=4.0, flop_coverage=1.0),
        row(256, 6.0, batch=4, peak_mem_mib=20.0, gflop=2.0, flop_coverage=0.9),
        row(1024, status="oom", pred_mem_mib=99.0), row(2048, status="timeout"),
        row(4096, status="nan"),
    ]  # fmt: skip
    times = time_curve(rows)
    assert (times.lengths, times.values) == ((256, 512), (1.5, 4.0))
    assert times.errors == pytest.approx((math.sqrt(math.pi / 2) * 0.05 / 5,) * 2)
    assert dict(times.exceeded) == {1024: "oom", 2048: "timeout"}
    memory = memory_curve(rows)
    assert (memory.values, dict(memory.exceeded)) == ((5.0, 15.0), {1024: "oom"})
    assert memory_curve(rows, predicted=True).lengths == (1024,)
    # operations that are not all counted are no count
    assert flop_curve(rows).lengths == (512,)
    assert median_error(row(1, 1.0, cv=None)) is None
    assert median_error(row(1, 1.0, n_samples=0)) is None


def test_a_median_errs_as_much_as_it_is_said_to():
    rng = np.random.default_rng(0)
    medians = np.median(rng.normal(10.0, 0.5, (20000, 25)), axis=1)
    said = median_error(row(1, 10.0, cv=0.05, n_samples=25))
    assert medians.std() / 10 == pytest.approx(said, rel=0.05)


def test_a_time_too_fast_to_be_true_is_missing():
    flagged = row(512, 1e-6, reason="too fast to be true: 9 x the roofline")
    assert time_curve([row(256, 1.0), flagged]).lengths == (256,)


# -- exponents -----------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [0.0, 1.0, 1.5, 2.0])
def test_a_pure_power_is_found_exactly(power):
    found = fit(of(lambda n: 3.0 * n**power))
    assert found.exponent == pytest.approx(power, abs=1e-9)
    assert found.high - found.low < 1e-6
    assert (found.first, found.last) == (2048, 16384)


def test_lower_terms_at_short_lengths_do_not_count():
    found = fit(of(lambda n: 1e6 + n**2))
    assert 1.85 < found.exponent < 2 and found.high > 1.98


def test_three_points_are_all_used_and_two_too_few():
    found = fit(of(lambda n: n, LENGTHS[:3]))
    assert (found.first, found.last) == (256, 1024)
    assert fit(of(lambda n: n, LENGTHS[:2])) is None
    assert fit(of(lambda n: n, ())) is None


def test_the_interval_is_students():
    values = (1.0, 2.5, 3.5, 8.5)
    found = fit(curve((n, v, 0.0) for n, v in zip(LENGTHS, values, strict=False)))
    x, y = np.log(LENGTHS[:4]), np.log(values)
    slope, offset = np.polyfit(x, y, 1)
    error = math.sqrt(((y - offset - slope * x) ** 2).sum() / 2 / ((x - x.mean()) ** 2).sum())
    # t(0.975, 2 degrees of freedom) = 4.302653
    assert (found.low, found.high) == pytest.approx(
        (slope - 4.302653 * error, slope + 4.302653 * error), rel=1e-6
    )


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(300):
        noisy = {n: n**1.5 * math.exp(0.1 * rng.standard_normal()) for n in LENGTHS}
        found = fit(of(noisy.get))
        covered += found.low <= 1.5 <= found.high
    assert 0.91 <= covered / 300 <= 0.985


@pytest.mark.parametrize(
    ("grows", "claim", "wrong"),
    [
        (lambda n: n**2, "N d", True),
        (lambda n: n**2, "N^2 d", False),
        (lambda n: n, "N^2 d", False),
        (lambda n: n * math.log(n), "N log N d + N d^2", False),
        (lambda n: n * math.log(n), "N block_size d", True),
        (lambda n: n**1.2, "N log N d", False),
        (lambda n: n**1.5, "N log N d", True),
    ],
)
def test_a_claim_that_a_curve_outgrows_is_flagged(grows, claim, wrong):
    assert exceeds(fit(of(grows)), claim) == wrong


def test_noise_is_no_breach_of_a_claim():
    noisy = of(lambda n: n * (1.6 if n in (4096, 16384) else 1.0))
    assert fit(noisy).exponent > 1.1 and not exceeds(fit(noisy), "N d")


# -- cross-over lengths --------------------------------------------------------------------------


def quadratic(n):
    return n**2 / 2000


def test_curves_without_noise_cross_where_algebra_says():
    # n^2 / 2000 = n at 2000: interpolated in the logarithms a power crosses a power exactly
    found = crossover(of(lambda n: n), of(quadratic))
    assert found.kind == "crosses" and found.length == pytest.approx(2000)
    assert (found.low, found.high) == pytest.approx((2000, 2000))
    assert (found.first, found.last, found.notes) == (256, 16384, ())


def test_the_interval_is_that_of_the_noise():
    # at the crossing the ratio falls with the power -1: 2 % and 2 % make sqrt(8) % of length
    found = crossover(of(lambda n: n, error=0.02), of(quadratic, error=0.02))
    assert found.length == pytest.approx(2000)
    spread = 1.96 * math.hypot(0.02, 0.02)
    # beside a measured length only one of the two medians counts
    assert math.log(found.high / found.low) / 2 == pytest.approx(spread, rel=0.1)
    again = crossover(of(lambda n: n, error=0.02), of(quadratic, error=0.02))
    assert again == found


def test_the_interval_covers_the_crossing_as_often_as_it_says():
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(200):
        noise = {n: np.exp(0.03 * rng.standard_normal(2)) for n in LENGTHS}
        mine = of(lambda n, z=noise: n * z[n][0], error=0.03)
        theirs = of(lambda n, z=noise: n**2 / 2900 * z[n][1], error=0.03)
        found = crossover(mine, theirs)
        covered += found.low <= 2900 <= found.high
    assert covered / 200 >= 0.92


@pytest.mark.parametrize(
    ("system", "baseline", "kind"),
    [
        (lambda n: 0.1 * n, lambda n: n, "always"),
        (lambda n: n, lambda n: 0.1 * n, "never"),
        # exactly as large is not smaller
        (lambda n: n, lambda n: n, "never"),
    ],
)
def test_curves_that_do_not_cross(system, baseline, kind):
    found = crossover(of(system), of(baseline))
    assert (found.kind, found.length, found.low, found.high) == (kind, None, None, None)
    assert (found.first, found.last) == (256, 16384)


def test_equal_curves_are_not_resolvable():
    found = crossover(of(lambda n: n, error=0.03), of(lambda n: n, error=0.03))
    assert found.kind == "not resolvable" and found.length is None
    # two that run side by side, closer than their noise
    near = crossover(of(lambda n: n, error=0.05), of(lambda n: 1.01 * n, error=0.05))
    assert near.kind == "not resolvable"
    # where nothing is resolved, neither is what happens at single lengths
    split = of(lambda n: n * (1.5 if n == 512 else 0.5 if n == 256 else 1.0), error=0.05)
    found = crossover(split, of(lambda n: n, error=0.05))
    assert (found.kind, found.notes) == ("not resolvable", ())
    far = crossover(of(lambda n: n, error=0.005), of(lambda n: 1.2 * n, error=0.005))
    assert far.kind == "always"


def test_a_crossing_near_an_end_has_an_open_interval():
    late = crossover(of(lambda n: n, error=0.05), of(lambda n: n**2 / 16000, error=0.05))
    assert late.kind == "crosses" and late.high is None
    assert 13000 < late.low < late.length == pytest.approx(16000)
    early = crossover(of(lambda n: n, error=0.05), of(lambda n: n**2 / 260, error=0.05))
    assert early.kind == "crosses" and early.low is None
    assert early.length == pytest.approx(260) and 260 < early.high < 300
    # the draws disagree whether it crosses at all, but on little more than where
    edge = crossover(of(lambda n: n, error=0.05), of(lambda n: n**2 / 16800, error=0.05))
    assert (edge.kind, edge.length, edge.high) == ("crosses", 16384, None)


def test_of_several_crossings_the_last_counts_and_the_others_are_said():
    wins = (256, 512, 2048, 8192, 16384)
    found = crossover(of(lambda n: 0.5 if n in wins else 2.0), of(lambda n: 1.0))
    assert found.kind == "crosses" and found.length == pytest.approx(math.sqrt(4096 * 8192))
    assert found.notes == ("below also at N=256, N=512, N=2048, not in between",)
    noisy = crossover(of(lambda n: 0.9 if n in wins else 1.1, error=0.06), of(lambda n: 1.0))
    assert noisy.notes == ()
    dips = crossover(of(lambda n: 0.5 if n == 512 else 2.0), of(lambda n: 1.0))
    assert dips.kind == "never" and "below also at N=512" in dips.notes[0]


def test_a_baseline_out_of_memory_is_beaten_from_there():
    baseline = of(lambda n: 0.5 * n, LENGTHS[:4], exceeded={4096: "oom", 8192: "oom"})
    found = crossover(of(lambda n: n), baseline)
    # nothing to interpolate with: the first length at which it did not run
    assert (found.kind, found.length, found.last) == ("crosses", 4096, 8192)
    assert found.notes == ("baseline oom from N=4096",)
    reverse = crossover(baseline, of(lambda n: n))
    assert reverse.kind == "never" and reverse.notes[0] == "system oom from N=4096"
    assert "below also at N=256" in reverse.notes[1]
    both = crossover(baseline, of(lambda n: n, LENGTHS[:4], exceeded={4096: "timeout"}))
    assert (both.kind, both.last) == ("always", 2048)


def test_what_is_not_measured_on_both_sides_is_not_compared():
    found = crossover(of(lambda n: n, (1024, 256, 4096, 9999)), of(quadratic))
    assert (found.first, found.last) == (256, 4096)
    assert found.length == pytest.approx(2000)
    assert crossover(of(lambda n: n, (100, 200)), of(quadratic)).kind == "no common lengths"
    assert crossover(curve([]), curve([])).kind == "no common lengths"
    one = crossover(of(lambda n: 2.0, (512,)), of(lambda n: 1.0))
    assert (one.kind, one.first, one.last) == ("never", 512, 512)


def test_unknown_noise_is_said():
    found = crossover(of(lambda n: n, error=None), of(quadratic))
    assert found.length == pytest.approx(2000) and found.notes == ("noise of some medians unknown",)


def test_rows_cross_in_time_and_memory():
    mine = [row(n, n / 100, peak_mem_mib=n / 10) for n in LENGTHS]
    theirs = [row(n, n**2 / 1e5, peak_mem_mib=n**2 / 3000) for n in LENGTHS]
    assert time_crossover(mine, theirs).length == pytest.approx(1000)
    assert memory_crossover(mine, theirs).length == pytest.approx(300)


def test_memory_is_compared_as_predicted_where_one_of_two_could_not_be_measured():
    mine = [row(n, 1.0, peak_mem_mib=1000.0, pred_mem_mib=1000.0) for n in LENGTHS]
    theirs = [
        row(n, 1.0, peak_mem_mib=n / 10, pred_mem_mib=n / 10) if n < 4096
        else row(n, status="oom", pred_mem_mib=n / 10) for n in LENGTHS
    ]  # fmt: skip
    found = memory_crossover(mine, theirs)
    assert found.length == pytest.approx(10000)
    assert found.notes == ("predicted at N=4096, N=8192, N=16384",)
    # without a prediction its failure is all that is known
    blind = [replace(r, pred_mem_mib=None) for r in theirs]
    assert memory_crossover(mine, blind).length == 4096
    # a time limit says nothing of memory
    slow = [replace(r, status="timeout") if r.status == "oom" else r for r in blind]
    assert memory_crossover(mine, slow).last == 2048
