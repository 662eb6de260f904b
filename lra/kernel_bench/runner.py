"""All cases of one op on this device: finished ones are kept, the others timed, rows written."""

import functools
import inspect
import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from kernels.dispatch import Op, all_ops
from kernels.errors import Unsupported
from lra.device import find_device
from lra.errors import UserError, nearest
from lra.kernel_bench.bench import Bench, Frontier, Workplace
from lra.kernel_bench.config import KernelConfig
from lra.kernel_bench.draw import Case, Draw, Inputs
from lra.kernel_bench.rows import rows_of
from lra.measurement.cases import CaseRunner
from lra.measurement.lock import DeviceLock
from lra.measurement.roofline import Roofline
from lra.results.fingerprint import Fingerprint, fingerprint
from lra.results.schema import KernelRow
from lra.results.source import source_digest
from lra.results.store import Death, Finished, Store, case_id

# the code that can change a number
CODE = ("kernels", "lra/kernel_bench", "lra/measurement")
# what a case takes beyond its timing, on a machine like those that this was written on
SECONDS_A_POSITION = {"cpu": 7e-4, "cuda": 1e-4}
# roughly what a first call compiles or tunes for a shape: ops differ, from 10 s to many minutes
COMPILING_S = {"compile": 30.0, "flex": 30.0, "triton": 10.0}


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


class Runner(CaseRunner[Case]):
    """An op's cases on this device.

    Args:
        config: validated.

    Raises:
        UserError: an unknown backend or option, a device that is not here.
    """

    noun = "cases"

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
        self.cases, self.title = make_cases(config, self.device.type), self.op.name
        for variant in config.variants:
            check_options(self.make, variant, config)
        self._lock = DeviceLock(self.device)
        self._roofline = Roofline(self.device, self._lock)
        self._frontiers: dict[str, Frontier] = defaultdict(Frontier)

    def run(self) -> Outcome:
        """Times what is not finished.

        Raises:
            UserError: the results folder cannot be written.
            DeviceLost: the rest needs another process.
            CellFailed: time is up.
        """
        config = self.config
        found, n_new = self.finish(rerun=config.rerun, time_s=config.limits.time_s)
        self._lock.close()
        files = [self.store.folder, config.results / "local" / "kernels"]
        return Outcome(
            self.op.name, self.marks.device, list(zip(self.cases, found, strict=True)),
            self.absent, n_new, files,
        )  # fmt: skip

    # -- the cases ---------------------------------------------------------------------------

    def name_of(self, case: Case) -> str:
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

    def estimate_s(self, case: Case) -> float:
        position_s = SECONDS_A_POSITION.get(self.device.type, SECONDS_A_POSITION["cpu"])
        pass_s = len(self.backends) * position_s * case.length
        pass_s += sum(COMPILING_S.get(name, 0.0) for name in self.backends)
        return self.config.budget_s + len(self.config.passes) * pass_s

    def heading(self) -> str:
        return f"{self.title} ({', '.join(self.backends)}) on {self.marks.device}"

    def note(self, case: Case, finished: Finished) -> None:
        for row in finished.rows:
            self._frontier(case).note(row, case.length)

    def measure(self, case: Case, name: str, killers: Mapping[str, Death]) -> Finished:
        place = Workplace(
            self.config, self.op, _function(self.op.name), self.make, self.backends, self.device,
            self._lock, self.store,
        )  # fmt: skip
        bench = Bench(place, case, name, self._frontier(case), killers)
        entries = bench.run()
        peak = None
        if any(entry.ok for entry in entries):
            peak = self._roofline.tflop_per_s(getattr(torch, case.dtype))
        samples = {entry.name: entry.samples for entry in entries if entry.ok}
        return Finished(rows_of(bench, entries, self.marks, peak), samples, killers)

    def _frontier(self, case: Case) -> Frontier:
        return self._frontiers[f"{case.dtype} {case.options}"]


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
        wish = wish.get(op.name, "all")
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
