"""Tables against length: exponents, cross-overs, Table 2's kind, devices, conformance; and the
command on good and bad packs."""

import csv
import io
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lra.results.csv_io import read_csv, write_csv
from lra.results.published import read_published
from lra.results.schema import ConformanceRow, LengthRow, ModelRow
from plots import conformance, length_devices, lengths_table, speed_table
from plots.__main__ import OF_LENGTHS, main
from plots.crossings import crossings
from plots.length_entries import views

RESULTS = Path(__file__).parents[2] / "results"
LONG = (256, 512, 1024, 2048, 4096, 8192)


@pytest.fixture
def rows(make_lengths):
    """The transformer, one that is linear, and one that grows faster than its card says."""
    more = {"lengths": LONG, "peak_mem_mib": lambda n: n / 8, "gflop": lambda n: n / 1e3}
    rows = make_lengths("transformer", family="exact", backend="attention=sdpa",
                        median_ms=lambda n: n**2 / 1e5, **more)  # fmt: skip
    rows += make_lengths("performer", **more)
    return rows + make_lengths("linformer", median_ms=lambda n: n**1.5 / 2000, **more)


@pytest.fixture
def models():
    return {row.model: row for row in read_csv(RESULTS / "measured" / "models.csv", ModelRow)}


def cells(table):
    return {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}


def test_exponents_stand_beside_claims_and_mismatches_are_flagged(rows, models):
    (view,) = views(rows)
    table = lengths_table.growth(view, models)
    assert table.header == ["model", "claimed time", "time, forward", "FLOPs, forward",
                            "claimed memory", "memory, forward"]  # fmt: skip
    found = cells(table)
    assert found["transformer"]["time, forward"] == "2.00 (2.00 to 2.00)"
    assert found["transformer"]["claimed time"] == "N^2 d"
    assert found["performer"]["time, forward"] == "1.00 (1.00 to 1.00)"
    assert found["performer"]["memory, forward"] == "1.00 (1.00 to 1.00)"
    assert found["linformer"]["time, forward"] == "1.50 (1.50 to 1.50) !"
    assert any(note.startswith("! grows faster than the card claims") for note in table.notes)


def test_dense_attention_in_disguise_is_not_fitted(make_lengths, models):
    dense = make_lengths("bigbird", lengths=LONG[:4], degenerate=True, median_ms=lambda n: n**2)
    sparse = make_lengths("bigbird", lengths=(4096, 8192, 16384))
    (view,) = views(dense + sparse)
    found = cells(lengths_table.growth(view, models))
    assert found["bigbird †"]["time, forward"] == "1.00 (1.00 to 1.00)"
    (view,) = views(dense)
    assert cells(lengths_table.growth(view, models))["bigbird †"]["time, forward"] == "too few"


def test_exponents_without_card_or_points(rows, make_lengths):
    (view,) = views(rows + make_lengths("custom", lengths=(256, 512)))
    found = cells(lengths_table.growth(view, {}))
    assert found["custom"]["time, forward"] == "too few"
    assert found["custom"]["memory, forward"] == "too few"
    assert found["linformer"]["claimed time"] == "—" and "!" not in str(found["linformer"])


def test_cross_overs_against_both_baselines(rows, models, make_lengths, tmp_path):
    rows += make_lengths("transformer", family="exact", backend="attention=reference",
                         lengths=LONG[:4], median_ms=lambda n: n**2 / 5e4)  # fmt: skip
    rows += make_lengths("transformer", family="exact", backend=None, lengths=LONG[4:],
                         median_ms=None, status="oom")  # fmt: skip
    (view,) = views(rows)
    markdown, _, tidy = lengths_table.write([view], models, tmp_path)
    text = markdown.read_text()
    assert "less time or memory than fused attention (SDPA)" in text
    assert "less time or memory than naive softmax attention" in text
    assert "Baseline oom from N=4096" in text
    records = list(csv.DictReader(io.StringIO(tidy.read_text())))
    time = {(r["model"], r["compared_with"]): r for r in records
            if r["quantity"] == "crossover in time"}  # fmt: skip
    assert float(time["performer", "fused"]["value"]) == pytest.approx(1000)
    assert float(time["performer", "naive"]["value"]) == pytest.approx(500)
    # n^2 / 1e5 = n^1.5 / 2000 at 2500
    assert float(time["linformer", "fused"]["value"]) == pytest.approx(2500)
    grown = {r["model"]: r for r in records if r["quantity"] == "exponent of time"}
    assert grown["linformer"]["exceeds_claim"] == "true"
    assert grown["performer"]["exceeds_claim"] == "false"


