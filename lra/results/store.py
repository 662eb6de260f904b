"""What of a benchmark is finished: one file a case, and what a process was at when it died.

``results/runs/<benchmark>/<case>.json`` holds the rows of a case and their samples.
``at_work.json`` beside them names what was at work, a backend of an op or a pass of a model; only a
process that was killed, or whose device was lost, leaves it behind. This module imports no torch: a
sweep's parent reads it.
"""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lra.errors import UserError
from lra.results.collect import write_row
from lra.results.csv_io import from_mapping, write_text
from lra.results.schema import KernelRow, LengthRow

log = logging.getLogger(__name__)

# how a row can end for good; anything else is tried again by the same command
FINISHED = ("ok", "oom", "timeout", "unsupported", "wrong", "nan")
# how an attempt that ended its process is put on record: status and reason
Death = tuple[str, str]
UNKNOWN: Death = ("error", "it ended the process (rerun=true tries it again)")
# what of a case is tried by itself, and left out after it has killed a process
TRIED = {KernelRow: "backend", LengthRow: "pass_"}


@dataclass(frozen=True)
class Finished:
    """A case's rows, the samples in milliseconds by name, and what ended its process and how, which
    is not tried again; ``truth`` among them: nothing is."""

    rows: Sequence[Any]
    samples: Mapping[str, Sequence[float]]
    killers: Mapping[str, Death] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        ends = [
            row.status in FINISHED or getattr(row, TRIED[type(row)]) in self.killers
            for row in self.rows
        ]
        return "truth" in self.killers or (bool(ends) and all(ends))


class Store:
    """The files of one benchmark.

    Args:
        results: the results folder.
        name: of the benchmark, and of its folder.
        row_type: of its rows.
    """

    def __init__(self, results: Path, name: str, row_type: type):
        self.results, self.folder, self.row_type = results, results / "runs" / name, row_type
        self._at_work = self.folder / "at_work.json"
        self._fd = -1

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Waits until no other process works on this benchmark.

        Raises:
            UserError: the results folder cannot be written.
        """
        try:
            for folder in (self.folder, self.results / "local"):
                folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / ".lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                log.info("another process works on this benchmark: waiting for it")
                lock.acquire()
        except OSError as error:
            raise UserError(
                f"cannot write results to {self.results}: {error.strerror or error}; "
                "choose another folder with paths.results=..."
            ) from error
        try:
            yield
        finally:
            lock.release()

    def read(self, case: str) -> Finished | None:
        """What is on record of a case, finished or not; None where nothing of this schema is."""
        try:
            record = json.loads((self.folder / f"{case}.json").read_text())
            rows: list[Any] = [from_mapping(self.row_type, row) for row in record["rows"]]
            killers = {who: (status, reason) for who, (status, reason) in record["killers"].items()}
            return Finished(rows, record["samples"], killers)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def write(self, case: str, finished: Finished) -> None:
        """The rows, among the local results and then beside the case, which is what counts."""
        for row in finished.rows:
            write_row(row, self.results / "local")
        rows = [
            {name.rstrip("_"): value for name, value in asdict(row).items()}
            for row in finished.rows
        ]
        record = {
            "rows": rows, "samples": dict(finished.samples), "killers": dict(finished.killers),
        }  # fmt: skip
        write_text(self.folder / f"{case}.json", json.dumps(record, indent=1))

    # -- what is at work ---------------------------------------------------------------------

    def at_work(self, case: str, who: str) -> None:
        """Notes what runs next: microseconds, and it outlives this process."""
        if self._fd < 0:
            self._fd = os.open(self._at_work, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
        note = json.dumps({"case": case, "who": who}).encode()
        os.pwrite(self._fd, note.ljust(400), 0)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Leaves the note behind only if the process dies inside, or the device does."""
        try:
            yield
        except BaseException as error:
            if not getattr(error, "deadly", False):
                self.rest()
            raise
        self.rest()

    def bury(self) -> None:
        """Puts on record who killed an earlier process, so that it is left out now."""
        death = self.died_at()
        if death is None:
            return
        log.warning("'%(who)s' ended an earlier process: it is left out there", death)
        before = self.read(death["case"])
        how = (death.get("status", UNKNOWN[0]), death.get("reason", UNKNOWN[1]))
        killers = {**(before.killers if before else {}), death["who"]: how}
        self.write(death["case"], Finished((), {}, killers))
        self.rest()

    def explain(self, status: str, reason: str) -> None:
        """Adds to what was at work how its process ended; its parent knows."""
        if (death := self.died_at()) is not None:
            note = {**death, "status": status, "reason": f"{reason} (rerun=true tries it again)"}
            write_text(self._at_work, json.dumps(note))

    def forget(self, cases: Sequence[str]) -> None:
        """Nothing is on record of these cases any more."""
        for case in cases:
            (self.folder / f"{case}.json").unlink(missing_ok=True)
        self.rest()

    def rest(self) -> None:
        """Nothing is at work any more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._at_work.unlink(missing_ok=True)

    def died_at(self) -> dict[str, str] | None:
        """The case and who of it was at work when a process died, if one did."""
        try:
            note: dict[str, str] = json.loads(self._at_work.read_text())
            return note
        except (OSError, ValueError):
            return None


def case_id(**identity: Any) -> str:
    """Digest of all that can change a case's numbers."""
    text = json.dumps(identity, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
