"""Figures against length hold the data that they claim to: lines, ends, symbols, conditions."""

import pytest

from plots import crossover, decode_vs_length, flops_vs_length, memory_vs_length, time_vs_length
from plots.crossings import crossings, rounded, said
from plots.crossover import chart as crossover_chart
from plots.crossover import edges
from plots.family_panels import chart
from plots.length_entries import views
from plots.line_labels import apart
from plots.style import style


@pytest.fixture
def rows(make_lengths):
    """Fused and naive attention, and systems of three families; in memory one runs out."""
    fused = {"family": "exact", "backend": "attention=sdpa", "peak_mem_mib": lambda n: n / 20,
             "pred_mem_mib": lambda n: n / 20, "median_ms": lambda n: n**2 / 1e5}  # fmt: skip
    rows = make_lengths("transformer", **fused)
    rows += make_lengths(
        "transformer", family="exact", backend="attention=reference", median_ms=lambda n: n**2 / 4e4
    )
    rows += make_lengths("performer", p20_ms=lambda n: n / 110, p80_ms=lambda n: n / 80,
                         degenerate=lambda n: n == 256, peak_mem_mib=lambda n: n / 10)  # fmt: skip
    rows += make_lengths("retnet", causal=True, median_ms=lambda n: n / 300)
    rows += make_lengths(
        "mega", family="exact", backend="x=y", median_ms=lambda n: n**2 / 5e4 if n < 2048 else None,
        status=lambda n: "ok" if n < 2048 else "oom", pred_mem_mib=lambda n: n**2 / 1000,
        peak_mem_mib=lambda n: n**2 / 1000 if n < 2048 else None, gflop=2.0, flop_coverage=0.8,
    )  # fmt: skip
    return rows


def draw(rows, module=time_vs_length, quantity="TIME", pass_="forward"):
    (view,) = views(rows)
    with style():
        figure = chart(view, view.of_pass(pass_), getattr(module, quantity), "title", "n = 25")
    figure.canvas.draw()
    return figure


def panels(figure):
    return {ax.get_title(loc="left"): ax for ax in figure.axes if ax.get_title(loc="left")}


def lines(axes, style="-"):
    return {line.get_gid(): line for line in axes.lines if line.get_linestyle() == style}


def texts(figure):
    return " ".join(" ".join(t.get_text() for t in figure.texts).split())


def legend(figure):
    return [t.get_text() for t in figure.legends[0].get_texts()]


def test_a_panel_for_each_family_with_both_baselines_in_each(rows):
    found = panels(draw(rows))
    assert list(found) == ["exact", "linear"]
    for axes in found.values():
        assert lines(axes)["fused"].get_ydata()[-1] == pytest.approx(2048**2 / 1e5)
        assert lines(axes, ":")["naive"].get_ydata()[0] == pytest.approx(256**2 / 4e4)
        assert axes.get_xscale() == axes.get_yscale() == "log"
    assert found["exact"].get_ylim() == found["linear"].get_ylim()
    assert lines(found["linear"]).keys() == {"fused", "performer", "retnet"}
    assert lines(found["exact"]).keys() == {"fused", "mega"}
    assert list(lines(found["linear"])["performer"].get_xdata()) == [256, 512, 1024, 2048]


def test_lines_are_named_at_their_ends_without_overlap(rows):
    figure = draw(rows)
    axes = panels(figure)["linear"]
    assert [t.get_text() for t in axes.texts if t.get_text()] == ["performer", "retnet"]
    boxes = [t.get_window_extent() for t in axes.texts if t.get_text()]
    assert boxes[1].y1 <= boxes[0].y0 + 1 and boxes[0].x1 <= figure.bbox.x1


def test_bands_degenerate_points_and_the_legend(rows):
    figure = draw(rows)
    axes = panels(figure)["linear"]
    heights = [v for band in axes.collections for v in band.get_paths()[0].vertices[:, 1]]
    assert pytest.approx(2048 / 80) in heights and pytest.approx(256 / 110) in heights
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert [list(line.get_xdata()) for line in hollow] == [[256]]
    assert legend(figure) == [
        "transformer, fused attention (SDPA)", "transformer, naive softmax", "dense at this length",
        "out of memory, at the height expected",
    ]  # fmt: skip


