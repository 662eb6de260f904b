"""Kernel curves and the comparison of devices hold the data that they claim to."""

import csv
from dataclasses import replace

import pytest

from lra.results.csv_io import write_csv
from lra.results.schema import KernelRow
from plots import devices, kernels
from plots.__main__ import main
from plots.kernel_entries import curves, figures
from plots.length_panels import short
from plots.rows import by_device
from plots.style import BACKENDS, style

CPU, GPU = "Some CPU 2 cores", "Some GPU 80GB"
LENGTHS = (256, 512, 1024, 2048)


def row(backend: str, length: int, ms: float | None, **changes) -> KernelRow:
    made = KernelRow(
        op="attention", backend=backend, batch=2, heads=2, length=length, key_length=length,
        head_dim=64, causal=False, window=None, dtype="float32", pass_="forward",
        status="ok" if ms else "oom", median_ms=ms, p20_ms=ms and 0.9 * ms, p80_ms=ms and 1.2 * ms,
        n_samples=20 if ms else None, roofline_frac=0.25 if ms else None, device=CPU, n_threads=2,
        date="2026-11-22T10:00:00Z",
    )  # fmt: skip
    return replace(made, **changes)


@pytest.fixture
def rows() -> list[KernelRow]:
    """Two backends, one linear and one quadratic, in two variants and two passes."""
    found = []
    for causal in (False, True):
        for pass_, factor in (("forward", 1.0), ("forward_backward", 3.0)):
            for n in LENGTHS:
                more = {"causal": causal, "pass_": pass_}
                found.append(row("eager", n, factor * n / 100, **more))
                found.append(row("sdpa", n, factor * n * n / 1e5, **more))
    return found


def chart(rows):
    (shown,) = [curves(of_device) for of_device in by_device(rows).values()]
    with style():
        figure = kernels.chart(CPU, shown)
    figure.canvas.draw()
    return figure


def texts(figure):
    return " ".join(t.get_text() for t in figure.texts)


def lines(axes):
    """Points of the plotted lines by backend, the markers left out."""
    return {line.get_gid(): line for line in axes.lines if line.get_linestyle() == "-"}


def test_a_line_for_each_backend_in_a_panel_for_each_variant_and_pass(rows):
    figure = chart(rows)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "forward", "forward + backward", "causal: forward", "causal: forward + backward",
    ]  # fmt: skip
    first = lines(figure.axes[0])
    assert first.keys() == {"eager", "sdpa"}
    assert list(first["sdpa"].get_xdata()) == list(LENGTHS)
    assert first["sdpa"].get_ydata()[-1] == pytest.approx(2048**2 / 1e5)
    assert lines(figure.axes[1])["eager"].get_ydata()[0] == pytest.approx(7.68)
    for axes in figure.axes:
        assert axes.get_xscale() == axes.get_yscale() == "log"
    # rows of panels share an axis: what is higher is slower
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()


def test_bands_are_the_quantiles(rows):
    figure = chart([r for r in rows if r.backend == "eager"])
    (band,) = figure.axes[0].collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.min() == pytest.approx(0.9 * 2.56) and heights.max() == pytest.approx(
        1.2 * 20.48
    )


def test_each_backend_looks_like_itself(rows):
    assert len(set(BACKENDS.values())) == len(BACKENDS)
    assert len({marker for _, marker in BACKENDS.values()}) == len(BACKENDS)
    figure = chart(rows)
    markers = {m.get_marker() for m in figure.axes[0].lines if m.get_linestyle() == "None"}
    assert markers == {BACKENDS["eager"][1], BACKENDS["sdpa"][1]}
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["eager", "sdpa"]


def test_conditions_are_named(rows):
    said = " ".join(texts(chart(rows)).split())
    for part in ("attention, float32", CPU, "2 threads", "batch 2, heads 2, head width 64",
                 "band of n = 20 to 20"):  # fmt: skip
        assert part in said


