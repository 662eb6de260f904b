"""The bubble chart holds the data it claims to, and its labels do not cover each other."""

from dataclasses import replace

import pytest
from matplotlib.collections import PathCollection

from plots.accuracy_vs_speed import draw, write
from plots.entries import Group, entries, load
from plots.labels import Box, place
from plots.style import FAMILY_COLOURS, RC, style


def _group(rows):
    return Group("Some CPU @ 2.1GHz", "laptop", tuple(entries(rows)))


def _draw(rows):
    with style():
        figure = draw(_group(rows), "listops")
    figure.canvas.draw()
    return figure, figure.axes[0]


def _bubbles(axes):
    return {c.get_gid(): c for c in axes.collections if isinstance(c, PathCollection)}


def _texts(figure, axes):
    return [t.get_text() for t in (*figure.texts, *axes.texts)]


def test_every_model_is_a_bubble_at_its_place(rows):
    figure, axes = _draw(rows)
    bubbles = _bubbles(axes)
    assert len(bubbles) == 8
    x, y = bubbles["performer"].get_offsets()[0]
    assert (x, y) == pytest.approx((17.1, 43.1))
    assert axes.get_xscale() == "log"
    assert {"transformer", "linear transformer", "lru"} <= set(_texts(figure, axes))


def test_area_is_proportional_to_memory(rows):
    _, axes = _draw(rows)
    areas = {name: bubble.get_sizes()[0] for name, bubble in _bubbles(axes).items()}
    assert areas["lru"] / areas["linformer"] == pytest.approx(330 / 110)


def test_colours_are_the_families(rows):
    _, axes = _draw(rows)
    edges = {n: tuple(b.get_edgecolor()[0][:3]) for n, b in _bubbles(axes).items()}
    assert edges["performer"] == edges["linear_transformer"] != edges["lru"]
    assert len(set(edges.values())) == 6
    assert len(set(FAMILY_COLOURS.values())) == len(FAMILY_COLOURS) == 9


def test_intervals_are_those_over_seeds(rows):
    _, axes = _draw(rows)
    # t(0.975, 2) = 4.302653; the seeds of lru lie 0.02 apart
    half = 100 * 4.302653 * 0.02 / 3**0.5
    ends = [c.get_segments()[0][:, 1] for c in axes.collections if hasattr(c, "get_segments")]
    assert any(e == pytest.approx([55.6 - half, 55.6 + half], rel=1e-5) for e in ends)


def test_baselines_are_lines_with_names(rows):
    figure, axes = _draw(rows)
    heights = [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"]
    assert heights == pytest.approx([10.0, 34.0])
    assert {"chance 10.0 %", "first operator 34.0 %"} <= set(_texts(figure, axes))


def test_equal_baselines_share_a_line(rows):
    figure, axes = _draw([replace(row, chance_acc=0.34) for row in rows])
    assert "chance, first operator 34.0 %" in _texts(figure, axes)


def test_title_names_task_protocol_device_and_seeds(rows):
    figure, axes = _draw(rows)
    text = " ".join(_texts(figure, axes))
    for part in ("ListOps", "protocol laptop", "Some CPU @ 2.1GHz", "seeds n = 3", "95 % interval"):
        assert part in text


def test_degenerate_models_are_hollow(rows):
    _, axes = _draw([replace(row, degenerate=row.model == "linformer") for row in rows])
    alphas = {name: b.get_facecolor()[0][3] for name, b in _bubbles(axes).items()}
    assert alphas.pop("linformer") == 0
    assert min(alphas.values()) > 0


def test_what_cannot_be_shown_is_said(rows, make_row):
    failed = [
        make_row("lru", 0, cell="x", model="reformer", status="oom", test_acc=None),
        make_row("lru", 0, cell="y", model="bigbird", steps_per_s=None),
    ]
    figure, axes = _draw([*rows, *failed])
    assert "Not shown: bigbird (no speed), reformer (oom)" in " ".join(_texts(figure, axes))


def test_one_point_one_seed_unknown_memory(make_row):
    figure, axes = _draw([make_row("lru", 0, peak_mem_mib=None, chance_acc=None, trivial_acc=None)])
    assert list(_bubbles(axes)) == ["lru"]
    assert "seeds n = 1" in " ".join(_texts(figure, axes))
    low, high = axes.get_xlim()
    assert low < 8.8 < high


def test_names_are_not_formulas(make_row):
    figure, axes = _draw([make_row("lru", 0, model="a$\\frac", device="$x")])
    assert "a$\\frac" in _texts(figure, axes)


def test_a_speed_of_zero_has_no_place_on_a_log_axis(rows, make_row):
    figure, axes = _draw([*rows, make_row("lru", 0, cell="z", model="stuck", steps_per_s=0.0)])
    assert "Not shown: stuck (no speed)" in " ".join(_texts(figure, axes))


def _overlaps(boxes):
    return sum(a.overlap(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_labels_cover_neither_each_other_nor_the_bubbles(rows):
    figure, axes = _draw(rows)
    renderer = figure.canvas.get_renderer()
    labels = [Box(*t.get_window_extent(renderer).extents) for t in axes.texts]
    bubbles = []
    for bubble in _bubbles(axes).values():
        x, y = axes.transData.transform(bubble.get_offsets()[0])
        half = 0.8 * (bubble.get_sizes()[0] / 3.1416) ** 0.5
        bubbles.append(Box(x - half, y - half, x + half, y + half))
    assert len(labels) == 10
    # a corner may touch
    assert _overlaps(labels) < 4
    assert sum(label.overlap(bubble) for label in labels for bubble in bubbles) < 12
    inside = Box(*axes.bbox.extents)
    assert all(label.overlap(inside) > 0.97 * label.area for label in labels)


def test_nothing_is_set_below_8_points(rows):
    figure, axes = _draw(rows)
    sizes = {t.get_fontsize() for t in (*figure.texts, *axes.texts, *axes.get_xticklabels())}
    sizes |= {t.get_fontsize() for legend in figure.legends for t in legend.get_texts()}
    assert min(sizes) >= 8 and RC["ytick.labelsize"] >= 8
    assert 3.5 <= figure.get_size_inches()[0] <= 7


def test_place_moves_labels_off_a_crowd():
    points = [(50.0 + 3 * i, 50.0) for i in range(4)]
    boxes = place(points, [5.0] * 4, [(30.0, 8.0)] * 4, [], Box(0, 0, 120, 100))
    assert _overlaps(boxes) == 0


def test_files_are_written_for_each_task_and_are_reproducible(results, rows, tmp_path):
    text = [replace(row, cell="t" + row.cell, task="text") for row in rows]
    failed = [replace(rows[0], cell="i", task="image", status="oom", test_acc=None)]
    groups = load(results([*rows, *text, *failed]))
    paths = write(groups, tmp_path / "out")
    folder = tmp_path / "out" / "some-cpu-2.1ghz"
    assert paths == [
        folder / f"accuracy_vs_speed_laptop_{task}.{kind}"
        for task in ("listops", "text")
        for kind in ("png", "svg")
    ]
    before = [path.read_bytes() for path in paths]
    assert before[0].startswith(b"\x89PNG") and b"<svg" in before[1]
    write(groups, tmp_path / "out")
    assert [path.read_bytes() for path in paths] == before
