"""The committed tables, and the README's, are what the commands make of the committed rows."""

import csv
import re
from pathlib import Path

import pytest

from plots.__main__ import make

ROOT = Path(__file__).resolve().parents[2]
TABLES = ("lra_table", "pairs", "lengths_table", "speed_table", "conformance")


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """The committed results, without what this checkout has run itself."""
    folder = tmp_path_factory.mktemp("results")
    for name in ("measured", "published"):
        (folder / name).symlink_to(ROOT / "results" / name)
    return folder


@pytest.mark.parametrize("name", TABLES)
def test_the_report_is_that_of_the_rows(measured, tmp_path, name):
    for path in make(measured, tmp_path, only=name):
        committed = ROOT / "results" / "report" / path.relative_to(tmp_path)
        assert committed.read_text() == path.read_text(), f"{committed}: run `python -m plots`"


def test_the_readmes_table_is_that_of_the_rows():
    (path,) = (ROOT / "results" / "report").glob("*/lra_table_laptop.csv")
    with path.open() as file:
        rows = {row["model"]: row for row in csv.DictReader(file) if row["task"] == "listops"}
    told = re.findall(r"^\| (\w+) \| ([\d.]+) ± ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$",
                      (ROOT / "README.md").read_text(), flags=re.MULTILINE)  # fmt: skip
    assert len(told) > 5
    for model, *numbers in told:
        row = {key: float(value) for key, value in rows[model].items() if key in COLUMNS}
        mean, low, high, steps, mib = (row[key] for key in COLUMNS)
        wanted = [100 * mean, 50 * (high - low), steps, mib]
        assert numbers == [f"{number:.1f}" for number in wanted], model


COLUMNS = ("test_acc_mean", "test_acc_low", "test_acc_high", "steps_per_s", "peak_mem_mib")