def test_a_gap_breaks_the_line_and_is_said(rows):
    broken = [
        replace(r, status="oom", median_ms=None)
        if (r.backend, r.length, r.causal) == ("sdpa", 1024, False) else r
        for r in rows
    ]  # fmt: skip
    figure = chart(broken)
    runs = [line for line in figure.axes[0].lines if line.get_gid() == "sdpa"]
    assert [list(line.get_xdata()) for line in runs] == [[256, 512], [2048]]
    assert "Not shown: sdpa (oom) attention N=1024" in texts(figure)


def test_too_fast_to_be_true_is_hollow(rows):
    flagged = replace(rows[0], reason="too fast to be true: 2 x the roofline")
    figure = chart([flagged, *rows[1:]])
    faces = {
        (m.get_xdata()[0], m.get_markerfacecolor()) for m in figure.axes[0].lines
        if m.get_linestyle() == "None" and m.get_marker() == BACKENDS["eager"][1]
    }  # fmt: skip
    assert (256, "white") in faces and (512, "white") not in faces
    assert "too fast to be true" in [t.get_text() for t in figure.legends[0].get_texts()]


def test_one_point_and_unsorted_lengths(rows):
    figure = chart([rows[0]])
    assert list(lines(figure.axes[0])["eager"].get_xdata()) == [256]
    figure = chart(list(reversed(rows)))
    assert list(lines(figure.axes[0])["eager"].get_xdata()) == list(LENGTHS)


def test_nothing_is_set_below_8_points(rows):
    figure = chart(rows)
    sizes = {t.get_fontsize() for t in figure.texts}
    sizes |= {t.get_fontsize() for axes in figure.axes for t in axes.get_yticklabels()}
    sizes |= {t.get_fontsize() for t in figure.legends[0].get_texts()}
    assert min(sizes) >= 8
    labels = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert labels and not any("$" in label for label in labels)
    assert (short(256), short(65536), short(1500)) == ("256", "64K", "1500")


def test_sizes_dtypes_and_variants_are_kept_apart(rows):
    other = [replace(rows[0], dtype="float16"), replace(rows[0], batch=8)]
    found = figures(curves([*rows, *other]))
    assert list(found) == ["attention_float16_b2h2d64", "attention_float32_b2h2d64",
                           "attention_float32_b8h2d64"]  # fmt: skip
    several = [replace(rows[0], variant=name) for name in ("decay=head", "decay=channel")]
    assert {key.options for key in curves(several)} == {"decay=head", "decay=channel"}
    threads = by_device([rows[0], replace(rows[0], n_threads=8)])
    assert list(threads) == [f"{CPU}, 2 threads", f"{CPU}, 8 threads"]


# -- devices -------------------------------------------------------------------------------------


def on_gpu(rows):
    """Ten times as fast, and from 1024 on a kernel of its own."""
    found = [replace(r, device=GPU, median_ms=r.median_ms / 10) for r in rows]
    extra = [r for r in found if r.backend == "eager" and r.length >= 1024]
    return [*found, *(replace(r, backend="triton", median_ms=r.median_ms / 4) for r in extra)]


def test_the_ratio_is_that_of_the_fastest_backends(rows, tmp_path):
    folder = devices.write([*rows, *on_gpu(rows)], tmp_path)[0].parent
    assert {path.name for path in folder.iterdir()} == {
        "devices.md", "devices.tex", "devices.csv", "devices_attention_float32_b2h2d64.png",
        "devices_attention_float32_b2h2d64.svg",
    }  # fmt: skip
    with (folder / "devices.csv").open() as file:
        records = [r for r in csv.DictReader(file) if (r["options"], r["pass"]) == ("", "forward")]
    by = {(r["device"], r["backend"], int(r["length"])): r for r in records}
    # at 256 sdpa is fastest on both: 0.655 ms against 0.0655
    assert by[GPU, "sdpa", 256]["fastest"] == "true"
    assert float(by[GPU, "sdpa", 256]["times_faster"]) == pytest.approx(10)
    # at 2048 eager on the CPU, triton on the GPU: 20.48 against 0.512
    assert by[CPU, "eager", 2048]["fastest"] == "true"
    assert float(by[GPU, "triton", 2048]["times_faster"]) == pytest.approx(40)
    assert float(by[GPU, "sdpa", 2048]["times_faster"]) == pytest.approx(10)
    table = (folder / "devices.md").read_text()
    assert "| forward, N=2048 " in table and "0.512 ms (triton, 25 %) 40x" in table
    assert f"how many times faster than on {CPU}" in table


