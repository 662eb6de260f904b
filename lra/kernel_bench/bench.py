"""One case: every backend checked, timed in turns with the others, and checked again."""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import torch

from kernels.dispatch import Op, record
from kernels.errors import Unsupported
from kernels.flops import count_flops
from lra.kernel_bench.call import Call, Truth
from lra.kernel_bench.config import KernelConfig
from lra.kernel_bench.draw import Case, Draw, Inputs
from lra.kernel_bench.entry import Entry
from lra.measurement.allocator import allocator_peak_mib
from lra.measurement.attempt import CallTooLong, at_most, look_at_device
from lra.measurement.lock import DeviceLock
from lra.measurement.memory import out_of_memory, peak_memory_mib, reason_of
from lra.measurement.roofline import copying
from lra.measurement.timing import Summary, sample_ms
from lra.results.schema import KernelRow
from lra.results.store import Death, Store

# compiling, tuning and building count to the first call of a backend
FIRST_CALL_S = 600.0


@dataclass(frozen=True)
class Workplace:
    """What all cases of an op share.

    Attributes:
        function: the op, as users call it.
        make: makes the inputs of a case.
        backends: what to time, ``auto`` among it.
    """

    config: KernelConfig
    op: Op
    function: Callable[..., Any]
    make: Callable[..., Inputs]
    backends: Sequence[str]
    device: torch.device
    lock: DeviceLock
    store: Store


@dataclass
class Frontier:
    """Where a backend ran out of time or memory, for one variant, dtype and pass: at greater
    lengths it is not tried."""

    ends: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)

    def note(self, entry: Entry | KernelRow, length: int) -> None:
        if entry.status in ("oom", "timeout"):
            self.ends.setdefault((entry.backend, entry.pass_), (length, entry.status))

    def stop(self, entry: Entry, length: int) -> None:
        """Ends an entry that lies beyond."""
        at, status = self.ends.get((entry.backend, entry.pass_), (length, ""))
        if at < length:
            entry.end(status, f"{status} at N={at} already")


