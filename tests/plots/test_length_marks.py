"""What must not be silent beside curves against length: gaps, disguises, protocols, variants."""

import pytest

from lra.results.crossover import Crossover
from plots import crossover, decode_vs_length, flops_vs_length, memory_vs_length, time_vs_length
from plots.crossings import crossings, said
from plots.family_panels import chart
from plots.length_entries import series, views
from plots.length_notes import notes
from plots.style import style
from plots.time_vs_length import measured

SDPA = {"family": "exact", "backend": "attention=sdpa"}
NAIVE = {"family": "exact", "backend": "attention=reference"}


def texts(figure):
    return " ".join(" ".join(t.get_text() for t in figure.texts).split())


def draw(rows, quantity=time_vs_length.TIME):
    (view,) = views(rows)
    with style():
        figure = chart(view, view.of_pass("forward"), quantity, "title", "n = 25")
    figure.canvas.draw()
    return figure


def cross(rows):
    (view,) = views(rows)
    with style():
        figure = crossover.chart(view, crossover.compared(view))
    figure.canvas.draw()
    return figure


def below(rows):
    """The notes of a figure of times."""
    (view,) = views(rows)
    return notes(view, view.series, measured, lambda row: None)


# -- notes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "quantity"), [(memory_vs_length, "MEMORY"), (flops_vs_length, "FLOPS")]
)
def test_what_was_timed_but_not_tracked_is_said(make_lengths, module, quantity):
    tracked = {"peak_mem_mib": 9.0, "gflop": 2.0, "flop_coverage": 1.0}
    rows = make_lengths("performer", **tracked)
    rows += make_lengths("luna", reason="no predicted memory: x; no memory, no FLOPs: ops raise")
    said = texts(draw(rows, getattr(module, quantity)))
    assert "Not tracked: luna (N=256 ops raise, and 3 more)." in said
    assert "Not tracked" not in texts(draw(rows))


def test_no_counted_operation_is_said(make_lengths):
    rows = make_lengths("performer", gflop=2.0, flop_coverage=1.0)
    rows += make_lengths("luna", gflop=0.0, flop_coverage=1.0)
    assert "luna (N=256 not drawn, no operation counted" in texts(draw(rows, flops_vs_length.FLOPS))


def test_only_neighbours_are_written_as_a_range(make_lengths):
    lengths = (256, 512, 1024, 2048, 4096, 8192)
    rows = [row for name in ("cosformer", "linformer") for row in make_lengths(name, lengths)]
    rows += make_lengths("performer", lengths[:2]) + make_lengths("luna", (512, 2048, 4096))
    assert below(rows) == ["Not measured: luna N=256/1K/8K, performer N=1K to 8K."]


def test_dense_attention_is_marked_where_only_a_prediction_is_drawn(make_lengths):
    rows = make_lengths("transformer", peak_mem_mib=4.0, **SDPA)
    rows += make_lengths(
        "bigbird", peak_mem_mib=lambda n: 5.0 if n == 256 else None, pred_mem_mib=8.0,
        degenerate=lambda n: n < 2048, status=lambda n: "ok" if n == 256 else "oom",
        median_ms=lambda n: 1.0 if n == 256 else None,
    )  # fmt: skip
    figure = draw(rows, memory_vs_length.MEMORY)
    (axes,) = [ax for ax in figure.axes if ax.get_title(loc="left") == "linear"]
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert [list(line.get_xdata()) for line in hollow] == [[256], [512, 1024]]
    assert "Dense softmax attention: bigbird N=256 to 1K." in texts(figure)
    assert "dense at this length" in [t.get_text() for t in figure.legends[0].get_texts()]


def test_the_protocol_is_named_and_protocols_share_no_figure(make_lengths):
    assert "protocol laptop, whole model" in texts(draw(make_lengths("performer")))
    both = make_lengths("performer") + make_lengths("performer", protocol="lra_paper")
    found = {view.suffix: view.setting.protocol for view in views(both)}
    assert found == {f"model_float32_{name}_b1d64h2l2": name for name in ("laptop", "lra_paper")}


def test_what_departs_from_the_recipe_is_another_curve_and_named(make_lengths):
    rope = {"variant": "recipe.positions=rope"}
    rows = make_lengths("performer") + make_lengths("performer", **rope)
    names = ["performer", "performer recipe.positions=rope"]
    assert [one.name for one in series(rows)] == names
    assert all(one.repeated == () for one in series(rows))


def test_what_all_depart_in_is_said_once(make_lengths):
    rope = {"variant": "recipe.positions=rope"}
    (view,) = views(make_lengths("performer", **rope) + make_lengths("linformer", **rope))
    assert {one.name for one in view.series} == {"performer", "linformer"}
    assert "protocol laptop, recipe.positions=rope, whole model" in view.setting.sizes


