"""Samples, their summary, and what counts as a difference."""

import contextlib
import gc
import math
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch

from lra.errors import UserError
from lra.measurement.timing import (
    OVERHEAD_LIMIT,
    Summary,
    collector_stopped,
    overhead_frac,
    ratio,
    resolvable,
    sample_ms,
    timer_overhead_ms,
)


def recorder(calls: list[str], name: str) -> Callable[[], None]:
    return lambda: calls.append(name)


def test_all_are_warm_before_any_is_timed_then_in_turns() -> None:
    calls: list[str] = []
    functions = {name: recorder(calls, name) for name in "abc"}
    samples = sample_ms(functions, device="cpu", warmup=2, min_samples=4, max_samples=4)
    assert calls[:6] == list("aabbcc")
    rounds = ["".join(calls[i : i + 3]) for i in range(6, len(calls), 3)]
    assert rounds == ["abc", "bca", "cab", "abc"]
    assert {name: len(taken) for name, taken in samples.items()} == {"a": 4, "b": 4, "c": 4}


def test_setup_goes_before_each_turn_and_is_not_timed() -> None:
    calls: list[str] = []

    def setup(name: str) -> None:
        calls.append(f"setup {name}")
        time.sleep(0.01)

    samples = sample_ms(
        {"a": recorder(calls, "a")}, device="cpu", setup=setup, warmup=1, min_samples=3,
        max_samples=3,
    )  # fmt: skip
    assert calls == ["setup a", "a"] * 4
    assert min(samples["a"]) < 10


def test_milliseconds() -> None:
    samples = sample_ms(
        {"sleep": lambda: time.sleep(0.02)}, device="cpu", warmup=1, min_samples=3, max_samples=3
    )
    assert min(samples["sleep"]) >= 20
    assert min(samples["sleep"]) < 2000


def test_budget_ends_it_but_not_before_the_least_number() -> None:
    def sampled(**limits: float) -> int:
        functions = {"a": lambda: time.sleep(0.01)}
        return len(sample_ms(functions, device="cpu", warmup=1, **limits)["a"])  # type: ignore[arg-type]

    assert sampled(budget_s=0.0, min_samples=4, max_samples=50) == 4
    assert sampled(budget_s=60.0, min_samples=1, max_samples=6) == 6
    assert 1 <= sampled(budget_s=0.1, min_samples=1, max_samples=1000) <= 12


@pytest.mark.parametrize("wrong", [{"warmup": 0}, {"min_samples": 0}, {"max_samples": 2}])
def test_numbers_that_make_no_sense(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match="min_samples"):
        sample_ms({"a": lambda: None}, device="cpu", **wrong)  # type: ignore[arg-type]


def test_cuda_keeps_every_sample_of_every_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    asked: list[dict[str, object]] = []

    def do_bench(function: Callable[[], object], **options: object) -> list[float]:
        asked.append(options)
        return [1.0, 2.0]

    monkeypatch.setattr("triton.testing.do_bench", do_bench)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    functions: dict[str, Callable[[], object]] = {"a": lambda: None, "b": lambda: None}
    samples = sample_ms(functions, device="cuda", min_samples=3, max_samples=3, budget_s=0.6)
    assert samples == {"a": [1.0, 2.0] * 3, "b": [1.0, 2.0] * 3}
    assert all(options["return_mode"] == "all" for options in asked)
    assert asked[0]["rep"] == pytest.approx(100)


def test_collector_is_stopped_and_comes_back() -> None:
    with pytest.raises(KeyError), collector_stopped():
        assert not gc.isenabled() and gc.get_freeze_count() > 0
        raise KeyError
    assert gc.isenabled() and gc.get_freeze_count() == 0
    gc.disable()
    try:
        with collector_stopped():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_summary_of_known_samples() -> None:
    samples = list(range(1, 101))
    summary = Summary.of([float(x) for x in samples])
    assert (summary.median, summary.n) == (50.5, 100)
    assert summary.p20 == pytest.approx(20.8) and summary.p80 == pytest.approx(80.2)


def test_cv_is_that_of_normal_noise_and_ignores_interruptions() -> None:
    noise = np.random.default_rng(0).normal(10.0, 0.5, size=4000)
    assert Summary.of(noise.tolist()).cv == pytest.approx(0.05, rel=0.1)
    interrupted = [*noise, *[100.0] * 200]
    assert Summary.of(interrupted).cv == pytest.approx(0.05, rel=0.15)


def test_no_samples() -> None:
    with pytest.raises(UserError):
        Summary.of([])
    with pytest.raises(UserError):
        ratio([], [1.0])


def noisy(median: float, n: int, seed: int) -> list[float]:
    """Right-skewed, as times are."""
    return (median * np.random.default_rng(seed).lognormal(0, 0.1, size=n)).tolist()


def test_same_function_is_seldom_resolved() -> None:
    found = sum(resolvable(noisy(3, 30, seed), noisy(3, 30, seed + 1000)) for seed in range(100))
    assert found <= 12  # 5 of 100 are expected


def test_a_fifth_more_is_resolved_at_ten_percent_noise() -> None:
    for seed in range(20):
        slower, faster = noisy(3.6, 30, seed), noisy(3, 30, seed + 1000)
        compared = ratio(slower, faster)
        assert compared.resolvable and compared.low < compared.value < compared.high
        assert compared.value == pytest.approx(1.2, abs=0.15)
        assert ratio(faster, slower).resolvable


def test_words_for_a_difference() -> None:
    assert str(ratio(noisy(3, 30, 0), noisy(3, 30, 1))) == "not resolvable"
    assert str(ratio([6.0] * 9, [3.0] * 9)) == "2 (2 to 2)"


@pytest.mark.parametrize("n", [1, 2, 4])
def test_few_samples_resolve_nothing(n: int) -> None:
    assert not resolvable([9.0] * n, [1.0] * 30)


def test_timer_overhead_is_flagged_where_it_counts() -> None:
    nothing = sample_ms({"a": lambda: None}, device="cpu", max_samples=50)
    slow = sample_ms({"a": lambda: time.sleep(0.005)}, device="cpu", max_samples=5)
    assert overhead_frac(nothing) > OVERHEAD_LIMIT
    assert overhead_frac(slow) < OVERHEAD_LIMIT
    assert 0 < timer_overhead_ms() < 0.1
    assert math.isfinite(overhead_frac({**nothing, **slow}))
