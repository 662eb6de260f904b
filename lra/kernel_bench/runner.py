"""All cases of one op on this device: finished ones are kept, the others timed, rows written."""

import functools
import inspect
import itertools
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from kernels.dispatch import Op, all_ops
from kernels.errors import Unsupported
from lra.device import find_device
from lra.errors import CellFailed, UserError, nearest
from lra.kernel_bench.bench import Bench, Frontier, Workplace, many_shapes
from lra.kernel_bench.config import KernelConfig
from lra.kernel_bench.draw import Case, Draw, Inputs
from lra.kernel_bench.rows import rows_of
from lra.measurement.lock import DeviceLock
from lra.measurement.roofline import Roofline
from lra.progress import progress
from lra.results.fingerprint import Fingerprint, fingerprint
from lra.results.schema import KernelRow
from lra.results.source import source_digest
from lra.results.store import Finished, Store, case_id

log = logging.getLogger(__name__)
# the code that can change a number
CODE = ("kernels", "lra/kernel_bench", "lra/measurement")
# what a case takes beyond its timing, on a machine like those that this was written on
SECONDS_A_POSITION = {"cpu": 7e-4, "cuda": 1e-4}


@dataclass(frozen=True)
class Outcome:
    """What is known of an op now.

    Attributes:
        cases: in the order of the table, with what is on record of each.
        absent: backends that cannot run on this machine, with the reason.
        n_new: how many cases were timed by this process.
    """

    op: str
    device: str
    cases: Sequence[tuple[Case, Finished]]
    absent: dict[str, str]
    n_new: int
    files: Sequence[Path]

    @property
    def statuses(self) -> set[str]:
        return {row.status for _, finished in self.cases for row in finished.rows}


class Runner:
    """An op's cases on this device.

    Args:
        config: validated.

    Raises:
        UserError: an unknown backend or option, a device that is not here.
    """

    def __init__(self, config: KernelConfig):
        self.config = config
        ops = all_ops()
        if config.op not in ops:
            raise nearest(config.op, ops, kind="op in kernels")
        self.op = ops[config.op]
        self.device = find_device(config.device)
        self.make = find_maker(config)
        self.backends, self.absent = find_backends(config.backend, self.op, ops)
        self.marks: Fingerprint = fingerprint(self.device.type)
        self.store = Store(config.results, f"kernels_{config.op}", KernelRow)
        self.cases = make_cases(config, self.device.type)
        for variant in config.variants:
            check_options(self.make, variant, config)

    def run(self) -> Outcome:
        """Times what is not finished.

        Raises:
            UserError: the results folder cannot be written.
            DeviceLost: the rest needs another process.
        """
        lock = DeviceLock(self.device)
        place = Workplace(
            self.config, self.op, _function(self.op.name), self.make, self.backends, self.device,
            lock, self.store,
        )  # fmt: skip
        roofline = Roofline(self.device, lock)
        with self.store.alone(), many_shapes():
            names = [self.name_of(case) for case in self.cases]
            if self.config.rerun:
                self.store.forget(names)
            self.store.bury()
            known = {name: f for name in names if (f := self.store.read(name)) and f.done}
            self._announce(names, known)
            with self.store.watching():
                found = self._work(place, roofline, names, known)
        lock.close()
        files = [self.store.folder, self.config.results / "local" / "kernels"]
        return Outcome(
            self.op.name, self.marks.device, list(zip(self.cases, found, strict=True)),
            self.absent, len(names) - len(known), files,
        )  # fmt: skip

    # -- the cases ---------------------------------------------------------------------------

    def name_of(self, case: Case) -> str:
        """The case under all that can change its numbers."""
        config = self.config
        return case_id(
            case=asdict(case), backends=list(self.backends), passes=config.passes,
            budget_s=config.budget_s, samples=[config.min_samples, config.max_samples],
            limit_s=config.limit_s, reference_longest=config.reference_longest,
            source=self._source, device=self.marks.device,
            versions=self.marks.versions, threads=self.marks.n_threads,
            matmul_precision=self.marks.matmul_precision,
        )  # fmt: skip

    @functools.cached_property
    def _source(self) -> str:
        module = import_module(f"kernels.{self.op.name}")
        files = [Path(inspect.getfile(where)) for where in (module, self.make, Bench)]
        return source_digest(files, within=CODE)

    def _announce(self, names: Sequence[str], known: dict[str, Finished]) -> None:
        seconds = sum(
            self._estimate_s(case)
            for case, name in zip(self.cases, names, strict=True)
            if name not in known
        )
        log.info(
            "%s on %s: %d cases of %s; %d are finished already, the rest takes about %s",
            self.op.name, self.marks.device, len(names), ", ".join(self.backends), len(known),
            timedelta(seconds=math.ceil(seconds)),
        )  # fmt: skip

    def _estimate_s(self, case: Case) -> float:
        position_s = SECONDS_A_POSITION.get(self.device.type, SECONDS_A_POSITION["cpu"])
        calls = len(self.backends) * len(self.config.passes)
        return self.config.budget_s + calls * position_s * case.length

    def _work(
        self, place: Workplace, roofline: Roofline, names: Sequence[str], known: dict[str, Finished]
    ) -> list[Finished]:
        """What is on record of each case in the end."""
        work = [self._estimate_s(case) for case in self.cases]
        done = sum(s for s, name in zip(work, names, strict=True) if name in known)
        found, frontiers = [], dict[str, Frontier]()
        deadline = time.monotonic() + (self.config.limits.time_s or math.inf)
        with progress(
            self.op.name, math.ceil(sum(work)), unit="s of work", start=math.floor(done)
        ) as bar:
            for i, (case, name) in enumerate(zip(self.cases, names, strict=True)):
                frontier = frontiers.setdefault(f"{case.dtype} {case.options}", Frontier())
                if name in known:
                    for row in known[name].rows:
                        frontier.note(row, case.length)
                    found.append(known[name])
                    continue
                if time.monotonic() > deadline:
                    log.error("limits.time_s: %d cases are left for another run", len(names) - i)
                    raise CellFailed("timeout", 1)
                found.append(self._one(place, roofline, case, name, frontier))
                done += work[i]
                bar.update(math.floor(done), case=f"{i + 1} of {len(names)}: {case}")
        return found

    def _one(
        self, place: Workplace, roofline: Roofline, case: Case, name: str, frontier: Frontier
    ) -> Finished:
        before = self.store.read(name)
        killers = before.killers if before else ()
        bench = Bench(place, case, name, frontier, killers)
        entries = bench.run()
        peak = None
        if any(entry.ok for entry in entries):
            peak = roofline.tflop_per_s(getattr(torch, case.dtype))
        samples = {entry.name: entry.samples for entry in entries if entry.ok}
        finished = Finished(rows_of(bench, entries, self.marks, peak), samples, killers)
        self.store.write(name, finished)
        # only now: a death before the rows are written must not go unnoticed
        self.store.rest()
        return finished


