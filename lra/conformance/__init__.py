"""The conformance card: what a system claims, held to it.

``examine(load(name))`` runs every check on a preset, or, with overrides as on the command line, on
a mixer from outside: ``load("custom", ["mixer._target_=my_module.MyMixer"])``. ``rows``,
``model_row``, ``model_rows`` and ``write`` make the committed tables.
"""

from lra.conformance.checks import CHECKS, examine
from lra.conformance.outcome import NotApplicable, Outcome, Refuses
from lra.conformance.subject import Subject, load, presets
from lra.conformance.tables import model_row, model_rows, rows, write

__all__ = [
    "CHECKS",
    "NotApplicable",
    "Outcome",
    "Refuses",
    "Subject",
    "examine",
    "load",
    "model_row",
    "model_rows",
    "presets",
    "rows",
    "write",
]