def test_a_limit_that_was_hit_has_a_symbol_and_a_note(rows):
    figure = draw(rows)
    axes = panels(figure)["exact"]
    (end,) = [line for line in axes.lines if line.get_gid() == "mega ends"]
    # expected where the power of the last two points leads
    assert (end.get_xdata()[0], end.get_marker()) == (2048, "x")
    assert end.get_ydata()[0] == pytest.approx(2048**2 / 5e4)
    assert list(lines(axes)["mega"].get_xdata()) == [256, 512, 1024]
    assert "Out of memory: mega N=2K." in texts(figure)


def test_conditions_and_causality_are_named(rows):
    said = texts(draw(rows))
    for part in ("Some CPU", "2 threads", "whole model, float32, batch 1, width 64, 2 heads, 2",
                 "n = 25", "the transformer's lines are not: retnet"):  # fmt: skip
        assert part in said


def test_nothing_is_set_below_8_points(rows):
    figure = draw(rows)
    found = [*figure.texts, *figure.legends[0].get_texts()]
    for axes in figure.axes:
        found += [*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels()]
    assert min(t.get_fontsize() for t in found if t.get_text()) >= 8


def test_a_length_that_is_missing_breaks_the_line(rows, make_lengths):
    rows += make_lengths("luna", family="linear", lengths=(256, 512, 2048))
    figure = draw(rows)
    runs = [ln for ln in panels(figure)["linear"].lines if ln.get_gid() == "luna"]
    assert [list(run.get_xdata()) for run in runs] == [[256, 512], [2048]]
    assert "Not measured: luna N=1K." in texts(figure)


def test_a_time_too_fast_to_be_true_is_not_drawn_but_said(rows, make_lengths):
    reason = "too fast to be true: 9 x the roofline"
    rows += make_lengths("luna", median_ms=1e-6, reason=f"no predicted memory: x; {reason}")
    figure = draw(rows)
    assert "luna" not in lines(panels(figure)["linear"])
    assert f"luna (N=256 {reason}, and 3 more)" in texts(figure)


def test_memory_is_measured_solid_and_predicted_dashed(rows):
    figure = draw(rows, memory_vs_length, "MEMORY")
    axes = panels(figure)["exact"]
    assert list(lines(axes)["mega"].get_xdata()) == [256, 512, 1024]
    (dashed,) = [line for line in axes.lines if line.get_gid() == "mega predicted"]
    assert list(dashed.get_xdata()) == [1024, 2048]
    assert dashed.get_ydata()[-1] == pytest.approx(2048**2 / 1000)
    (end,) = [line for line in axes.lines if line.get_gid() == "mega ends"]
    assert end.get_ydata()[0] == pytest.approx(2048**2 / 1000)
    assert "predicted" in legend(figure) and dashed.get_linestyle() == "--"


def test_operations_that_are_not_all_counted_are_not_drawn(rows, make_lengths):
    rows += make_lengths("luna", gflop=lambda n: n / 1e3, flop_coverage=1.0)
    figure = draw(rows, flops_vs_length, "FLOPS")
    found = panels(figure)
    assert list(found) == ["linear"] and lines(found["linear"]).keys() == {"luna"}
    assert "mega (N=256 not drawn, 80% of it counted, and 2 more)" in texts(figure)


def test_one_point_and_only_baselines(make_lengths):
    one = draw(make_lengths("performer", lengths=(512,)))
    assert list(lines(panels(one)["linear"])["performer"].get_xdata()) == [512]
    base = draw(make_lengths("transformer", family="exact", backend="attention=sdpa"))
    assert list(panels(base)) == ["baselines"]


def test_decoding_shows_time_and_state(make_lengths):
    more = {"pass_": "decode", "level": "mixer", "causal": True}
    rows = make_lengths("performer", state_mib=0.5, median_ms=0.1, **more)
    rows += make_lengths("transformer", family="exact", backend="attention=sdpa",
                         state_mib=lambda n: n / 100, **more)  # fmt: skip
    rows += make_lengths("bigbird", family="sparse", status="unsupported", median_ms=None, **more)
    (view,) = views(rows)
    decoding = [one for one in view.series if one.timed]
    with style():
        figure = decode_vs_length.chart(view, view.series, decoding)
    figure.canvas.draw()
    times, states = figure.axes
    assert (times.get_ylabel(), states.get_ylabel()) == ("ms a token", "state, MiB")
    assert lines(times)["performer"].get_ydata()[0] == pytest.approx(0.1)
    assert lines(states)["fused"].get_ydata()[-1] == pytest.approx(20.48)
    assert "Without a state to decode with: 1 system." in texts(figure)