class Bench:
    """A case at work.

    Args:
        place: what all cases share.
        case: the shape.
        name: of the case, on record.
        frontier: of this variant and dtype, shorter lengths first.
        killers: backends that ended an earlier process at this case, and how.
    """

    def __init__(
        self,
        place: Workplace,
        case: Case,
        name: str,
        frontier: Frontier,
        killers: Mapping[str, Death],
    ):
        self.place, self.case, self.name = place, case, name
        self.frontier = frontier
        self.entries = {
            (backend, pass_): Entry(backend=backend, pass_=pass_)
            for backend in place.backends
            for pass_ in place.config.passes
        }
        for entry in self.entries.values():
            if how := killers.get(entry.backend) or killers.get("truth"):
                entry.end(*how)
            else:
                self._skip(entry)
        self.causal, self.key_length = False, case.length
        self.window: tuple[int, int] | None = None

    @property
    def alive(self) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.ok]

    def run(self) -> list[Entry]:
        """Every backend and pass with its status; nothing that a backend raises comes through.

        Raises:
            DeviceLost: no backend can be run in this process any more.
        """
        if not self.alive:
            return [*self.entries.values()]
        self.place.store.at_work(self.name, "truth")
        try:
            with self.place.lock.shared():
                self._set_up()
        except Unsupported as error:
            for entry in self.alive:
                entry.fail(error)
        except (Exception, CallTooLong) as error:
            for entry in self.alive:
                entry.fail(error)
                entry.reason = f"no truth to check against: {entry.reason}"
            look_at_device(self.place.device)
        for entry in self.alive:
            self._attempt(entry, self._prepare)
        if self.alive:
            with self.place.lock.exclusive():
                self._sample()
        for entry in self.alive:
            self._attempt(entry, self._check_again)
        for entry in self.entries.values():
            self.frontier.note(entry, self.case.length)
        return [*self.entries.values()]

    # -- before ------------------------------------------------------------------------------

    def _skip(self, entry: Entry) -> None:
        op = self.place.op
        if entry.backend not in ("auto", *op.backends):
            known = ", ".join(op.backends)
            entry.end("unsupported", f"there is no backend '{entry.backend}': it has {known}")
        elif entry.backend != "auto" and (reason := op.why_not_here(entry.backend)):
            entry.end("unsupported", f"{entry.backend}: {reason}")
        longest = self.place.config.reference_longest
        if entry.backend == "reference" and self.case.length > longest:
            entry.end("unsupported", f"the reference is not timed above N={longest}")
        self.frontier.stop(entry, self.case.length)

    def _set_up(self) -> None:
        """Inputs, twice, the truth of both, and the work of each pass."""
        place, case = self.place, self.case
        first, second = (
            place.make(Draw(case, place.device, seed), **case.variant) for seed in (0, 1)
        )
        self.causal, self.window = first.causal, first.window
        self.key_length = first.key_length or case.length
        short = case.length <= place.config.reference_longest
        truth = "reference" if short else "eager"
        grads = "forward_backward" in place.config.passes
        self.calls, self.truths = list[Call](), list[Truth]()
        for inputs in (first, second):
            # the first truth draws the cotangent of both
            call = Call(place.function, inputs, self.calls[0].cotangent if self.calls else None)
            with at_most(FIRST_CALL_S):
                self.truths.append(Truth(call, truth, grads=grads))
            self.calls.append(call)
        if not short:
            for entry in self.alive:
                longest = place.config.reference_longest
                entry.notes.append(f"held to eager in fp64: no reference above N={longest}")
        for pass_ in place.config.passes:
            gflop, note = self._work(first, pass_)
            for entry in self.alive:
                if entry.pass_ == pass_:
                    entry.gflop, entry.moved_bytes = gflop, self.calls[0].moved_bytes(pass_)
                    entry.notes += note

    def _work(self, inputs: Inputs, pass_: str) -> tuple[float | None, list[str]]:
        """1e9 operations by the op's formula, else as the eager backend does them."""
        if inputs.gflop is not None:
            return inputs.gflop[pass_], []
        flops = count_flops(lambda: self.calls[0].run("eager", pass_))
        note = [] if flops.coverage > 0.99 else [f"{flops.coverage:.0%} of the work is counted"]
        return flops.total_gflop or None, note

    def _prepare(self, entry: Entry) -> None:
        """Right, fast enough to be timed, and how much memory it takes."""
        call = self.calls[0]
        with at_most(FIRST_CALL_S), record() as chosen:
            results = call.results(entry.backend, entry.pass_)
        entry.close(self.truths[0].hold(results))
        del results
        if entry.backend == "auto":
            choice = chosen[self.place.op.name]
            entry.chosen = choice.backend
            entry.notes += [f"auto took it: {choice.reason}", *choice.refusals]
        start = time.perf_counter()
        self._run(entry)
        spent, limit = time.perf_counter() - start, self.place.config.limit_s
        if spent > limit:
            raise CallTooLong(f"a call takes {spent:.1f} s, more than task.limit_s={limit:g}")
        try:
            entry.peak_mem_mib = self._peak_mib(entry)
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            entry.notes.append(f"no memory: {reason_of(error)}")

    def _peak_mib(self, entry: Entry) -> float:
        call, device = self.calls[0], self.place.device

        def run() -> None:
            call.run(entry.backend, entry.pass_)

        if device.type == "cpu":
            # sees what compiled code and libraries allocate, which no dispatch mode does
            return allocator_peak_mib(run, *call.held(entry.pass_))
        return peak_memory_mib(run, *call.held(entry.pass_), device=device)

    # -- timing ------------------------------------------------------------------------------

    def _sample(self) -> None:
        """Times all that are left in turns; one that raises is taken out, and all begin anew."""
        while alive := {entry.name: entry for entry in self.alive}:
            functions = {name: self._turning(entry) for name, entry in alive.items()}
            for pass_ in {entry.pass_: None for entry in alive.values()}:
                moved = self.calls[0].moved_bytes(pass_)
                functions[f"copy {pass_}"] = copying(moved, self.place.device)
            now = ""

            def turn(name: str) -> None:
                nonlocal now
                now = name
                if name in alive:
                    self.place.store.at_work(self.name, alive[name].backend)

            config = self.place.config
            try:
                samples = sample_ms(
                    functions, device=self.place.device, setup=turn, warmup=2,
                    budget_s=config.budget_s, min_samples=config.min_samples,
                    max_samples=config.max_samples,
                )  # fmt: skip
            except Exception as error:
                if now not in alive:
                    raise
                alive[now].fail(error)
                del functions
                look_at_device(self.place.device)
                continue
            for name, entry in alive.items():
                entry.samples = samples[name]
                entry.copy_ms = Summary.of(samples[f"copy {entry.pass_}"]).median
            return

    def _turning(self, entry: Entry) -> Callable[[], object]:
        """A call that takes the other inputs each time."""
        turns = cycle(self.calls)
        return lambda: next(turns).run(entry.backend, entry.pass_)

    # -- after -------------------------------------------------------------------------------

    def _check_again(self, entry: Entry) -> None:
        """Still right, and for both of the inputs that were timed."""
        for call, truth in zip(self.calls, self.truths, strict=True):
            entry.close(truth.hold(call.results(entry.backend, entry.pass_)))

    def _attempt(self, entry: Entry, work: Callable[[Entry], None]) -> None:
        self.place.store.at_work(self.name, entry.backend)
        try:
            with self.place.lock.shared():
                work(entry)
        except (Exception, CallTooLong) as error:
            entry.fail(error)
        if not entry.ok:
            # the traceback held the tensors of the failed call
            gc.collect()
            look_at_device(self.place.device)

    def _run(self, entry: Entry) -> None:
        self.calls[0].run(entry.backend, entry.pass_)
        if self.place.device.type == "cuda":
            torch.cuda.synchronize(self.place.device)
