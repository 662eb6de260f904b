"""Tables: measured beside published, failures as failures, missing as a dash, never 0."""

import csv
import io
from dataclasses import replace

import pytest

from lra.results.published import read_published
from plots.entries import load
from plots.lra_table import build, records, write
from plots.pairs import differences, matrix
from plots.pairs import write as write_pairs
from plots.tables import Table, latex, markdown

FIVE = ("listops", "text", "retrieval", "image", "pathfinder")


def _build(folder):
    (group,) = load(folder)
    return group, build(group, read_published(folder))


def _cells(table):
    return {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}


def test_measured_beside_published_and_baselines_first(results, rows):
    _, (table,) = _build(results(rows))
    assert [row[0] for row in table.rows[:2]] == ["chance", "first operator"]
    cells = _cells(table)
    # 4.302653 * 1.2 / sqrt(3) = 2.98
    assert cells["transformer"]["ListOps"] == "45.5 ± 3.0 (3)"
    assert cells["transformer"]["published"] == "36.37 [1]"
    assert cells["first operator"]["ListOps"] == "34.0"
    assert cells["performer"]["left chance"] == "3/3"
    assert cells["performer"]["steps/s"] == "17.1" and cells["performer"]["parameters"] == "170,000"
    notes = " ".join(table.notes)
    assert "[1] Tay et al. 2020 (arXiv 2011.04006), Table 1" in notes
    for part in ("Some CPU @ 2.1GHz", "protocol: laptop", "ListOps regenerated", "torch 2.13.0"):
        assert part in notes
    assert "2026-11-20 to 2026-11-22" in notes and "secondary copy" in notes
    assert "protocol laptop" in table.title


def test_failures_and_gaps_are_shown_as_what_they_are(results, rows, make_row):
    changed = [r for r in rows if r.model != "lru"]
    changed += [make_row("lru", s, status="oom", test_acc=None) for s in range(2)]
    changed += [make_row("performer", 3, cell="n", status="nan", test_acc=None)]
    changed += [make_row("s4d", 0, cell="t", task="text")]
    _, (table, costs) = _build(results(changed))
    cells = _cells(table)
    assert cells["lru"]["ListOps"] == "2 oom"
    assert cells["performer"]["ListOps"] == "43.1 ± 3.7 (3; 1 nan)"
    assert cells["performer"]["Text"] == "—"
    assert cells["s4d"]["Text"] == "52.4 (1)"
    assert not any(cell in ("0", "0.0") for row in (*table.rows, *costs.rows) for cell in row)
    assert ["lru", "ListOps", "—", "—", "—", "—"] in [list(row) for row in costs.rows]


def _on(rows, *tasks):
    return [replace(row, cell=task + row.cell, task=task) for row in rows for task in tasks]


def test_averages_only_where_all_their_tasks_are(results, rows):
    two = [row for row in rows if row.model in ("lru", "s4d")]
    _, (table, _) = _build(results(_on(two, *FIVE[:4])))
    assert "No averages" in " ".join(table.notes) and len(table.header) == 10
    some = [*_on(two, *FIVE[:4]), *_on([r for r in two if r.model == "lru"], "pathfinder")]
    _, (table, _) = _build(results(some))
    cells = _cells(table)
    assert cells["lru"]["Avg of 5 (no Path-X)"] == "55.6"
    assert cells["s4d"]["Avg of 5 (no Path-X)"] == "—"
    assert "Avg of 6 (failed Path-X = 50)" not in table.header


def test_a_failed_path_x_counts_as_50_in_the_average_of_six(results, rows):
    lru = [row for row in rows if row.model == "lru"]
    failed = [replace(row, status="timeout", test_acc=None) for row in lru]
    group, (table, _) = _build(results([*_on(lru, *FIVE), *_on(failed, "path_x")]))
    cells = _cells(table)["lru"]
    assert cells["Avg of 5 (no Path-X)"] == "55.6"
    # (5 * 55.6 + 50) / 6
    assert cells["Avg of 6 (failed Path-X = 50)"] == "54.7"
    tidy = [r for r in records(group, []) if r[2] == "avg6"]
    assert tidy[0][9] == pytest.approx((5 * 0.556 + 0.5) / 6)


