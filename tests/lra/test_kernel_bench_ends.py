"""``task=kernels``: right before fast, and every end of a backend is a row."""

import pytest
import torch

from kernels import compiling
from lra.kernel_bench.runner import Runner
from lra.results.collect import publish, read_rows
from lra.results.csv_io import read_csv
from lra.results.schema import KernelRow
from tests.lra.toy_op import BACKENDS, ends


def test_what_is_right_is_timed_in_every_column(toy):
    outcome = Runner(toy("reference", "eager")).run()
    found = ends(outcome)
    assert len(found) == 8 and outcome.statuses == {"ok"} and outcome.n_new == 2
    row = found["eager", 8, "forward_backward"]
    assert (row.op, row.batch, row.heads, row.head_dim, row.key_length) == ("toy", 2, 1, 1, 8)
    assert (row.causal, row.window, row.variant, row.dtype) == (True, None, "", "float32")
    assert row.p20_ms <= row.median_ms <= row.p80_ms and row.n_samples >= 5 and row.cv >= 0
    assert 0 <= row.rel_error <= row.tolerance < 1e-5
    # inputs, output, cotangent and gradient of 2 x 8 floats
    assert row.gb_per_s == pytest.approx(4 * 2 * 8 * 4 / 1e6 / row.median_ms)
    assert found["eager", 8, "forward"].gb_per_s == pytest.approx(
        2 * 2 * 8 * 4 / 1e6 / found["eager", 8, "forward"].median_ms
    )
    # running sums have a FLOP formula
    assert row.tflop_per_s > 0 and row.roofline_frac > 0
    assert row.peak_mem_mib >= 3 * 2 * 8 * 4 / 2**20
    assert row.n_threads == torch.get_num_threads() and "torch=" in row.versions and row.date


@pytest.mark.parametrize(
    ("backend", "pass_", "status", "reason"),
    [
        ("wrong", "forward", "wrong", "output: relative error 0.01"),
        ("backward", "forward", "ok", None),
        ("backward", "forward_backward", "wrong", "grad x: relative error 1"),
        ("caching", "forward", "wrong", "output: relative error"),
        ("caching", "forward_backward", "ok", None),
        ("refusing", "forward", "unsupported", "no [even] N"),
        ("needy", "forward", "unsupported", "needy: it needs a GPU"),
        ("raising", "forward", "error", "KeyError: 'lost'"),
        ("slow", "forward", "timeout", "a call takes 0.1 s, more than task.limit_s=0.1"),
        ("late", "forward", "error", "RuntimeError: worn out"),
        ("sdpa", "forward", "unsupported", "there is no backend 'sdpa': it has reference, eager"),
    ],
)
def test_every_end_is_a_row_and_the_others_go_on(toy, backend, pass_, status, reason):
    # one that is right beside it is timed whatever happens
    config = toy(backend, "eager", lengths={"cpu": [4]})
    found = ends(Runner(config).run())
    row = found[backend, 4, pass_]
    assert row.status == status
    if reason is not None:
        assert reason in row.reason
    assert (row.median_ms is None) == (status != "ok")
    assert found["eager", 4, pass_].status == "ok"
    # every row is on record, one file each
    assert {r.status for r in read_rows(config.results / "local", "kernels")} == {
        r.status for r in found.values()
    }


def test_greater_lengths_are_not_tried_where_a_shorter_one_had_no_room(toy):
    found = ends(Runner(toy("hungry", "eager", lengths={"cpu": [4, 8, 16]})).run())
    assert [found["hungry", n, "forward"].status for n in (4, 8, 16)] == ["ok", "oom", "oom"]
    assert found["hungry", 8, "forward"].reason == "MemoryError: too large"
    assert found["hungry", 16, "forward"].reason == "oom at N=8 already"
    assert found["eager", 16, "forward"].status == "ok"


def test_the_reference_is_not_timed_far_but_checks_near(toy):
    config = toy("reference", "eager", reference_longest=4)
    found = ends(Runner(config).run())
    assert found["reference", 4, "forward"].status == "ok"
    far = found["reference", 8, "forward"]
    assert far.status == "unsupported" and far.reason == "the reference is not timed above N=4"
    # whatever is compared with eager alone says so
    assert found["eager", 8, "forward"].rel_error is not None
    told = "held to eager in fp64: no reference above N=4"
    assert told in found["eager", 8, "forward"].reason.split("; ")
    assert told not in (found["eager", 4, "forward"].reason or "")


def test_without_a_truth_nothing_is_timed(toy, monkeypatch):
    monkeypatch.setitem(BACKENDS, "reference", BACKENDS["raising"])
    found = ends(Runner(toy("eager", lengths={"cpu": [4]})).run())
    row = found["eager", 4, "forward"]
    assert (row.status, row.median_ms) == ("error", None)
    assert row.reason == "no truth to check against: KeyError: 'lost'"


def test_all_is_what_works_here_and_auto_what_it_takes(toy, monkeypatch):
    monkeypatch.setattr(compiling.shutil, "which", lambda name: name)
    runner = Runner(toy(backend="all"))
    assert "needy" not in runner.backends and runner.absent == {"needy": "it needs a GPU"}
    assert {"reference", "eager", "compile", "wrong"} <= set(runner.backends)
    (row,) = {
        (row.backend, row.status, *(row.reason or "").split("; ")[:2])
        for row in ends(Runner(toy(backend="auto", lengths={"cpu": [4]})).run()).values()
    }
    refusal = "no refusing for toy: no [even] N"
    assert row == ("eager", "ok", "auto took it: first that can on cpu", refusal)
    assert Runner(toy(backend={"toy": "eager"})).backends == ["eager"]
    assert Runner(toy(backend={"attention": "eager"})).backends == runner.backends


def test_rows_become_a_pack(toy):
    config = toy("eager", "wrong")
    Runner(config).run()
    (path,) = publish(config.results)
    assert path.name == "kernels.csv"
    found = read_csv(path, KernelRow)
    assert [row.status for row in found].count("ok") == 4 and len(found) == 8
