"""Mixers, blocks and models side by side."""

import csv
from dataclasses import replace

import pytest

from plots import levels_table
from plots.length_entries import views

LAYERS = {"mixer": 1, "block": 1, "model": 2}
# beside attention at 10 ms, what surrounds a mixer costs the same in every system
MS = {
    "mixer": {"transformer": 10.0, "performer": 1.0, "mamba": 20.0},
    "block": {"transformer": 20.0, "performer": 11.0, "mamba": 30.0},
    "model": {"transformer": 60.0, "performer": 42.0, "mamba": 80.0},
}


@pytest.fixture
def rows(make_lengths):
    """Three systems at three levels; mamba is a block, and always causal."""
    found = []
    for level, of_level in MS.items():
        for model, ms in of_level.items():
            changes = {"backend": "attention=sdpa", "family": "exact"}
            one = make_lengths(
                model, lengths=(1024, 4096), level=level, layers=LAYERS[level], median_ms=ms,
                n_samples=9, **(changes if model == "transformer" else {}),
            )  # fmt: skip
            if (model, level) == ("mamba", "mixer"):
                one = [replace(row, status="unsupported", median_ms=None) for row in one]
            found += [replace(row, causal=model == "mamba") for row in one]
    return found


def cells(table):
    return {row[0]: list(row[1:]) for row in table.rows}


def test_what_a_fast_mixer_is_in_a_block_and_a_model(rows, tmp_path):
    (levels,) = levels_table.stacks(views(rows))
    assert list(levels) == ["mixer", "block", "model"]
    assert levels_table.common(levels) == [("forward", 1024), ("forward", 4096)]
    table = levels_table.table(levels, "forward", 4096)
    assert table.header == ["model", "bare mixer ×", "one block ×", "whole model ×"]
    found = cells(table)
    assert found["transformer"] == ["1.00", "1.00", "1.00"]
    assert found["performer"] == ["10.00", "1.82", "1.43"]
    assert found["mamba"] == ["unsupported", "0.67", "0.75"]
    written = levels_table.write(views(rows), tmp_path)
    assert {path.name for path in written} == {
        f"levels_table_float32_laptop_b1d64h2l2.{end}" for end in ("md", "tex", "csv")
    }
    with next(path for path in written if path.suffix == ".csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 18
    # as in a pack where naive attention was timed at one level only
    rows += [
        replace(row, backend="attention=reference", median_ms=90.0) for row in rows
        if (row.model, row.level) == ("transformer", "model")
    ]  # fmt: skip
    (levels,) = levels_table.stacks(views(rows))
    assert cells(levels_table.table(levels, "forward", 4096)) == found
    line = next(x for x in lines if (x["model"], x["level"]) == ("performer", "mixer"))
    assert float(line["times_faster"]) == 10 and line["length"] == "1024"


def test_other_sizes_and_decoders_are_not_set_beside_each_other(rows, make_lengths):
    wide = [replace(row, dim=256) for row in rows if row.level != "model"]
    models = [row for row in rows if row.level == "model"]
    assert levels_table.stacks(views(wide + models)) == []
    decoding = make_lengths("s4", level="mixer", layers=1, pass_="decode", causal=True)
    assert levels_table.stacks(views(decoding + models)) == []


def test_a_level_alone_or_without_fused_attention_makes_no_table(rows, tmp_path):
    assert levels_table.write(views([r for r in rows if r.level == "block"]), tmp_path) == []
    assert levels_table.write(views([r for r in rows if r.model != "transformer"]), tmp_path) == []
    few = [r for r in rows if (r.level, r.length) != ("block", 1024)]
    (levels,) = levels_table.stacks(views(few))
    assert levels_table.common(levels) == [("forward", 4096)]
