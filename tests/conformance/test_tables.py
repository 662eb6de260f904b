"""The committed tables of cards and checks are those of the code as it is."""

from dataclasses import replace
from pathlib import Path

import pytest

from lra.conformance import tables
from lra.conformance.checks import CHECKS
from lra.conformance.document import document, proofs_of
from lra.conformance.outcome import Outcome
from lra.conformance.subject import load, presets
from lra.results.csv_io import read_csv
from lra.results.schema import ConformanceRow, ModelRow
from lra.results.source import ROOT

MEASURED = ROOT / "results" / "measured"


def test_committed_cards_are_current():
    assert read_csv(MEASURED / "models.csv", ModelRow) == tables.model_rows()


@pytest.mark.parametrize("model", presets())
def test_committed_conformance_is_current(model):
    committed = [r for r in read_csv(MEASURED / "conformance.csv", ConformanceRow)]
    mine = [row for row in committed if row.model == model]
    assert [row.check for row in mine] == list(CHECKS), "other checks than the committed ones"
    assert {row.source for row in mine} == {tables.digest(model)}, "the code has changed since"


def test_committed_conformance_names_no_other_model():
    committed = read_csv(MEASURED / "conformance.csv", ConformanceRow)
    assert {row.model for row in committed} == set(presets())


def test_models_md_is_what_the_tables_say():
    models = read_csv(MEASURED / "models.csv", ModelRow)
    checks = read_csv(MEASURED / "conformance.csv", ConformanceRow)
    assert (ROOT / "MODELS.md").read_text() == document(models, checks)


def test_document_says_what_a_causal_form_takes_and_families_as_list_takes_them():
    row = next(row for row in read_csv(MEASURED / "models.csv", ModelRow) if row.causal_time)
    line = document([replace(row, family="low_rank", time="N d", causal_time="N^2 d")], [])
    assert f"| {row.model} | low_rank |" in line and "| N d (causal: N^2 d) |" in line
    assert "(causal:" not in document([replace(row, causal_time=None)], [])


def test_document_says_whose_layers_have_no_feed_forward_network():
    for model, told in (("mamba", "| mamba (no ffn) | ssm |"), ("lru", "| lru | recurrent |")):
        assert told in document([tables.model_row(load(model))], [])


@pytest.mark.parametrize("model", presets())
def test_every_model_is_held_to_its_equations(model):
    assert proofs_of(model), f"no file of tests/models names the class of '{model}'"


def test_failing_card_writes_nothing(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(tables, "examine", lambda subject: [Outcome("padding", "fail", "leaks")])
    with pytest.raises(AssertionError, match="fails padding: leaks"):
        tables.write(tmp_path / "results")
    assert not list(tmp_path.rglob("*"))


def test_tables_are_written(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(tables, "presets", lambda: ["transformer"])
    monkeypatch.setattr(tables, "examine", lambda subject: [Outcome("cross", "refuses", "no")])
    models, conformance, told = tables.write(tmp_path / "results")
    assert told == tmp_path / "MODELS.md" and "| transformer | exact |" in told.read_text()
    (row,) = read_csv(conformance, ConformanceRow)
    assert (row.model, row.check, row.status, row.reason) == (
        "transformer", "cross", "refuses", "no",
    )  # fmt: skip
    assert row.source == tables.digest("transformer")
    (card,) = read_csv(models, ModelRow)
    # four projections of 64 x 64 without bias
    assert (card.family, card.n_params) == ("exact", 4 * 64 * 64)