def test_a_line_for_each_device(rows):
    comparison = devices.compared([*rows, *on_gpu(rows)])
    settings = list(dict.fromkeys(key for key, _ in comparison.rows))
    with style():
        figure = devices.chart(comparison, settings)
    figure.canvas.draw()
    first = lines(figure.axes[0])
    assert first.keys() == {CPU, GPU}
    assert first[GPU].get_ydata()[-1] == pytest.approx(0.512)
    names = [t.get_text() for t in figure.legends[0].get_texts()]
    assert names == [CPU, GPU, "eager", "sdpa", "triton"]


def test_doubtful_times_win_nothing(rows):
    fast = replace(rows[0], backend="magic", median_ms=1e-6, reason="too fast to be true: 9 x")
    comparison = devices.compared([*rows, fast, *on_gpu(rows)])
    place = next(place for place in comparison.rows if place[1] == 256)
    assert comparison.fastest(place, CPU).backend == "sdpa"


# -- the command ---------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A results folder with the packs of these rows and nothing else."""

    def make(*packs):
        for i, rows in enumerate(packs):
            write_csv(tmp_path / "measured" / f"d{i}" / "kernels.csv", rows, KernelRow)
        return tmp_path

    return make


def test_all_figures_from_kernels_alone(rows, folder, capsys):
    results = folder(rows, on_gpu(rows))
    assert main(None, ["--results", str(results)]) == 0
    made = {line.rpartition("report/")[2] for line in capsys.readouterr().out.splitlines()}
    assert made == {
        "some-cpu-2-cores/kernels_attention_float32_b2h2d64.png",
        "some-cpu-2-cores/kernels_attention_float32_b2h2d64.svg",
        "some-gpu-80gb/kernels_attention_float32_b2h2d64.png",
        "some-gpu-80gb/kernels_attention_float32_b2h2d64.svg",
        "devices.md", "devices.tex", "devices.csv", "devices_attention_float32_b2h2d64.png",
        "devices_attention_float32_b2h2d64.svg",
    }  # fmt: skip
    assert main("kernels", ["--results", str(results), "--device", "some-gpu-80gb"]) == 0
    assert "some-cpu" not in capsys.readouterr().out


def test_one_device_has_nothing_to_compare_with(rows, folder, capsys):
    results = folder(rows)
    assert main("devices", ["--results", str(results)]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: only one device has timed kernels, {CPU}: nothing to compare")
    assert main(None, ["--results", str(results)]) == 0
    assert "devices" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "change", "said"),
    [
        (("kernels",), None, "no timed kernels in"),
        (("kernels", "--device", "Some CPUs"), {}, "unknown device 'Some CPUs': did you mean"),
        (("kernels",), {"status": "oom", "median_ms": None}, "no timed kernels in"),
        (("devices",), {"device": GPU, "length": 77}, "no two of these devices have timed the"),
    ],
)
def test_what_cannot_be_made_is_one_line(rows, folder, capsys, arguments, change, said):
    if change is None:
        results = folder()
    elif "status" in change:
        results = folder([replace(r, **change) for r in rows])
    else:
        results = folder(rows, [replace(rows[0], **change)])
    name, *more = arguments
    assert main(name, ["--results", str(results), *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {said}")
    assert not (results / "report").exists()


def test_a_foreign_pack_is_one_line(rows, folder, capsys):
    results = folder(rows)
    path = results / "measured" / "d0" / "kernels.csv"
    path.write_text(path.read_text().replace("float32,forward,ok", "float32,forward,fast", 1))
    assert main("kernels", ["--results", str(results)]) == 2
    assert "kernels.csv: row 2, column 'status': 'fast' is none of" in capsys.readouterr().err
