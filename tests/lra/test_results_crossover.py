"""Cross-over lengths of curves whose answers are known."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from lra.results.crossover import crossover, drift_of, memory_crossover, time_crossover
from lra.results.curves import curve
from lra.results.schema import LengthRow

LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384)


def row(length: int, ms: float | None = 1.0, **changes) -> LengthRow:
    made = LengthRow(
        cell="c", model="performer", family="linear", level="model", mixer_knobs="{}",
        protocol="laptop", length=length, batch=1, causal=False, dim=64, heads=2, layers=2,
        pass_="forward", status="ok", median_ms=ms, cv=0.0, n_samples=25,
    )  # fmt: skip
    return replace(made, **changes)


def of(value, lengths=LENGTHS, error=0.0, **more):
    """The curve of a function of N."""
    return curve(((n, value(n), error) for n in lengths), **more)


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


def test_drift_shifts_a_whole_cell_and_widens_the_interval_by_as_much():
    found = crossover(of(lambda n: n), of(quadratic), drift=0.1)
    assert found.length == pytest.approx(2000)
    assert math.log(found.high / found.low) / 2 == pytest.approx(1.96 * 0.1, rel=0.1)
    # all lengths move together: curves that lie 10 % apart everywhere are not told apart
    apart = crossover(of(lambda n: 0.9 * n), of(lambda n: n), drift=0.2)
    assert apart.kind == "not resolvable"
    assert crossover(of(lambda n: 0.9 * n), of(lambda n: n)).kind == "always"


def test_drift_is_the_distance_of_cells_that_compute_the_same():
    one = [row(n, ms) for n, ms in ((256, 1.1), (512, 2.0))]
    other = [row(n, ms) for n, ms in ((256, 1.0), (512, 2.2), (1024, 4.0))]
    assert drift_of([(one, other)]) == pytest.approx(math.log(1.1))
    assert drift_of([(one, other), (other, other)]) < math.log(1.1)
    assert drift_of([]) is None and drift_of([(one, [])]) is None


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


@pytest.mark.parametrize(
    ("scale", "kind", "reach"),
    [
        (16800, "never", r"from N=1\d{4} to above N=16384"),
        (250, "always", r"from below N=256 to N=2\d\d"),
    ],
)
def test_what_was_measured_is_not_clipped_to_a_crossing(scale, kind, reach):
    # the draws disagree whether it crosses at all, but on little more than where
    found = crossover(of(lambda n: n, error=0.05), of(lambda n: n**2 / scale, error=0.05))
    assert (found.kind, found.length, found.low, found.high) == (kind, None, None, None)
    (note,) = found.notes
    assert re.fullmatch(f"its 95 % interval reaches {reach}", note)


@pytest.mark.parametrize("lengths", [(1024,), (1024, 2048), (1024, 2048, 4096)])
def test_draws_from_always_to_never_are_no_answer_however_short_the_range(lengths):
    found = crossover(of(lambda n: n, lengths, 0.05), of(lambda n: 1.001 * n, lengths, 0.05))
    assert (found.kind, found.length, found.low, found.high) == ("not resolvable", None, None, None)
    # where it does cross inside, too: below at the longest by less than the noise
    lengths = (1024, 2048)
    inside = crossover(of(lambda n: n, lengths, 0.5), of(lambda n: n**2 / 1500, lengths, 0.5))
    assert inside.kind == "not resolvable"


def test_few_samples_are_drawn_by_students_t():
    def ends(degrees):
        more = {"error": 0.02, "degrees": dict.fromkeys(LENGTHS, degrees)}
        found = crossover(of(lambda n: n, **more), of(lambda n: n**2 / 2048))
        return found.kind, math.log(found.high / found.low) / 2

    # at a measured length only its median counts: t(0.975, 3) = 3.182 against 1.960
    assert ends(3) == ("crosses", pytest.approx(3.182 * 0.02, rel=0.15))
    assert ends(10**6) == ("crosses", pytest.approx(1.960 * 0.02, rel=0.15))
    rows = [row(n, n / 100, cv=0.02, n_samples=4) for n in LENGTHS]
    few = time_crossover(rows, [row(n, n**2 / 204800) for n in LENGTHS])
    many = time_crossover(
        [replace(r, n_samples=100, cv=0.1) for r in rows], [row(n, n**2 / 204800) for n in LENGTHS]
    )
    # of equal standard errors the one from fewer samples is less sure
    assert few.high - few.low > 1.4 * (many.high - many.low)


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
    assert found.notes == ("baseline oom from N=4096", "baseline not measured from N=16384")
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


# -- what a comparison lacks ---------------------------------------------------------------------


def test_lengths_at_which_only_the_baseline_ran_are_said():
    theirs = [row(n, n**2 / 1e5) for n in LENGTHS]
    mine = [row(n, n / 100) for n in LENGTHS[:5]] + [row(8192, None, status="error")]
    found = time_crossover(mine, theirs)
    assert (found.kind, found.last, found.longest) == ("crosses", 4096, 16384)
    assert found.notes == ("system error at N=8192", "system not measured at N=16384")
    mine.append(row(16384, None, status="error"))
    assert time_crossover(mine, theirs).notes == ("system error from N=8192",)
    hole = [replace(r, status="nan", median_ms=None) if r.length == 512 else r for r in theirs]
    assert time_crossover(hole, theirs).notes == ("system nan at N=512",)
    assert time_crossover(theirs, hole).notes == ("baseline nan at N=512",)
    none = time_crossover([row(n, None, status="unsupported") for n in LENGTHS], theirs)
    assert (none.kind, none.notes) == ("no common lengths", ("system unsupported from N=256",))
    # where neither runs nothing is lacking
    ends = {"exceeded": {8192: "oom"}}
    both = crossover(of(lambda n: n, LENGTHS[:5], **ends), of(quadratic, LENGTHS[:5], **ends))
    assert (both.last, both.longest, both.notes) == (4096, 4096, ())


def test_memory_that_was_not_tracked_is_said():
    theirs = [row(n, peak_mem_mib=float(n)) for n in LENGTHS]
    found = memory_crossover([row(n) for n in LENGTHS], theirs)
    assert (found.kind, found.notes) == ("no common lengths", ("system not tracked from N=256",))


def test_dense_attention_in_disguise_beats_nothing():
    theirs = [row(n, n**2 / 1e5, peak_mem_mib=n**2 / 3000) for n in LENGTHS]
    # dense where it is faster, slower than attention where it is itself
    mine = [
        row(n, n**2 / (2e5 if n < 4096 else 5e4), peak_mem_mib=n**2 / 6000, degenerate=n < 4096)
        for n in LENGTHS
    ]
    found = time_crossover(mine, theirs)
    assert (found.kind, found.first) == ("never", 4096)
    assert found.notes == ("dense attention itself at N=256, N=512, N=1024, N=2048, left out",)
    memory = memory_crossover(mine, theirs)
    assert (memory.kind, memory.first, memory.notes) == ("always", 4096, found.notes)
    all_dense = time_crossover([replace(r, degenerate=True) for r in mine], theirs)
    assert all_dense.kind == "no common lengths" and "left out" in all_dense.notes[0]