def test_degenerate_models_are_marked(results, rows):
    changed = [replace(row, degenerate=row.model == "linformer") for row in rows]
    _, (table,) = _build(results(changed))
    assert "linformer †" in _cells(table) and any("† dense" in note for note in table.notes)


def test_tidy_csv_says_the_same_unrounded(results, rows, tmp_path):
    folder = results(rows)
    written = write(load(folder), read_published(folder), tmp_path / "out")
    assert [path.name for path in written] == [
        f"lra_table_laptop.{kind}" for kind in ("md", "tex", "csv")
    ]
    lines = list(csv.DictReader(io.StringIO(written[2].read_text())))
    assert len(lines) == 10
    (performer,) = [line for line in lines if line["model"] == "performer"]
    assert float(performer["test_acc_mean"]) == pytest.approx(0.431)
    # three seeds are too few to leave any out, or to draw an interval from
    assert float(performer["test_acc_iqm"]) == pytest.approx(0.431)
    assert performer["test_acc_iqm_low"] == ""
    assert float(performer["published_acc"]) == pytest.approx(0.1801)
    assert performer["degenerate"] == "false" and performer["left_chance"] == "3"
    assert lines[0]["model"] == "chance" and lines[0]["seeds"] == ""


def test_pairs_say_what_exceeds_the_seed_spread(results, rows, make_row, tmp_path):
    folder = results([*rows, make_row("lru", 0, cell="one", model="gla", test_acc=0.3)])
    (group,) = load(folder)
    found = {(a.name, b.name): d for a, b, d in differences(group.of_task("listops"))}
    assert len(found) == 9 * 8 / 2
    assert found["s4d", "linformer"].verdict == "resolved"
    assert found["transformer", "local_attention"].verdict == "not resolved"
    assert found["lru", "gla"].verdict == "n too small"
    assert all(d.difference >= 0 for d in found.values())
    table = matrix(group, "listops", differences(group.of_task("listops")))
    first, *_, last = table.rows
    assert first[0] == "1 lru" and first[1] == "55.6 (3)" and first[2] == "—"
    # one seed has no spread: named below the table
    assert last[0].split()[0] == "8" and "One seed, so no spread: gla." in table.notes
    # far above the others, and two that are too close to tell apart
    ranks = {row[0].split()[1]: row[-1] for row in table.rows}
    assert ranks["lru"] == "1 to 2" and "gla" not in ranks
    assert ranks["transformer"] != ranks["transformer"].replace("to", "")
    by_name = {row[0].split()[1]: row[2:-1] for row in table.rows}
    order = [row[0].split()[1] for row in table.rows]
    assert by_name["s4d"][order.index("linformer")] == "+"
    assert by_name["linformer"][order.index("s4d")] == "−"
    markdown_file, _, csv_file = write_pairs([group], tmp_path)
    lines = list(csv.DictReader(io.StringIO(csv_file.read_text())))
    assert len(lines) == 36 and {"resolved", "n too small"} <= {line["verdict"] for line in lines}
    assert "of 28 pairs are resolved" in markdown_file.read_text()


def test_markdown_and_latex_survive_strange_names():
    table = Table(
        "50 % & more_", ["a|b", "x"], [["m_1\n| $5 {y}", "1.0 ± 2 †"], ["—", "3"]], ["<n>"]
    )
    lines = markdown([table]).splitlines()
    assert lines[2:6] == [
        "| a\\|b          |         x |",
        "|---------------|----------:|",
        "| m_1 \\| $5 {y} | 1.0 ± 2 † |",
        "| —             |         3 |",
    ]
    text = latex([table])
    assert r"m\_1 \textbar{} \$5 \{y\} & 1.0 $\pm$ 2 \dag{} \\" in text
    assert r"\caption{50 \% \& more\_}" in text and "$<$n$>$" in text
    assert text.count("{") == text.count("}")


def test_rows_of_wrong_length_are_our_own_fault():
    with pytest.raises(AssertionError):
        Table("t", ["a", "b"], [["1"]])