def test_causal_rows_are_held_to_the_claim_of_the_causal_form(make_lengths, models):
    card = replace(models["performer"], time="N d", causal_time="N^2 d")
    quadratic = {"lengths": LONG, "median_ms": lambda n: n**2 / 1e5}
    for causal, claim, cell in (
        (True, "N^2 d", "2.00 (2.00 to 2.00)"), (False, "N d", "2.00 (2.00 to 2.00) !"),
    ):  # fmt: skip
        (view,) = views(make_lengths("performer", causal=causal, **quadratic))
        found = cells(lengths_table.growth(view, {"performer": card}))["performer"]
        assert (found["claimed time"], found["time, forward"]) == (claim, cell)


def test_the_table_of_cross_overs_marks_disguises_and_how_far_it_goes(rows, make_lengths):
    rows += make_lengths("bigbird", lengths=LONG, degenerate=lambda n: n < 1024)
    rows += make_lengths("luna", lengths=LONG[:4])
    (view,) = views(rows)
    table = lengths_table.crossing_table(view, "fused", crossings(view, "fused"))
    found = {row[0]: row[1] for row in table.rows}
    assert found["bigbird †"].startswith("from 1K on") and "performer" in found
    assert found["luna"].endswith(", up to 2K")
    said = " ".join(table.notes)
    for part in ("drift from one cell to the next is not in them", "† dense softmax attention",
                 "System not measured from N=4096: luna (time, forward)"):  # fmt: skip
        assert part in said


def test_remarks_of_the_cross_overs_name_few_systems_and_count_many(rows, make_lengths):
    for name in ("bigbird", "luna", "linear_transformer", "s4d"):
        rows += make_lengths(name, lengths=LONG[:4])
    rows += make_lengths("longformer", lengths=LONG, degenerate=lambda n: n < 512,
                         peak_mem_mib=lambda n: n / 9)  # fmt: skip
    (view,) = views(rows)
    told = lengths_table.crossing_table(view, "fused", crossings(view, "fused")).notes
    assert "System not measured from N=4096: most systems (time, forward)." in told
    # in every column: those need no naming
    assert "Dense attention itself at N=256, left out: longformer." in told


def test_the_control_tells_how_far_cells_drift(rows, make_lengths):
    """The same ops under another name, 20 % slower: no answer, and wider intervals for all."""
    (alone,) = views(rows)
    (base,) = (one for one in alone.series if one.first.model == "transformer")
    rows += [
        replace(row, model="flash_attention", median_ms=1.2 * row.median_ms) for row in base.rows
    ]
    (view,) = views(rows)
    table = lengths_table.crossing_table(view, "fused", crossings(view, "fused"))
    found = {row[0]: row[1] for row in table.rows}
    assert found["flash_attention"].startswith("not resolvable")
    assert "drift from one cell to the next: 20 % of a time" in " ".join(table.notes)

    def width(view, name):
        (one,) = (
            one.answer for one in crossings(view, "fused")
            if (one.system.first.model, one.measure) == (name, "time")
        )  # fmt: skip
        return (one.high or one.last) / (one.low or one.first)

    assert width(view, "performer") > 1.2 * width(alone, "performer")


# -- Table 2's kind ------------------------------------------------------------------------------


@pytest.fixture
def steps(make_lengths):
    more = {"pass_": "step", "lengths": (1024, 2048, 3072, 4096)}
    rows = make_lengths(
        "transformer", family="exact", backend="attention=sdpa", median_ms=lambda n: n**2 / 1e4,
        peak_mem_mib=lambda n: n / 4, **more,
    )  # fmt: skip
    rows += make_lengths("performer", peak_mem_mib=lambda n: n / 8, **more)
    more["status"] = lambda n: "ok" if n < 4096 else "oom"
    return rows + make_lengths("novel", median_ms=lambda n: 5.0 if n < 4096 else None, **more)


