"""Rows of lengths.csv become the curves that can be compared, and no others."""

import pytest

from plots.length_entries import batchings, series, views
from plots.length_notes import notes
from plots.time_vs_length import measured


def suffixes(rows):
    return [view.suffix for view in views(rows)]


def test_one_series_a_system_and_pass_sorted_by_length(make_lengths):
    rows = [
        *make_lengths("performer", pass_="step"), *reversed(make_lengths("performer")),
        *make_lengths("s4", family="ssm"),
    ]  # fmt: skip
    found = series(rows)
    assert [(one.name, one.first.pass_) for one in found] == [
        ("performer", "step"), ("performer", "forward"), ("s4", "forward"),
    ]  # fmt: skip
    assert [row.length for row in found[1].rows] == [256, 512, 1024, 2048]


def test_levels_sizes_dtypes_threads_and_devices_share_no_figure(make_lengths):
    rows = make_lengths("performer")
    for change in ({"level": "block"}, {"dtype": "float16"}, {"dim": 128}):
        rows += make_lengths("performer", **change)
    assert suffixes(rows) == [
        f"{kind}_laptop_b1d{dim}h2l2" for kind, dim in (
            ("block_float32", 64), ("model_float16", 64), ("model_float32", 64),
            ("model_float32", 128),
        )
    ]  # fmt: skip
    several = make_lengths("performer") + make_lengths("performer", n_threads=8)
    several += make_lengths("performer", device="GPU")
    names = [view.device for view in views(several)]
    assert names == ["GPU", "Some CPU, 2 threads", "Some CPU, 8 threads"]