def find_maker(config: KernelConfig) -> Callable[..., Inputs]:
    """The function that makes the op's inputs.

    Raises:
        UserError: there is none of that name.
    """
    module, _, name = config.target.rpartition(".")
    try:
        maker: Callable[..., Inputs] = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"cannot find op._target_ '{config.target}': {error}") from error
    return maker


def check_options(
    make: Callable[..., Inputs], variant: dict[str, Any], config: KernelConfig
) -> None:
    """Raises UserError where a variant has an option that the inputs do not know, or a value."""
    known = [name for name in inspect.signature(make).parameters if name != "draw"]
    for name in variant:
        if name not in known:
            raise nearest(name, known, kind="option in op.variants")
    tiny = Case(
        op=config.op, variant=variant, dtype="float32", batch=1, heads=1, length=2, head_dim=2
    )
    try:
        make(Draw(tiny, torch.device("cpu"), 0), **variant)
    except Unsupported:
        pass
    except (TypeError, ValueError) as error:
        raise UserError(f"op.variants: {error}") from error


def find_backends(
    wish: str | list[str] | dict[str, str], op: Op, ops: dict[str, Op]
) -> tuple[list[str], dict[str, str]]:
    """The backends to time, and those that ``all`` leaves out with the reason.

    Raises:
        UserError: no op has a backend of that name, or no op that name.
    """
    every = {"auto", "all", *(name for other in ops.values() for name in other.backends)}
    if isinstance(wish, dict):
        for name in wish:
            if name not in ops:
                raise nearest(name, ops, kind="op in backend")
        wish = wish.get(op.name, "auto")
    names = list(dict.fromkeys([wish] if isinstance(wish, str) else wish))
    for name in names:
        if name not in every:
            raise nearest(name, every, kind="backend")
    if "all" not in names:
        return names, {}
    reasons = {name: op.why_not_here(name) for name in op.backends}
    here = [name for name, reason in reasons.items() if reason is None]
    return here, {name: reason for name, reason in reasons.items() if reason is not None}


def make_cases(config: KernelConfig, device: str) -> list[Case]:
    """Variant by variant and dtype by dtype, shorter lengths first."""
    lengths = config.lengths.get(device, config.lengths["cpu"])
    dtypes = config.dtypes.get(device, config.dtypes["cpu"])
    return [
        Case(
            op=config.op, variant=variant, dtype=dtype, batch=config.batch, heads=config.heads,
            length=length, head_dim=config.head_dim,
        )
        for variant, dtype, length in itertools.product(config.variants, dtypes, lengths)
    ]  # fmt: skip


def _function(name: str) -> Callable[..., Any]:
    """The op as users call it: the function of its package that has its name."""
    function: Callable[..., Any] = getattr(import_module(f"kernels.{name}"), name)
    return function