def test_multiples_of_the_transformer_beside_published_ones(steps):
    (view,) = views(steps)
    published = read_published(RESULTS)
    speed, memory = speed_table.speed(view, published), speed_table.memory(view, published)
    by_name = {row[0]: row[1:] for row in speed.rows}
    # 10.24 ms, against 104.8576 ms of the transformer; published 9.5 against 8.1 at 1K
    assert by_name["performer"][:3] == ["97.7", "10.24", "1.17 [1]"]
    # 40.96 ms against 1677.7216 ms; published 8.0 against 1.4 at 4K
    assert by_name["performer"][-3:] == ["24.4", "40.96", "5.71 [1]"]
    assert by_name["transformer"][1] == "1.00" and by_name["novel"][2] == "—"
    assert by_name["novel"][-3:] == ["oom", "—", "—"]
    shares = {row[0]: row[1:] for row in memory.rows}
    assert shares["performer"][:2] == ["128.0", "0.50"]
    assert any(note.startswith("[1] Tay et al. 2020") for note in speed.notes)
    tidy = [dict(zip(speed_table.CSV_COLUMNS, r, strict=True)) for r in
            speed_table.records(view, published)]  # fmt: skip
    mine = next(r for r in tidy if (r["model"], r["length"]) == ("performer", 4096))
    assert mine["times_faster"] == pytest.approx(40.96)
    assert mine["published_times_faster"] == pytest.approx(8.0 / 1.4)
    assert "Tay et al. 2020" in mine["published_source"]


def test_times_within_their_noise_are_not_told_apart(make_lengths):
    """Medians of ten calls that spread by 10 % are known to 4 % each."""
    more = {"pass_": "step", "lengths": (1024, 2048), "cv": 0.1, "n_samples": 10}
    rows = make_lengths("transformer", family="exact", backend="attention=sdpa", **more)
    rows += make_lengths("near", median_ms=lambda n: n / 105, **more)
    rows += make_lengths("far", median_ms=lambda n: n / 125, **more)
    (view,) = views(rows)
    table = speed_table.speed(view, [])
    found = {row[0]: row[2] for row in table.rows}
    assert found == {"transformer": "1.00", "near": "1.05 ≈", "far": "1.25"}
    assert any(note.startswith("≈: not resolvable") for note in table.notes)
    # bytes are counted: nothing of them is noise
    assert all("≈" not in cell for row in speed_table.memory(view, []).rows for cell in row)


def test_the_speed_table_needs_steps_at_its_lengths_and_says_what_it_lacks(steps, make_lengths):
    (view,) = views(make_lengths("performer", pass_="step", lengths=(256, 8192)))
    assert speed_table.lengths(view) == {}
    (view,) = views(make_lengths("performer", pass_="step", lengths=(1000, 2048)))
    assert speed_table.lengths(view) == {1: 1000, 2: 2048}
    alone = [row for row in steps if row.model != "transformer"]
    (view,) = views(alone)
    notes = " ".join(speed_table.speed(view, []).notes)
    assert "The transformer with fused attention was not measured" in notes


def test_only_whole_models_stand_beside_the_published_ones(make_lengths, tmp_path):
    (view,) = views(make_lengths("performer", pass_="step", level="mixer", lengths=(1024, 2048)))
    assert speed_table.lengths(view) == {}
    assert speed_table.write([view], read_published(RESULTS), tmp_path) == []


def test_the_speed_table_marks_disguises_at_its_lengths(make_lengths):
    more = {"pass_": "step", "lengths": (256, 1024, 2048)}
    rows = make_lengths("bigbird", degenerate=lambda n: n == 256, **more)
    rows += make_lengths("longformer", degenerate=lambda n: n == 1024, **more)
    (view,) = views(rows)
    table = speed_table.speed(view, [])
    assert [row[0] for row in table.rows] == ["bigbird", "longformer †"]
    assert "protocol laptop" in " ".join(table.notes)


# -- devices and conformance ---------------------------------------------------------------------


def test_devices_are_compared_where_both_have_timed(rows, tmp_path):
    gpu = [replace(r, device="GPU", median_ms=r.median_ms / 10) for r in rows if r.length < 1024]
    written = length_devices.write(views([*rows, *gpu]), tmp_path)
    table = written[0].read_text()
    assert "| performer, N=512 " in table and "N=1024" not in table
    records = list(csv.DictReader(io.StringIO(written[2].read_text())))
    ours = [r for r in records if (r["model"], r["length"]) == ("performer", "512")]
    assert {r["device"]: float(r["times_faster"]) for r in ours} == pytest.approx(
        {"GPU": 1.0, "Some CPU": 0.1}
    )
    assert length_devices.write(views(rows), tmp_path) == []


