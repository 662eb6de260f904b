"""models.csv and conformance.csv: what the cards say and what passed, as rows."""

import inspect
from pathlib import Path

from lra.conformance.checks import examine
from lra.conformance.document import document
from lra.conformance.subject import Subject, load, presets
from lra.results.csv_io import write_csv
from lra.results.schema import ConformanceRow, ModelRow
from lra.results.source import ROOT, source_digest
from models.backbone import Backbone
from models.block import Block
from models.build import locate

# the size at which parameters are counted: one layer of the small LRA encoders
COUNT_DIM, COUNT_HEADS, COUNT_MAX_LEN = 64, 2, 1024


def source_files(subject: Subject) -> list[Path]:
    """The files that a system is written and configured in, without what they import."""
    classes = [
        subject.mixer_class,
        locate(subject.block["_target_"], Block),
        locate(subject.backbone["_target_"], Backbone),
    ]
    written = [Path(inspect.getfile(cls)) for cls in classes]
    return [*written, *subject.files, ROOT / "models" / "build.py"]


def digest(name: str) -> str:
    """Digest of the code that the checks of a preset test."""
    return source_digest(source_files(load(name)))


def rows(name: str) -> list[ConformanceRow]:
    """One row a check of a preset.

    Raises:
        AssertionError: a check fails; a card that does not hold is no result.
    """
    subject, source = load(name), digest(name)
    found = []
    for outcome in examine(subject):
        assert outcome.status != "fail", f"{name} fails {outcome.check}: {outcome.reason}"
        found.append(
            ConformanceRow(
                model=name, check=outcome.check, status=outcome.status,
                reason=outcome.reason or None, source=source,
            )
        )  # fmt: skip
    return found


def model_rows() -> list[ModelRow]:
    """One row a preset, from its card; parameters of one system with the papers' knobs."""
    return [model_row(load(name, sized=None)) for name in presets()]


def model_row(subject: Subject) -> ModelRow:
    """What the card says, as a row."""
    card = subject.card
    system = subject.build(dim=COUNT_DIM, heads=COUNT_HEADS, max_len=COUNT_MAX_LEN)
    padding = f"{card.padding}: {card.padding_reason}" if card.padding_reason else card.padding
    return ModelRow(
        model=subject.name, family=card.family, mixer=_mixer_name(subject),
        title=card.title, authors=card.authors, year=card.year, link=card.link, time=card.time,
        causal_time=card.causal_time or None, memory=card.memory, causality=card.causality,
        bidirectional=card.bidirectional,
        recurrent=card.recurrent, cross=card.cross, replaces_ffn=card.replaces_ffn,
        randomised=card.randomised,
        length_bound=", ".join(card.length_bound) or None, ops=", ".join(card.ops) or None,
        equals=", ".join(dict.fromkeys(limit.mixer for limit in card.equals)) or None,
        padding=padding,
        deviations="; ".join(card.deviations) or None,
        n_params=sum(p.numel() for p in system.parameters()),
    )  # fmt: skip


def _mixer_name(subject: Subject) -> str:
    """The class of the preset's mixer; a backbone that makes no blocks has none."""
    hosted = locate(subject.backbone["_target_"], Backbone).hosts
    return str(subject.mixer["_target_"]).rpartition(".")[2] if hosted else "none"


def write(results: Path) -> list[Path]:
    """Examines every preset and writes both tables into ``results/measured``, and MODELS.md beside
    ``results``.

    Raises:
        AssertionError: a check fails; nothing is written.
        UserError: the folder cannot be written.
    """
    conformance = [row for name in presets() for row in rows(name)]
    folder, models = results / "measured", model_rows()
    written = [
        write_csv(folder / "models.csv", models, ModelRow),
        write_csv(folder / "conformance.csv", conformance, ConformanceRow),
        results.parent / "MODELS.md",
    ]
    written[-1].write_text(document(models, conformance))
    return written
