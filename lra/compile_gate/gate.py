"""All compilations, in two processes, and the table that comes out."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lra.compile_gate.jobs import Job, jobs
from lra.compile_gate.worker import MARK
from lra.progress import Progress, progress
from lra.results.csv_io import key, read_csv, write_csv
from lra.results.schema import CompileRow
from lra.results.source import ROOT

PROCESSES = 2
WORKER = (sys.executable, "-m", "lra.compile_gate.worker")


def compile_all(ops: Sequence[str] = ()) -> list[CompileRow]:
    """Compiles every kernel, or those of some ops, afresh: one row each, sorted.

    Raises:
        UserError: Triton is not installed, or an op has no GPU kernel.
    """
    found = jobs(ops)
    rows: list[CompileRow] = []
    with (
        tempfile.TemporaryDirectory() as cache,
        progress("compile", len(found), unit="kernels") as shown,
        ThreadPoolExecutor(PROCESSES) as pool,
    ):
        share = _Share(found, ops, cache, shown, rows)
        for done in [pool.submit(share.run, first) for first in range(PROCESSES)]:
            done.result()
    return sorted(rows, key=key)


def faults(rows: Sequence[CompileRow]) -> list[CompileRow]:
    """The rows that fail the gate."""
    return [row for row in rows if row.status == "error"]


def committed_path(results: Path) -> Path:
    return results / "measured" / "compile" / "compile.csv"


def update(results: Path, rows: Sequence[CompileRow], ops: Sequence[str]) -> Path:
    """Writes the table; rows of ops that were not compiled now stay.

    Raises:
        UserError: the folder cannot be written.
    """
    path = committed_path(results)
    old = read_csv(path, CompileRow) if ops and path.exists() else []
    kept = [row for row in old if row.op not in ops]
    return write_csv(path, sorted([*kept, *rows], key=key), CompileRow)


class _Share:
    """Runs a share of the jobs in a worker process, and another one after each that crashes."""

    def __init__(
        self,
        found: Sequence[Job],
        ops: Sequence[str],
        cache: str,
        shown: Progress,
        rows: list[CompileRow],
    ) -> None:
        self.found, self.ops, self.shown, self.rows = found, ops, shown, rows
        self.done, self.lock = 0, threading.Lock()
        # an empty cache: what is found there was not compiled
        self.environment = {**os.environ, "TRITON_CACHE_DIR": cache}
        self.environment.pop("TRITON_INTERPRET", None)

    def run(self, number: int) -> None:
        while number < len(self.found):
            command = [*WORKER, str(number), str(PROCESSES), *self.ops]
            with (
                tempfile.TemporaryFile("w+", errors="replace") as complaints,
                subprocess.Popen(
                    command, cwd=ROOT, env=self.environment,
                    stdout=subprocess.PIPE, stderr=complaints, text=True,
                ) as process,
            ):  # fmt: skip
                assert process.stdout is not None
                for line in process.stdout:
                    if line.startswith(MARK):
                        number, made = json.loads(line.removeprefix(MARK))
                        self.add([CompileRow(**row) for row in made])
                        number += PROCESSES
                if process.wait() == 0 or number >= len(self.found):
                    return
                complaints.seek(0)
                said = f"{complaints.read()}\nthe compiler crashed: exit code {process.returncode}"
                self.add([self.found[number].failed(said)])
                number += PROCESSES

    def add(self, rows: Sequence[CompileRow]) -> None:
        with self.lock:
            self.rows.extend(rows)
            self.done += 1
            self.shown.update(self.done, faults=len(faults(self.rows)))
