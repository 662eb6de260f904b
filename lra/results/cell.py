"""A cell: one (model, task, protocol, seed) under all that can change its number.

Its folder ``results/runs/<name>`` holds configuration, environment, checkpoints, history and row;
its row is also in ``results/local/runs``. The row is there from the first moment, as
``interrupted``, so that a killed cell is on record.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lra.config import RunConfig
from lra.errors import UserError
from lra.results.collect import write_row
from lra.results.csv_io import from_mapping, write_text
from lra.results.fingerprint import Fingerprint
from lra.results.schema import RunRow

log = logging.getLogger(__name__)

# how a cell can end for good; anything else is tried again by the same command
FINISHED = ("ok", "oom", "nan", "timeout", "unsupported")


def cell_id(
    config: RunConfig,
    manifest: Mapping[str, Any],
    source: str,
    fingerprint: Fingerprint,
    origin: str | None,
) -> str:
    """Digest of configuration, data, code, device, precision, threads and torch version; and of
    ``origin``, where the parameters come from a saved model.

    What only says where things are written or how long they may take is left out.
    """
    keys = ("backbone", "layers", "task", "seed", "backend", "bidirectional")
    identity = {
        **{key: getattr(config, key) for key in keys},
        "model": config.model,
        "protocol": config.protocol["name"],
        "recipe": asdict(config.recipe),
        "origin": origin,
        "data": dict(manifest),
        "source": source,
        "device": fingerprint.device,
        "matmul_precision": fingerprint.matmul_precision,
        "threads": fingerprint.n_threads,
        "processes": fingerprint.n_processes,
        "torch": next(v for v in fingerprint.versions.split() if v.startswith("torch=")),
    }
    text = json.dumps(identity, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def check_writable(results: Path) -> None:
    """Makes the folders of cells and rows, so that hours of work are not lost at their end.

    Raises:
        UserError: they cannot be written.
    """
    with _writing(results):
        for folder in (results / "runs", results / "local"):
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


@contextlib.contextmanager
def _writing(results: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write results to {results}: {error.strerror or error}; "
            "choose another folder with paths.results=..."
        ) from error


@dataclass(frozen=True)
class Cell:
    """The files of a cell. ``name`` is readable, ``id`` is exact."""

    id: str
    name: str
    results: Path

    @property
    def folder(self) -> Path:
        return self.results / "runs" / self.name

    @property
    def rows(self) -> Path:
        return self.results / "local"

    def row(self) -> RunRow | None:
        """The row as it stands, or None where there is none of this schema."""
        try:
            return from_mapping(RunRow, json.loads((self.folder / "row.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def finished(self) -> RunRow | None:
        """The row of a cell that needs no more work, or None."""
        row = self.row()
        return row if row is not None and row.status in FINISHED else None

    def write_row(self, row: RunRow) -> Path:
        """The row, among the local results and then beside the cell, which is what counts: a cell
        that was killed in between is not finished."""
        path = write_row(row, self.rows)
        self.write("row.json", json.dumps(asdict(row), indent=1))
        return path

    def write(self, name: str, text: str) -> Path:
        return write_text(self.folder / name, text)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Waits until no other process works on this cell.

        Raises:
            UserError: the results folder cannot be written.
        """
        check_writable(self.results)
        with _writing(self.results):
            self.folder.mkdir(exist_ok=True)
            lock = FileLock(self.folder / ".lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                log.info("another process works on this cell: waiting for it")
                lock.acquire()
        try:
            yield
        finally:
            lock.release()