def test_conformance_is_models_by_checks():
    rows = [
        ConformanceRow(model="a", check="shapes", status="pass"),
        ConformanceRow(model="a", check="causal", status="refuses", reason="cannot"),
        ConformanceRow(model="b", check="shapes", status="not applicable"),
    ]
    table = conformance.matrix(rows)
    assert [list(row) for row in table.rows] == [["a", "+", "r"], ["b", "·", "—"]]
    assert "Checks: 1 shapes, 2 causal." in table.notes
    (why,) = conformance.refusals(rows)
    assert [list(row) for row in why.rows] == [["a", "causal", "cannot"]]


# -- the command ---------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A results folder with packs of these rows and the published numbers."""

    def make(*packs):
        shutil.copytree(RESULTS / "published", tmp_path / "published")
        for i, rows in enumerate(packs):
            rows = [replace(r, cell=f"{i}-{j}") for j, r in enumerate(rows)]
            write_csv(tmp_path / "measured" / f"d{i}" / "lengths.csv", rows, LengthRow)
        return tmp_path

    return make


def failure(capsys, name, *arguments):
    assert main(name, [str(argument) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("error: ")


def test_all_figures_and_tables_from_lengths_alone(rows, steps, folder, capsys):
    results = folder([*rows, *steps])
    assert main(None, ["--results", str(results)]) == 0
    made = {Path(line).name for line in capsys.readouterr().out.splitlines()}
    some = "model_float32_laptop_b1d64h2l2"
    assert made == {
        *(f"time_vs_length_{some}_{p}.{k}" for p in ("forward", "step") for k in ("png", "svg")),
        *(f"memory_vs_length_{some}_{p}.{k}" for p in ("forward", "step") for k in ("png", "svg")),
        f"flops_vs_length_{some}_forward.png", f"flops_vs_length_{some}_forward.svg",
        f"crossover_{some}.png", f"crossover_{some}.svg",
        *(f"{t}_table_{some}.{k}" for t in ("lengths", "speed") for k in ("md", "tex", "csv")),
    }  # fmt: skip


@pytest.mark.parametrize("name", OF_LENGTHS)
def test_without_lengths_each_says_what_to_run(name, folder, capsys):
    results = folder()
    said = failure(capsys, name, "--results", results)
    assert said.startswith("no measured lengths in") and "task=lengths" in said
    assert not (results / "report").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("crossover", "no transformer with fused or naive attention beside another system in"),
        ("decode_vs_length", "no decoding in the measured lengths of"),
        ("speed_table", "no training step of a whole model at 1K to 4K in the measured"),
        ("memory_vs_length", "no peak memory in the measured lengths of"),
        ("flops_vs_length", "no counted operations in the measured lengths of"),
        ("length_devices", "only one device has timed lengths, Some CPU: nothing to compare"),
    ],
)
def test_what_is_lacking_is_one_line(name, said, folder, make_lengths, capsys):
    results = folder(make_lengths("performer"))
    assert failure(capsys, name, "--results", results).startswith(said)


def test_only_failures_make_tables_but_no_figure(folder, make_lengths, capsys):
    rows = make_lengths("performer", status="oom", median_ms=None, backend=None)
    results = folder(rows)
    assert "no time of a call" in failure(capsys, "time_vs_length", "--results", results)
    assert main("lengths_table", ["--results", str(results)]) == 0
    text = (results / "report/some-cpu/lengths_table_model_float32_laptop_b1d64h2l2.md").read_text()
    assert text.splitlines()[4].count(" too few |") == 3


def test_unknown_devices_and_foreign_packs_are_one_line(rows, folder, capsys):
    results = folder(rows)
    arguments = ["--results", results, "--device", "Some CPUs"]
    assert "unknown device 'Some CPUs': did you mean" in failure(capsys, None, *arguments)
    assert "unknown device 'Some CPUs': did you mean" in failure(capsys, "crossover", *arguments)
    wrong = ["--results", results, "--protocol", "lapto"]
    assert "unknown protocol 'lapto': did you mean" in failure(capsys, "crossover", *wrong)
    path = results / "measured" / "d0" / "lengths.csv"
    good = path.read_text()
    path.write_text(good.replace(",forward,ok,", ",sideways,ok,", 1))
    assert "row 2, column 'pass': 'sideways' is none of" in failure(
        capsys, None, "--results", results
    )
    path.write_text(good.replace("10.24", "nan", 1))
    assert "'nan' is not a finite number" in failure(capsys, None, "--results", results)
    path.write_text("model,score\nx,1\n")
    assert "missing columns" in failure(capsys, "crossover", "--results", results)
