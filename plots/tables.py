"""One table in Markdown and LaTeX, cells as plain text; tidy records in CSV."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lra.results.csv_io import write_text

MISSING = "—"
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "—": "---", "†": r"\dag{}", "<": r"$<$", ">": r"$>$", "|": r"\textbar{}",
    "≥": r"$\ge$", "−": r"$-$", "×": r"$\times$", "≈": r"$\approx$", "·": r"$\cdot$",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A title, a header, rows of as many cells, and notes below; the first column is names."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.header) for row in self.rows), self.title


def number(value: float | None, digits: int) -> str:
    """A number with so many decimals; a dash where there is none."""
    return MISSING if value is None else f"{value:,.{digits}f}"


def write_tables(
    path: Path, tables: Sequence[Table], columns: Sequence[str], records: Iterable[Sequence[object]]
) -> list[Path]:
    """``path`` with .md, .tex and, of the records, .csv.

    Raises:
        UserError: the folder cannot be written.
    """
    contents = {".md": markdown(tables), ".tex": latex(tables), ".csv": csv_text(columns, records)}
    return [write_text(path.with_name(path.name + end), text) for end, text in contents.items()]


def csv_text(columns: Sequence[str], records: Iterable[Sequence[object]]) -> str:
    """Records unrounded; empty where there is none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for record in records:
        writer.writerow([str(v).lower() if isinstance(v, bool) else v for v in record])
    return text.getvalue()


def markdown(tables: Sequence[Table]) -> str:
    """The tables one below the other, columns aligned in the source too."""
    blocks = []
    for table in tables:
        lines = [table.header, *table.rows]
        cells = [[_clean(cell).replace("|", "\\|") for cell in line] for line in lines]
        widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
        head, *body = [
            "| " + " | ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in
                              enumerate(zip(row, widths, strict=True))) + " |"
            for row in cells
        ]  # fmt: skip
        rule = "|" + "|".join(
            "-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)
        )
        notes = [f"{_clean(note)}\n" for note in table.notes]
        blocks.append("\n".join([f"### {table.title}\n", head, rule + "|", *body, "", *notes]))
    return "\n".join(blocks).rstrip() + "\n"


def latex(tables: Sequence[Table]) -> str:
    """The same for LaTeX with booktabs, a ``table`` each; notes below the lines."""
    blocks = []
    for table in tables:
        columns = "l" + "r" * (len(table.header) - 1)
        body = [" & ".join(map(_escape, row)) + r" \\" for row in table.rows]
        notes = [rf"\par\smallskip\footnotesize {_escape(note)}" for note in table.notes]
        blocks.append(
            "\n".join(
                [
                    r"\begin{table}", rf"\caption{{{_escape(table.title)}}}",
                    rf"\begin{{tabular}}{{{columns}}}", r"\toprule",
                    " & ".join(map(_escape, table.header)) + r" \\", r"\midrule", *body,
                    r"\bottomrule", r"\end{tabular}", *notes, r"\end{table}",
                ]
            )
        )  # fmt: skip
    return "% needs \\usepackage{booktabs}\n" + "\n\n".join(blocks) + "\n"


def _clean(text: str) -> str:
    """One line of printable text: a cell from a stranger's file may hold anything."""
    return "".join(c if c.isprintable() else " " for c in text)


def _escape(text: str) -> str:
    return "".join(LATEX.get(c, c) for c in _clean(text).replace("`", ""))
