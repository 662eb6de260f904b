"""Published numbers: what others reported, beside what is measured here."""

from collections.abc import Sequence
from pathlib import Path

from lra.errors import UserError
from lra.results.csv_io import read_csv
from lra.results.schema import PublishedRow

# a number read in its own table counts before one read in a citing paper
PROVENANCES = ("table seen", "derived", "secondary copy", "memory")


def read_published(results: Path) -> list[PublishedRow]:
    """All published numbers of ``results/published``, file by file.

    Raises:
        UserError: no file, or one that does not fit the schema.
    """
    folder = results / "published"
    rows = [row for path in sorted(folder.glob("*.csv")) for row in read_csv(path, PublishedRow)]
    if not rows:
        raise UserError(f"no published numbers in {folder}: point to the results folder of a clone")
    return rows


def reference(
    rows: Sequence[PublishedRow], system: str, task: str, metric: str = "test_acc"
) -> PublishedRow | None:
    """The published number to print beside a measured one, or None.

    The LRA paper's where it has the system; else the best documented, then the earliest. A printed
    failure is an answer too.
    """
    found = [r for r in rows if (r.system, r.task, r.metric) == (system, task, metric)]

    def rank(row: PublishedRow) -> tuple[bool, int, int]:
        # min() keeps the first of equals: the order of the files
        return (
            row.protocol != "lra_paper", PROVENANCES.index(row.provenance), row.year or 9999,
        )  # fmt: skip

    return min(found, key=rank, default=None)
