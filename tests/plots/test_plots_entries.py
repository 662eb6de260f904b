"""Rows become entries: what is averaged together, and what never is."""

from collections import Counter
from dataclasses import replace

import pytest

from lra.errors import UserError
from lra.results.collect import write_row
from plots.entries import baselines, entries, load


def test_seeds_of_one_model_are_one_entry(rows):
    found = {entry.name: entry for entry in entries(rows)}
    assert len(found) == 8
    performer = found["performer"]
    assert performer.accuracies == pytest.approx([0.416, 0.431, 0.446])
    assert performer.accuracy.mean == pytest.approx(0.431) and performer.accuracy.n == 3
    assert (performer.steps_per_s, performer.peak_mem_mib) == (17.1, 190.0)


def test_failed_and_missing_values_are_never_averaged(make_row):
    (entry,) = entries(
        [
            make_row("performer", 0),
            make_row("performer", 1, status="nan", test_acc=None, steps_per_s=None),
            make_row("performer", 2, status="oom", test_acc=None, peak_mem_mib=None),
        ]
    )
    assert entry.accuracy.n == 1 and entry.accuracy.mean == pytest.approx(0.416)
    assert entry.failures == Counter(nan=1, oom=1)
    assert entry.steps_per_s == 17.1


def test_variants_of_a_model_stay_apart_and_are_named(make_row):
    found = entries(
        [
            make_row("performer", 0, mixer_knobs='{"kernel": "relu", "nb_features": 16}'),
            make_row("performer", 0, cell="k", mixer_knobs='{"kernel": "relu", "nb_features": 8}'),
            make_row("lru", 0, cell="a", length=128),
            make_row("lru", 0, cell="b", length=256),
            make_row("lru", 0, cell="c", task="text", length=1024),
            make_row("s4d", 0, mixer_knobs="[{}, {}]"),
            make_row("s4d", 0, cell="d", mixer_knobs="[{}]"),
        ]
    )
    assert {(e.first.task, e.name) for e in found} == {
        ("listops", "performer nb_features=16"),
        ("listops", "performer nb_features=8"),
        ("listops", "lru length=128"),
        ("listops", "lru length=256"),
        ("text", "lru length=1024"),
        ("listops", "s4d knobs=[{}, {}]"),
        ("listops", "s4d knobs=[{}]"),
    }


def test_a_seed_that_failed_before_its_backend_was_known_belongs_to_its_model(make_row):
    (entry,) = entries(
        [
            make_row("lru", 1, status="oom", test_acc=None, backend=None),
            make_row("lru", 0, backend="diagonal_scan=eager"),
        ]
    )
    assert entry.name == "lru" and entry.failures == Counter(oom=1)


def test_left_chance_counts_seeds(make_row):
    (entry,) = entries(
        [make_row("linformer", s, test_acc=acc) for s, acc in enumerate((0.345, 0.40, 0.39))]
    )
    assert entry.left_chance == (2, 3)
    (entry,) = entries([make_row("linformer", 0, n_test=None)])
    assert entry.left_chance is None


def test_baselines_are_named_and_sorted(rows, make_row):
    assert baselines(entries(rows)) == pytest.approx({"chance": 0.1, "first operator": 0.34})
    assert baselines(entries([make_row("lru", 0, chance_acc=None, trivial_acc=None)])) == {}


def test_load_groups_by_device_and_protocol(results, rows):
    other = [replace(row, cell="g" + row.cell, device="GPU") for row in rows[:3]]
    smoke = [replace(row, cell="s" + row.cell, protocol="smoke") for row in rows[:3]]
    folder = results([*rows, *other, *smoke])
    groups = [(g.device, g.protocol, len(g.entries)) for g in load(folder)]
    device = "Some CPU @ 2.1GHz"
    assert groups == [("GPU", "laptop", 1), (device, "laptop", 8), (device, "smoke", 1)]
    assert [g.device for g in load(folder, "laptop", "some-cpu-2.1ghz")] == [device]
    assert [g.protocol for g in load(folder, device=device)] == ["laptop", "smoke"]
    with pytest.raises(UserError, match="unknown protocol 'labtop': did you mean 'laptop'"):
        load(folder, "labtop")
    with pytest.raises(UserError, match="unknown device 'TPU'"):
        load(folder, device="TPU")


def test_load_adds_finished_cells_to_committed_ones(results, rows, make_row):
    folder = results(rows)
    mine = [make_row("lru", 0, cell="again", test_acc=0.9), make_row("lru", 9, cell="new")]
    for row in mine:
        write_row(row, folder / "local")
    (group,) = load(folder)
    (lru,) = [entry for entry in group.entries if entry.name == "lru"]
    assert {row.cell for row in lru.rows} == {"lru-0", "lru-1", "lru-2", "new"}


def test_tasks_come_in_the_order_of_the_lra_table(results, rows):
    tasks = ("zeta", "path_x", "image", "listops")
    changed = [replace(r, cell=t + r.cell, task=t) for r in rows[:1] for t in tasks]
    (group,) = load(results(changed))
    assert group.tasks == ["listops", "image", "path_x", "zeta"]


def test_interrupted_rows_are_not_results(results, make_row):
    with pytest.raises(UserError, match="no results in"):
        load(results([make_row("lru", 0, status="interrupted", test_acc=None)]))