def test_a_variant_is_compared_with_the_transformer_of_its_recipe(make_lengths):
    rope = {"variant": "recipe.positions=rope"}
    rows = make_lengths("performer", **rope) + make_lengths("transformer", **SDPA)
    assert "transformer of another recipe" in texts(cross(rows))
    rows += make_lengths("transformer", **SDPA, **rope)
    (view,) = views(rows)
    base = {one.system.name: one.baseline.first.variant for one in crossings(view, "fused")}
    assert base == {"performer recipe.positions=rope": "recipe.positions=rope"}
    assert "transformer of another recipe" not in texts(cross(rows))
    # the other transformer is a curve of its own
    assert [one.name for one in view.series if view.is_baseline(one)] == ["transformer"]


def test_decoding_that_failed_is_not_without_a_state(make_lengths):
    more = {"pass_": "decode", "level": "mixer", "causal": True}
    rows = make_lengths("performer", state_mib=0.5, **more)
    failed = {"median_ms": None, **more}
    for status in ("error", "oom", "timeout", "nan", "unsupported"):
        rows += make_lengths(f"x_{status}", status=status, **failed)
    (view,) = views(rows)
    with style():
        shown = view.of_pass("decode")
        figure = decode_vs_length.chart(view, shown, [one for one in shown if one.timed])
    for part in ("Failed: x error N=256 to 2K.", "Out of memory: x oom N=256 to 2K.",
                 "Over the time limit: x timeout", "Not a number: x nan",
                 "Without a state to decode with: 1 system."):  # fmt: skip
        assert part in texts(figure)
    assert "Not supported" not in texts(figure)


# -- cross-over ----------------------------------------------------------------------------------


def test_an_answer_in_words():
    known = {"first": 256, "last": 2048, "longest": 2048}
    assert said(Crossover("crosses", 310.0, 300.0, 400.0, **known)) == "310 (300 to 400)"
    assert said(Crossover("crosses", 310.0, 310.0, 310.0, **known)) == "310"
    assert said(Crossover("crosses", 310.0, None, 400.0, **known)) == "310 (below 256 to 400)"
    # an open interval is said, never a bare length
    assert said(Crossover("crosses", 310.0, **known)) == "310 (below 256 to above 2K)"
    further = {**known, "longest": 8192}
    assert said(Crossover("always", **further)) == "from 256 on, up to 2K"
    assert said(Crossover("crosses", 310.0, 300.0, 400.0, **further)).endswith(", up to 2K")
    assert said(Crossover("not resolvable", **further)).endswith(", up to 2K")
    assert said(Crossover("never", **further)) == "never up to 2K"


def test_fused_or_naive_is_chosen_pass_by_pass(make_lengths):
    rows = [row for pass_ in ("forward", "step") for row in make_lengths("luna", pass_=pass_)]
    rows += make_lengths("transformer", **SDPA)
    rows += make_lengths("transformer", pass_="step", **NAIVE)
    (view,) = views(rows)
    kinds = {one.pass_: one.kind for one in crossover.compared(view) if one.system.name == "luna"}
    assert kinds == {"forward": "fused", "step": "naive"}
    figure = cross(rows)
    titles = [" ".join(ax.get_title(loc="left").split()) for ax in figure.axes]
    assert titles == ["time: forward (fused)", "time: training step (naive)",
                      "memory: training step (naive)"]  # fmt: skip
    assert "less time or memory than fused or naive attention" in texts(figure)


def test_the_cross_over_figure_says_what_it_rests_on(make_lengths):
    rows = make_lengths("transformer", **SDPA)
    rows += make_lengths("bigbird", degenerate=lambda n: n < 1024, median_ms=lambda n: n / 900)
    rows += make_lengths("luna", status=lambda n: "ok" if n < 1024 else "error",
                         median_ms=lambda n: 1.0 if n < 1024 else None)  # fmt: skip
    figure = cross(rows)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["bigbird †", "luna"]
    starts = {line.get_gid(): line.get_xdata()[0] for line in figure.axes[0].lines
              if line.get_marker() == "<"}  # fmt: skip
    # the one that is no method of its own at 256 and 512 is not said to be faster there
    assert starts["bigbird"] == 1024 and starts["luna"] < 256
    for part in ("protocol laptop", "n = 25", "† dense softmax attention at some lengths",
                 "Dense attention itself at N=256, N=512, left out: bigbird.",
                 "System error from N=1024: luna.", "drift from one cell to the next"):  # fmt: skip
        assert part in texts(figure)
