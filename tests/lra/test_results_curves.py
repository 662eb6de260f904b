"""Curves of rows, and exponents of curves whose answers are known."""

import math
from dataclasses import replace

import numpy as np
import pytest

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
        protocol="laptop", length=length, batch=1, causal=False, dim=64, heads=2, layers=2,
        pass_="forward", status="ok", median_ms=ms, cv=0.05, n_samples=25,
    )  # fmt: skip
    return replace(made, **changes)


def of(value, lengths=LENGTHS):
    """The curve of a function of N."""
    return curve((n, value(n), 0.0) for n in lengths)


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
    assert dict(times.failed) == {4096: "nan"}
    assert dict(times.degrees) == {n: 24 for n in (256, 512, 1024, 2048, 4096)}
    memory = memory_curve(rows)
    assert (memory.values, dict(memory.exceeded)) == ((5.0, 15.0), {1024: "oom"})
    assert dict(memory.failed) == {2048: "timeout", 4096: "nan"}
    assert dict(memory_curve([row(256, 1.0)]).failed) == {256: "not tracked"}
    assert memory_curve(rows, predicted=True).lengths == (1024,)
    # operations that are not all counted are no count
    assert flop_curve(rows).lengths == (512,)
    assert median_error(row(1, 1.0, cv=None)) is None
    # of a single sample too: it has no spread
    assert {median_error(row(1, 1.0, cv=0.0, n_samples=n)) for n in (None, 0, 1)} == {None}


def test_a_median_errs_as_much_as_it_is_said_to():
    rng = np.random.default_rng(0)
    medians = np.median(rng.normal(10.0, 0.5, (20000, 25)), axis=1)
    said = median_error(row(1, 10.0, cv=0.05, n_samples=25))
    assert medians.std() / 10 == pytest.approx(said, rel=0.05)


def test_a_time_too_fast_to_be_true_is_missing():
    flagged = row(512, 1e-6, reason="too fast to be true: 9 x the roofline")
    times = time_curve([row(256, 1.0), flagged])
    assert times.lengths == (256,) and dict(times.failed) == {512: "too fast to be true"}


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