def test_constant_tokens_and_constant_batches_are_kept_apart(make_lengths):
    tokens = [row for n in (256, 512, 1024, 4096) for row in
              make_lengths("performer", lengths=(n,), batch=max(1, 1024 // n))]  # fmt: skip
    assert list(batchings(tokens)) == ["1,024 tokens"]
    assert list(batchings(make_lengths("performer"))) == ["batch 1"]
    both = make_lengths("performer") + make_lengths("performer", batch=8)
    assert {k: len(v) for k, v in batchings(both).items()} == {"batch 1": 4, "batch 8": 4}
    more = [row for n in (256, 512, 1024) for row in
            make_lengths("performer", lengths=(n,), batch=4096 // n)]  # fmt: skip
    found = batchings(make_lengths("performer") + more)
    assert {k: len(v) for k, v in found.items()} == {"4,096 tokens": 3, "batch 1": 4}
    (one,) = batchings(make_lengths("performer", lengths=(512,), batch=4))
    assert one == "batch 4"


def test_variants_are_named_by_what_differs(make_lengths):
    rows = make_lengths("performer", mixer_knobs='{"m": 64, "seed": 0}')
    rows += make_lengths("performer", mixer_knobs='{"m": 256, "seed": 0}')
    rows += make_lengths("s4", family="ssm", backend="scan=eager,fft=eager")
    rows += make_lengths("s4", family="ssm", backend="scan=triton,fft=eager")
    names = {one.name for one in series(rows)}
    assert names == {"performer m=64", "performer m=256", "s4 scan=eager", "s4 scan=triton"}


def test_a_cell_that_never_ran_knows_no_backend_and_ends_its_curves(make_lengths):
    rows = make_lengths("performer", backend="a=eager")
    rows += make_lengths("performer", lengths=(4096,), status="oom", backend=None, median_ms=None)
    (one,) = series(rows)
    assert [row.status for row in one.rows] == ["ok"] * 4 + ["oom"]
    # of two backends the one that lacks the cell
    rows += make_lengths("performer", backend="a=slow", lengths=(256, 512, 1024, 2048, 4096))
    ends = {one.name: one.rows[-1].status for one in series(rows)}
    assert ends == {"performer a=eager": "oom", "performer a=slow": "ok"}
    both = make_lengths("performer", backend="a=eager") + make_lengths("performer", backend="a=b")
    both += make_lengths("performer", lengths=(4096,), status="oom", backend=None, median_ms=None)
    assert {one.name for one in series(both)} == {
        "performer a=eager", "performer a=b", "performer unknown backend",
    }  # fmt: skip
    (never,) = series(make_lengths("performer", status="oom", backend=None))
    assert never.timed == [] and never.name == "performer"


def test_other_ops_at_other_lengths_are_one_system(make_lengths):
    rows = make_lengths("bigbird", lengths=(256, 512), backend="attention=sdpa")
    rows += make_lengths("bigbird", lengths=(1024, 2048), backend="block_sparse_attention=eager")
    (one,) = series(rows)
    assert one.name == "bigbird" and len(one.rows) == 4
    # another backend of the same op is another system, whatever its lengths
    rows = make_lengths("s4", lengths=(256, 512), backend="scan=eager")
    rows += make_lengths("s4", lengths=(1024, 2048), backend="scan=triton")
    assert [one.name for one in series(rows)] == ["s4 scan=eager", "s4 scan=triton"]


def test_the_baseline_is_the_transformer_by_its_attention(make_lengths):
    rows = make_lengths("transformer", family="exact", backend="attention=sdpa")
    rows += make_lengths("transformer", family="exact", backend="attention=reference")
    # other ops end in the same words
    rows += make_lengths("performer", backend="linear_attention=reference,attention=sdpa")
    (view,) = views(rows)
    assert view.baseline("fused", "forward", False).name == "transformer fused"
    assert view.baseline("naive", "forward", False).name == "transformer naive"
    assert view.baseline("fused", "step", False) is None
    assert [view.is_baseline(one) for one in view.series] == [True, True, False]
    (other,) = views(make_lengths("transformer", family="exact", backend="cross_attention=sdpa"))
    assert other.baselines == {}


def test_causal_systems_share_the_figure_unless_some_are_measured_both_ways(make_lengths):
    sdpa = {"family": "exact", "backend": "attention=sdpa"}
    rows = make_lengths("transformer", **sdpa) + make_lengths("mamba", family="ssm", causal=True)
    (view,) = views(rows)
    assert view.baseline("fused", "forward", True).first.causal is False
    said = notes(view, view.of_pass("forward"), measured, lambda row: None)
    assert said == ["Causal systems; the transformer's lines are not: mamba."]
    rows += make_lengths("transformer", causal=True, **sdpa)
    both, causal = views(rows)
    assert (both.suffix, causal.suffix) == (
        "model_float32_laptop_b1d64h2l2",
        "model_float32_laptop_b1d64h2l2_causal",
    )
    assert [one.name for one in both.series] == ["transformer", "mamba"]
    assert [one.name for one in causal.series] == ["transformer", "mamba"]
    assert causal.causal and not both.causal
    # what can only be causal is compared with the causal transformer where there is one
    assert both.baseline("fused", "forward", True).first.causal


def test_duplicates_keep_the_newest_and_are_said(make_lengths):
    rows = make_lengths("performer", n_params=2, date="2026-11-22")
    rows += make_lengths("performer", n_params=1, date="2026-11-21", lengths=(512,), median_ms=9.0)
    (view,) = views(rows)
    (one,) = view.series
    assert one.repeated == (512,) and {row.n_params for row in one.rows} == {2}
    said = notes(view, [one], measured, lambda row: None)
    assert said == ["Measured more than once, the newest is shown: performer N=512."]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"status": "oom", "median_ms": None}, "Out of memory: performer N=1K."),
        ({"status": "timeout", "median_ms": None}, "Over the time limit: performer N=1K."),
        ({"status": "nan", "median_ms": None}, "Not a number: performer N=1K."),
        ({"reason": "the timer takes 9% of it"},
         "Doubtful: performer (N=1K the timer takes 9% of it)."),
    ],
)  # fmt: skip
def test_what_is_not_shown_is_said(make_lengths, change, said):
    rows = [*make_lengths("performer", lengths=(256, 512, 2048)), *make_lengths("linformer")]
    rows += make_lengths("performer", lengths=(1024,), **change)
    (view,) = views(rows)
    assert notes(view, view.series, measured, lambda row: row.reason) == [said]


def test_lengths_that_one_lacks_are_said(make_lengths):
    rows = [*make_lengths("performer", lengths=(256, 2048)), *make_lengths("linformer")]
    (view,) = views(rows)
    said = notes(view, view.series, measured, lambda row: None)
    assert said == ["Not measured: performer N=512/1K."]
