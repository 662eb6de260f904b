"""Published numbers in a table, each with the number of its source below."""

from collections.abc import Callable

from lra.results.schema import PublishedRow
from plots.tables import MISSING


class Sources:
    """The sources that a table cites, in the order of their first mention."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def cite(self, row: PublishedRow | None, text: Callable[[float], str] = "{:.2f}".format) -> str:
        """``36.37 [1]``; a dash where there is no number."""
        if row is None:
            return MISSING
        name = "; ".join(part for part in (row.source, row.setting) if part)
        if row.provenance != "table seen":
            name += f" ({row.provenance})"
        number = self.numbers.setdefault(name, len(self.numbers) + 1)
        value = "FAIL" if row.value is None else text(row.value)
        return f"{value} [{number}]"

    def notes(self) -> list[str]:
        return [f"[{number}] {name}." for name, number in self.numbers.items()]
