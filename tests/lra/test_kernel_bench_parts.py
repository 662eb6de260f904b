"""What timing an op is made of: truth, inputs, the roofline, time limits, the lengths left out."""

import signal

import pytest
import torch

from kernels.tolerance import Closeness
from lra.kernel_bench import rows
from lra.kernel_bench.bench import Frontier
from lra.kernel_bench.call import Call, Truth
from lra.kernel_bench.draw import Case, Draw, Inputs
from lra.kernel_bench.entry import Entry
from lra.kernel_bench.inputs.attention import visible
from lra.measurement.attempt import CallTooLong, Wrong, at_most
from lra.measurement.lock import DeviceLock
from lra.measurement.roofline import Roofline, ideal_ms

CASE = Case(op="toy", variant={}, dtype="float32", batch=1, heads=1, length=4, head_dim=2)


def doubled(x, *, by, backend):
    """One backend forgets the second half, one does not pass a gradient on."""
    y = x * by
    if backend == "blind":
        y = torch.where(torch.arange(4) < 2, y, 0)
    return (y.detach() + 0 * x if backend == "stopped" else y), torch.zeros(1)


def test_truth_holds_output_and_gradients():
    inputs = Inputs(tensors={"x": torch.randn(4), "by": torch.tensor(2)})
    call = Call(doubled, inputs)
    truth = Truth(call, "right", grads=True)
    assert inputs.wanted == ["x"] and truth.exact["output"].dtype == torch.float64
    assert isinstance(truth.hold(call.results("right", "forward_backward")), Closeness)
    with pytest.raises(Wrong, match="output"):
        truth.hold(call.results("blind", "forward"))
    truth.hold(call.results("stopped", "forward"))
    with pytest.raises(Wrong, match="grad x"):
        truth.hold(call.results("stopped", "forward_backward"))


def test_inputs_are_the_same_twice_and_another_seed_gives_others():
    drawn = [Draw(CASE, torch.device("cpu"), seed).normal(5) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, (0, 0), (2, 1), (3, 0), (50, 50)])
def test_visible_pairs_are_those_of_the_mask(causal, window):
    relative = torch.arange(9) - torch.arange(9)[:, None]
    mask = torch.ones(9, 9, dtype=torch.bool)
    if causal:
        mask &= relative <= 0
    if window is not None:
        mask &= (relative >= -window[0]) & (relative <= window[1])
    assert visible(9, causal, window) == int(mask.sum())


def test_ideal_time_is_the_longer_of_work_and_copy():
    # 2 GFLOP at 1 TFLOP/s are 2 ms
    assert ideal_ms(2.0, 1.0, 0.5) == 2.0
    assert ideal_ms(2.0, 1.0, 3.0) == 3.0
    assert ideal_ms(None, 1.0, 3.0) == 3.0


def timed(copy_ms: float) -> Entry:
    """A backend that takes 2 ms where a copy takes that long."""
    return Entry(
        backend="eager", pass_="forward", samples=[2.0] * 9, copy_ms=copy_ms, moved_bytes=8
    )


@pytest.mark.parametrize(
    ("copy_ms", "share", "reason"),
    [(1.0, 0.5, None), (2.1, 1.05, None), (4.0, 2.0, "too fast to be true: 2 x the roofline")],
)
def test_too_fast_to_be_true_is_said(copy_ms, share, reason):
    found = rows._measured(timed(copy_ms), 1.0, "cuda")
    assert found["roofline_frac"] == pytest.approx(share) and found["reason"] == reason


def test_a_timer_that_is_not_small_is_said(monkeypatch):
    monkeypatch.setattr(rows, "timer_overhead_ms", lambda: 0.1)
    assert rows._measured(timed(1.0), 1.0, "cpu")["reason"] == "the timer takes 5% of it"
    assert rows._measured(timed(1.0), 1.0, "cuda")["reason"] is None


def test_the_roofline_is_that_of_a_product():
    lock = DeviceLock("cpu")
    peak = Roofline(torch.device("cpu"), lock).tflop_per_s(torch.float32)
    # between a slow core and a large machine
    assert 0.005 < peak < 20


def test_a_call_without_end_is_interrupted():
    with pytest.raises(CallTooLong, match=r"longer than 0\.05 s"), at_most(0.05):
        while True:
            pass
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_frontier_knows_backend_and_pass():
    frontier = Frontier()
    ended = Entry(backend="a", pass_="forward")
    ended.end("timeout", "slow")
    frontier.note(ended, 8)
    for backend, pass_, length, ok in (
        ("a", "forward", 16, False), ("a", "forward", 8, True), ("a", "forward_backward", 16, True),
        ("b", "forward", 16, True),
    ):  # fmt: skip
        entry = Entry(backend=backend, pass_=pass_)
        frontier.stop(entry, length)
        assert entry.ok == ok