# -- cross-over ----------------------------------------------------------------------------------


def test_the_dots_are_the_cross_over_lengths(rows):
    (view,) = views(rows)
    found = crossover.compared(view)
    assert {one.kind for one in found} == {"fused"}
    with style():
        figure = crossover_chart(view, found)
    figure.canvas.draw()
    time, memory = figure.axes
    assert (time.get_title(loc="left"), memory.get_title(loc="left")) == (
        "time: forward", "memory: forward",
    )  # fmt: skip
    names = [t.get_text() for t in time.get_yticklabels()]
    assert names == ["mega", "transformer naive", "performer †", "retnet"]
    dots = {line.get_gid(): line for line in time.lines if line.get_marker() != "None"}
    # n^2 / 1e5 = n / 100 at 1000, = n / 300 at 333
    assert dots["performer"].get_xdata()[0] == pytest.approx(1000)
    assert dots["retnet"].get_xdata()[0] == pytest.approx(1e5 / 300)
    assert dots["mega"].get_marker() == "x"
    assert dots["mega"].get_xdata()[0] == edges(256, 2048)[1] > 2048
    (interval,) = [line for line in time.lines if line.get_gid() == "performer interval"]
    low, high = interval.get_xdata()
    assert 900 < low < 1000 < high < 1100
    assert [line.get_marker() for line in memory.lines if line.get_gid() == "performer"] == ["x"]
    said = texts(figure)
    assert "Causal, but compared with the bidirectional transformer" in said and "retnet." in said
    assert "System oom from N=2048: mega" in said and "Predicted at N=2048: mega" in said


def test_always_never_and_not_resolvable_have_their_marks(make_lengths):
    sdpa = {"family": "exact", "backend": "attention=sdpa"}
    rows = make_lengths("transformer", **sdpa)
    rows += make_lengths("fast", median_ms=lambda n: n / 900)
    rows += make_lengths("slow", median_ms=lambda n: n / 20)
    rows += make_lengths("same", median_ms=lambda n: n / 100)
    rows += make_lengths("else", lengths=(100, 200))
    (view,) = views(rows)
    found = crossover.compared(view)
    with style():
        figure = crossover_chart(view, found)
    marks = {line.get_gid(): line.get_marker() for line in figure.axes[0].lines
             if line.get_marker() != "None"}  # fmt: skip
    assert marks == {"else": "_", "fast": "<", "same": "D", "slow": "x"}
    assert legend(figure)[:4] == [
        "from the shortest length on", "never up to the longest length",
        "not resolvable in the noise", "no common lengths",
    ]  # fmt: skip
    answers = {one.system.name: said(one.answer) for one in found if one.measure == "time"}
    assert answers["fast"] == "from 256 on" and answers["slow"] == "never up to 2K"
    assert answers["same"].startswith("not resolvable (")
    assert answers["else"] == "no common lengths"


def test_against_naive_attention_where_fused_was_not_measured(make_lengths):
    rows = make_lengths("performer")
    (view,) = views(rows)
    assert crossover.compared(view) == []
    rows += make_lengths("transformer", family="exact", backend="attention=reference")
    (view,) = views(rows)
    assert {one.kind for one in crossover.compared(view)} == {"naive"}
    assert len(crossings(view, "naive")) == 2


def test_lengths_in_words():
    assert [rounded(n) for n in (310.4, 1024, 2150, 16000)] == ["310", "1K", "2.1K", "15.6K"]


def test_labels_move_apart_as_little_as_they_must():
    assert apart([0.5, 0.1], [0.1, 0.1]) == pytest.approx([0.5, 0.1])
    assert apart([0.5, 0.5, 0.5], [0.1] * 3) == pytest.approx([0.4, 0.5, 0.6])
    assert apart([1.0, 1.0], [0.1, 0.3]) == pytest.approx([0.65, 0.85])
    assert apart([], []) == []


def test_files_are_named_and_reproducible(make_lengths, tmp_path):
    rows = make_lengths("transformer", family="exact", backend="attention=sdpa")
    rows += make_lengths("performer")
    written = time_vs_length.write(views(rows), tmp_path)
    folder = tmp_path / "some-cpu"
    names = [
        folder / f"time_vs_length_model_float32_laptop_b1d64h2l2_forward.{kind}"
        for kind in ("png", "svg")
    ]
    assert written == names
    before = [path.read_bytes() for path in written]
    time_vs_length.write(views(rows), tmp_path)
    assert [path.read_bytes() for path in written] == before
