"""All cases of a benchmark on this device: finished ones are kept, the others measured."""

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Generic, TypeVar

from lra.errors import CellFailed
from lra.progress import progress
from lra.results.store import Death, Finished, Store

log = logging.getLogger(__name__)
Case = TypeVar("Case")


class CaseRunner(ABC, Generic[Case]):
    """What the benchmarks of ops and of models share: resumption, progress, a time limit.

    Attributes:
        store: of the benchmark.
        cases: in the order in which they are measured, shorter ones first: what could not be done
            at a length tells of the longer ones.
        title: of the progress line.
        noun: what a case is to a reader, in the plural.
    """

    store: Store
    cases: Sequence[Case]
    title: str
    noun: str

    @abstractmethod
    def name_of(self, case: Case) -> str:
        """The case under all that can change its numbers."""

    @abstractmethod
    def estimate_s(self, case: Case) -> float:
        """Seconds that it takes, on a machine like those that this was written on."""

    @abstractmethod
    def heading(self) -> str:
        """What is measured where, for the line that announces it."""

    @abstractmethod
    def measure(self, case: Case, name: str, killers: Mapping[str, Death]) -> Finished:
        """Its rows and samples; what has ended a process before is left out."""

    @abstractmethod
    def note(self, case: Case, finished: Finished) -> None:
        """Remembers what a case tells of the longer ones."""

    def finish(self, *, rerun: bool, time_s: float | None) -> tuple[list[Finished], int]:
        """What is on record of each case in the end, and how many are new.

        Args:
            rerun: forget what is finished.
            time_s: begin no case after so many seconds; None: no limit.

        Raises:
            UserError: the results folder cannot be written.
            DeviceLost: the rest needs another process.
            CellFailed: time is up.
        """
        with self.store.alone():
            names = [self.name_of(case) for case in self.cases]
            if rerun:
                self.store.forget(names)
            self.store.bury()
            known = {name: f for name in names if (f := self.store.read(name)) and f.done}
            n_new = len(names) - len(known)
            with self.store.watching():
                return self._work(names, known, time_s or math.inf), n_new

    def _work(
        self, names: Sequence[str], known: dict[str, Finished], time_s: float
    ) -> list[Finished]:
        work = [self.estimate_s(case) for case in self.cases]
        done = sum(s for s, name in zip(work, names, strict=True) if name in known)
        left = timedelta(seconds=math.ceil(sum(work) - done))
        log.info(
            "%s: %d %s; %d are finished already, the rest takes about %s",
            self.heading(), len(names), self.noun, len(known), left,
        )  # fmt: skip
        found, deadline = list[Finished](), time.monotonic() + time_s
        with progress(
            self.title, math.ceil(sum(work)), unit="s of work", start=math.floor(done)
        ) as bar:
            for i, (case, name) in enumerate(zip(self.cases, names, strict=True)):
                finished = known.get(name)
                if finished is None:
                    if time.monotonic() > deadline:
                        rest = len(names) - i
                        log.error("limits.time_s: %d %s are left for another run", rest, self.noun)
                        raise CellFailed("timeout", 1)
                    finished = self._one(case, name)
                    done += work[i]
                    bar.update(math.floor(done), case=f"{i + 1} of {len(names)}: {case}")
                self.note(case, finished)
                found.append(finished)
        return found

    def _one(self, case: Case, name: str) -> Finished:
        before = self.store.read(name)
        finished = self.measure(case, name, before.killers if before else {})
        self.store.write(name, finished)
        # only now: a death before the rows are written must not go unnoticed
        self.store.rest()
        return finished
