"""The committed published numbers: valid, unique, and what the papers print."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from lra.errors import UserError
from lra.results.published import read_published, reference

RESULTS = Path(__file__).parents[2] / "results"
FIVE = ("listops", "text", "retrieval", "image", "pathfinder")
# the paper's Table 1, row by row: five tasks, then the printed average
TABLE_1 = {
    "transformer": (36.37, 64.27, 57.46, 42.44, 71.40, 54.39),
    "local_attention": (15.82, 52.98, 53.39, 41.46, 66.63, 46.06),
    "sparse_transformer": (17.07, 63.58, 59.59, 44.24, 71.71, 51.24),
    "longformer": (35.63, 62.85, 56.89, 42.22, 69.71, 53.46),
    "linformer": (35.70, 53.94, 52.27, 38.56, 76.34, 51.36),
    "reformer": (37.27, 56.10, 53.40, 38.07, 68.50, 50.67),
    "sinkhorn_transformer": (33.67, 61.20, 53.83, 41.23, 67.45, 51.39),
    "synthesizer": (36.99, 61.68, 54.67, 41.61, 69.45, 52.88),
    "bigbird": (36.05, 64.02, 59.29, 40.83, 74.87, 55.01),
    "linear_transformer": (16.13, 65.90, 53.09, 42.34, 75.30, 50.55),
    "performer": (18.01, 65.40, 53.82, 42.77, 77.05, 51.41),
}


@pytest.fixture(scope="module")
def rows():
    return read_published(RESULTS)


def test_files_and_counts(rows):
    files = {path.stem for path in (RESULTS / "published").glob("*.csv")}
    assert files == {"lra_2020", "attention", "ssm", "pretraining", "speed", "trivial"}
    assert len(rows) == 1032
    assert Counter(row.provenance for row in rows) == {
        "table seen": 649, "secondary copy": 280, "memory": 82, "derived": 21,
    }  # fmt: skip


def test_no_number_is_there_twice_across_files(rows):
    keys = Counter((r.name, r.task, r.metric, r.source, r.protocol, r.setting) for r in rows)
    assert keys.most_common(1)[0][1] == 1


def test_a_failure_has_no_value_and_a_value_has_one(rows):
    assert all((row.value is None) == (row.status != "value") for row in rows)
    assert {row.task for row in rows if row.status == "fail"} == {"path_x", "path_256"}


def test_percentages_lie_between_0_and_100(rows):
    assert all(0 < row.value <= 100 for row in rows if row.unit == "%" and row.value is not None)


@pytest.mark.parametrize("system", TABLE_1)
def test_lra_table_1(rows, system):
    cells = [reference(rows, system, task) for task in (*FIVE, "avg5")]
    assert tuple(cell.value for cell in cells) == TABLE_1[system]
    assert {cell.protocol for cell in cells} == {"lra_paper"}
    assert reference(rows, system, "path_x").status == "fail"


@pytest.mark.parametrize("system", TABLE_1)
def test_both_averages_follow_from_the_cells(rows, system):
    five = [reference(rows, system, task).value for task in FIVE]
    printed = reference(rows, system, "avg5").value
    # the paper's Sinkhorn average contradicts its own cells (51.48)
    assert abs(printed - sum(five) / 5) < (0.1 if system == "sinkhorn_transformer" else 0.011)
    assert abs(reference(rows, system, "avg6").value - (sum(five) + 50) / 6) < 0.006


@pytest.mark.parametrize(
    ("system", "value", "source"),
    [
        ("nystromformer", 37.15, "Xiong"),
        ("s4d", 60.47, "S4D"),
        ("lru", 60.2, "LRU"),
        ("mega", 63.14, "Mega"),
    ],
)
def test_reference_of_systems_that_the_lra_paper_lacks(rows, system, value, source):
    found = reference(rows, system, "listops")
    assert found.value == value and source in found.source


def test_the_lra_paper_counts_before_earlier_and_better_documented_rows(rows):
    row = next(r for r in rows if r.protocol == "lra_paper" and r.task == "listops")
    lra = replace(row, provenance="memory", value=1.0)
    earlier = replace(row, protocol=None, year=2017, value=2.0)
    later = replace(row, protocol=None, provenance="secondary copy", value=3.0)
    assert reference([later, earlier, lra], row.system, "listops") is lra
    assert reference([later, earlier], row.system, "listops") is earlier


def test_pretrained_numbers_never_stand_in_for_others(rows):
    assert reference(rows, "flash_attention", "path_x") is None
    assert reference(rows, "flash_attention", "path_x", "test_acc_pretrained").value == 61.4


def test_unknown_system_has_no_reference(rows):
    assert reference(rows, "my_mixer", "listops") is None


def test_every_trivial_rule_of_listops_is_there(rows):
    found = {row.name: row.value for row in rows if row.task == "listops" and row.system is None}
    assert found["majority class"] == 17.0 and found["first operator only"] == 36.3


def test_a_folder_without_numbers_is_refused(tmp_path):
    with pytest.raises(UserError, match="no published numbers"):
        read_published(tmp_path)
