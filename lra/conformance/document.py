"""MODELS.md: every system in one table, from the cards and from what passed."""

import re
from collections import Counter
from collections.abc import Sequence

from lra.conformance.subject import load
from lra.results.schema import FAMILIES, ConformanceRow, ModelRow
from lra.results.source import ROOT

HEAD = """# Models

Every preset of `conf/model`, from its card and its conformance checks, as
`python -m lra conformance` writes it. `python -m lra show NAME` prints the whole card and what
differs from the paper; `python -m lra list --family ssm --causal` filters.

*(no ffn)*: the mixer holds the parameters of a feed-forward network, so a layer has none besides.
*time, memory*: growth of one layer in N, held by counting operations and live bytes at N, 2N and
4N; in brackets the time of the causal form, where it is another. *causal*: native (by
construction), masked, or no. *decodes*: token by token, equal to the parallel form, with a state
that does not grow or a key-value cache. *exactness*: limits in which it equals another system, and
the file that holds it to its equations. *checks*: passed / refused with a reason, because it cannot
/ not applicable.

| model | family | paper | time | memory | causal | both sides | decodes | exactness | checks |
|---|---|---|---|---|---|---|---|---|---|
"""


def document(models: Sequence[ModelRow], checks: Sequence[ConformanceRow]) -> str:
    """The text of MODELS.md."""
    order = sorted(models, key=lambda row: (FAMILIES.index(row.family), row.model))
    return HEAD + "\n".join(_line(row, checks) for row in order) + "\n"


def _line(row: ModelRow, checks: Sequence[ConformanceRow]) -> str:
    counts = Counter(check.status for check in checks if check.model == row.model)
    status = f"{counts['pass']} / {counts['refuses']} / {counts['not applicable']}"
    model = f"{row.model} (no ffn)" if row.replaces_ffn else row.model
    paper = f"[{row.authors.split(',')[0]} {row.year}]({row.link})"
    proofs = [f"= {row.equals}"] if row.equals else []
    proofs += [f"[{name}](tests/models/{name})" for name in proofs_of(row.model)]
    cells = (
        model, row.family, paper, times_of(row), row.memory, row.causality,
        "yes" if row.bidirectional else "no", "yes" if row.recurrent else "no",
        ", ".join(proofs), status,
    )  # fmt: skip
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def times_of(row: ModelRow) -> str:
    """The time, and that of the causal form where it is another one."""
    return f"{row.time} (causal: {row.causal_time})" if row.causal_time else row.time


def proofs_of(model: str) -> list[str]:
    """Files of tests/models that hold the class of a preset's card to its equations."""
    folder = ROOT / "tests" / "models"
    if (folder / f"test_{model}.py").exists():
        return [f"test_{model}.py"]
    name = re.compile(rf"\b{load(model).system_class.__name__}\b")
    return [file.name for file in sorted(folder.glob("test_*.py")) if name.search(file.read_text())]
