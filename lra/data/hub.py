"""Tables read by ``datasets.load_dataset``: the hub's, or local parquet files of the same schema.

A local folder holds ``train*.parquet`` and ``test*.parquet``, itself or one folder below, as a
clone of the hub's repository does.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lra.data.files import sha256, stamps
from lra.data.splits import ORIGINS
from lra.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 1000  # of a chunk
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Offer:
    """Where a data set is to be had.

    Attributes:
        title: its name.
        hub: its name on the hub.
        revision: the commit there that names its contents.
        archive: what else is read, and the commands that get it.
    """

    title: str
    hub: str
    revision: str
    archive: str

    def how(self, task: str) -> str:
        """The commands that get a copy and use it."""
        name = self.hub.rpartition("/")[2]
        return (
            f"get {self.title} where there is a network, `hf download {self.hub} --repo-type "
            f"dataset --local-dir {name} --revision {self.revision}` or {self.archive}, then "
            f"`python -m lra prepare {task} --source FOLDER`, and task.source=FOLDER in runs"
        )


class Table:
    """The columns of a labelled table, a chunk at a time.

    Args:
        source: a name on the hub, a folder of parquet files, or one of those files.
        revision: the commit of a name on the hub.
        offer: says where else to look.
        task: name of the task, for advice.
        columns: the known ones and how the names of their Arrow types may begin.
        classes: labels are 0 to ``classes - 1``, in column ``label``.

    Raises:
        UserError: there is neither such a path nor such a name, or no commit of it.
    """

    def __init__(self, source: str, revision: str, offer: Offer, task: str,
                 columns: Mapping[str, tuple[str, ...]], classes: int):  # fmt: skip
        self._source, self._revision, self._offer, self._task = source, revision, offer, task
        self._columns, self._classes = dict(columns), classes
        self.local = os.path.exists(os.path.expanduser(source))
        if not self.local and (not HUB_ID.fullmatch(source) or source.startswith(".")):
            raise UserError(f"there is no {source}: {offer.how(task)}")
        foreign = revision == offer.revision and source != offer.hub
        if not self.local and (not COMMIT.fullmatch(revision) or foreign):
            raise UserError(
                f"revision={revision}: write the commit of {source} that names its contents, 40 "
                "hexadecimal digits"
            )
        self._files = self._local_files() if self.local else {}

    def key(self) -> dict[str, Any]:
        """Names the data without reading it."""
        if not self.local:
            return {"hub": self._source, "revision": self._revision}
        return {"files": {origin: stamps(self._files[origin]) for origin in ORIGINS}}

    def facts(self) -> dict[str, Any]:
        """Kind and digests; from the hub the commit, which is one."""
        if not self.local:
            return {"source": f"hub {self._source}", "revision": self._revision}
        files = [file for origin in ORIGINS for file in self._files[origin]]
        digests = {file.name: sha256(file) for file in files}
        return {"source": "parquet", "source_sha256": digests}

    def labels(self, origin: str) -> np.ndarray:
        """Labels of all rows (uint8)."""
        found = []
        for first, chunk in self.chunks(origin, ["label"]):
            column = chunk.column("label")
            values = column.to_numpy(zero_copy_only=False) if not column.null_count else None
            if values is None or not np.isin(values, np.arange(self._classes)).all():
                bad = [v not in range(self._classes) for v in column.to_pylist()].index(True)
                raise UserError(
                    f"{self.where(origin, first + bad)}: label {column[bad].as_py()} is not one of "
                    f"0 to {self._classes - 1}"
                )
            found.append(values.astype(np.uint8))
        return np.concatenate(found) if found else np.empty(0, np.uint8)

    def chunks(self, origin: str, columns: list[str]) -> Iterator[tuple[int, "pa.Table"]]:
        """Number of the first row, and some rows of those columns.

        Raises:
            UserError: the data cannot be had or read, or a column is missing or of another type.
        """
        data, first = self._load(origin), 0
        try:
            for chunk in data.with_format("arrow").iter(ROWS):
                for name in columns:
                    self._check(origin, chunk.schema, name)
                yield first, chunk.select(columns)
                first += chunk.num_rows
        except UserError:
            raise
        # libraries under load_dataset raise anything on a broken file
        except Exception as error:
            where = self.where(origin, first)
            raise UserError(f"cannot read {where} or after: {_one_line(error)}") from error

    def where(self, origin: str, row: int) -> str:
        """A row as a message names it: file and row, both as stored; rows count from 1."""
        import pyarrow.parquet as pq

        if not self.local:
            return f"{self._source}, {origin}, row {row + 1}"
        for file in self._files[origin]:
            try:
                rows = pq.ParquetFile(file).metadata.num_rows
            except Exception:
                return f"{file}, a row"
            if row < rows:
                break
            row -= rows
        return f"{file}, row {row + 1}"

    def _check(self, origin: str, schema: "pa.Schema", name: str) -> None:
        kind = self._columns[name]
        index = schema.get_field_index(name)
        if index >= 0 and str(schema.field(index).type).startswith(kind):
            return
        has = ", ".join(f"{field.name} ({field.type})" for field in schema)
        place = ", ".join(map(str, self._files[origin])) if self.local else self._source
        wanted = f"{name} ({kind[0]})"
        raise UserError(f"{place} has columns {has}; expected {wanted}, as {self._offer.hub}")

    def _local_files(self) -> dict[str, list[Path]]:
        path = Path(self._source).expanduser().resolve()
        folder = path.parent if path.is_file() else path
        found = {}
        for origin in ORIGINS:
            files = [*folder.glob(f"{origin}*.parquet"), *folder.glob(f"*/{origin}*.parquet")]
            found[origin] = sorted(files)
            if not files:
                raise UserError(f"{folder} has no {origin}*.parquet: {self._offer.how(self._task)}")
        return found

    def _load(self, origin: str) -> Any:
        import datasets

        # what it logs of a broken file, our error says
        logging.getLogger("datasets.packaged_modules").setLevel(logging.CRITICAL)
        files = {origin: [str(file) for file in self._files.get(origin, [])]}
        try:
            if self.local:
                # streaming: read where it lies, with no second copy in a cache
                return datasets.load_dataset(
                    "parquet", data_files=files, split=origin, streaming=True
                )
            return datasets.load_dataset(self._source, revision=self._revision, split=origin)
        # offline, unknown, gated, broken: each library below has its own exceptions
        except Exception as error:
            if self.local:
                raise UserError(f"cannot read {files[origin][0]}: {_one_line(error)}") from error
            raise UserError(
                f"cannot get {self._source} from the hub ({_one_line(error)}): "
                f"{self._offer.how(self._task)}"
            ) from error


def _one_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
