"""One length of a model: predicted, run once, tracked, timed in turns, and checked again."""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from kernels import dispatch
from kernels.errors import Unsupported
from kernels.flops import count_flops
from lra.errors import UserError
from lra.lengths.config import LengthsConfig, Point
from lra.lengths.decoding import Decoder
from lra.lengths.subject import Inputs, Subject, make_subject
from lra.measurement.attempt import Attempt, CallTooLong, at_most, look_at_device
from lra.measurement.lock import DeviceLock
from lra.measurement.memory import out_of_memory, peak_memory_mib, predict_memory_mib, reason_of
from lra.measurement.step import StepFns
from lra.measurement.timing import sample_ms
from lra.results.store import Store

INPUTS = 3  # different ones that the samples take in turn
# compiling, tuning and filling a decoder's state count to the first call
FIRST_CALL_S = 600.0


@dataclass(kw_only=True)
class PassRun(Attempt):
    """A pass at one length.

    Attributes:
        coverage: share of the work that ``gflop`` knows.
    """

    pred_mem_mib: float | None = None
    coverage: float | None = None
    state_mib: float | None = None
    backend: str | None = None


@dataclass
class Frontier:
    """Where a pass ran out of time or memory: at greater lengths it is not tried."""

    ends: dict[str, tuple[int, str]] = field(default_factory=dict)

    def note(self, pass_: str, status: str, length: int) -> None:
        if status in ("oom", "timeout"):
            self.ends.setdefault(pass_, (length, status))


@dataclass(frozen=True)
class Workplace:
    """What all lengths of a model share; ``capacity_mib`` is what may be allocated."""

    config: LengthsConfig
    device: torch.device
    lock: DeviceLock
    store: Store
    capacity_mib: float


class Bench:
    """A length at work.

    Args:
        place: what all lengths share.
        point: the length.
        name: of the point, on record.
        frontier: of this model, shorter lengths first.
        killers: passes that killed an earlier process here.
    """

    def __init__(
        self,
        place: Workplace,
        point: Point,
        name: str,
        frontier: Frontier,
        killers: Sequence[str],
    ):
        self.place, self.point, self.name, self.frontier = place, point, name, frontier
        self.runs = {name: PassRun(pass_=name) for name in place.config.passes}
        self.subject: Subject | None = None
        self._calls: dict[str, Callable[[], object]] = {}
        for run in self.runs.values():
            if run.pass_ in killers:
                run.end("error", "it ended the process (rerun=true tries it again)")

    @property
    def alive(self) -> list[PassRun]:
        return [run for run in self.runs.values() if run.ok]

    def run(self) -> list[PassRun]:
        """Every pass with its status; nothing that the model raises comes through.

        Raises:
            DeviceLost: nothing can be run in this process any more.
            UserError: a class, knob or combination does not exist.
        """
        runs = list(self.runs.values())
        with dispatch.prefer(self.place.config.run.backend):
            try:
                with at_most(FIRST_CALL_S):
                    subject = make_subject(self.place.config, self.point, self.place.device)
                    inputs = [subject.inputs(seed) for seed in range(INPUTS)]
                    step = subject.step().copied()
            except UserError:
                raise
            except (Exception, CallTooLong) as error:
                for run in self.alive:
                    run.fail(error)
                return runs
            self.subject = subject
            self._measure(subject, step, inputs)
        self._calls.clear()
        gc.collect()
        return runs

    def _measure(self, subject: Subject, step: StepFns, inputs: Sequence[Inputs]) -> None:
        for run in self.alive:
            if run.pass_ != "decode":
                self._attempt(run, partial(self._predict, run, subject, step, inputs[0]))
            if run.ok:
                self._stop_beyond(run)
        for run in self.alive:
            self._attempt(run, partial(self._prepare, run, subject, step, inputs))
        if not self.alive:
            return
        before = self._outputs(subject, inputs)
        self._sample(step)
        if before is not None:
            self._check_again(before, self._outputs(subject, inputs))

    # -- before ------------------------------------------------------------------------------

    def _predict(self, run: PassRun, subject: Subject, step: StepFns, batch: Inputs) -> None:
        """The peak under fake tensors, for lengths that do not fit, too."""

        def fake(mode: FakeTensorMode) -> tuple[Callable[[], None], Sequence[object]]:
            made, faked = step.faked(mode, batch)
            made.model.train(run.pass_ != "forward")
            return lambda: _run(made, run.pass_, faked), _held(made, run.pass_, faked)

        with dispatch.record() as chosen:
            found = predict_memory_mib(fake, device=self.place.device)
        run.pred_mem_mib, run.backend = found.mib, _backends(chosen)
        if found.reason is not None:
            run.notes.append(f"no predicted memory: {found.reason}")

    def _stop_beyond(self, run: PassRun) -> None:
        length, capacity = self.point.length, self.place.capacity_mib
        at, status = self.frontier.ends.get(run.pass_, (length, ""))
        if at < length:
            run.end(status, f"{status} at N={at} already")
        elif run.pred_mem_mib is not None and run.pred_mem_mib > capacity:
            run.end("oom", f"needs {run.pred_mem_mib:,.0f} MiB of {capacity:,.0f} MiB")

    def _prepare(
        self, run: PassRun, subject: Subject, step: StepFns, inputs: Sequence[Inputs]
    ) -> None:
        """Its call, run once against the time limit, then with memory tracked and FLOPs counted."""
        limit = self.place.config.limit_s
        with at_most(FIRST_CALL_S), dispatch.record() as chosen:
            call = self._call(run, subject, step, inputs)
            first = self._seconds(call)
        run.backend = _backends(chosen)
        step.model.zero_grad(set_to_none=True)
        # the first call may have built things, the tracked one is watched: the quicker one counts
        watched = self._seconds(lambda: self._track(run, step, inputs[0]))
        spent = first if run.pass_ == "decode" else min(first, watched)
        if spent > limit:
            raise CallTooLong(f"a call takes {spent:.1f} s, more than task.limit_s={limit:g}")
        self._calls[run.pass_] = call

    def _call(
        self, run: PassRun, subject: Subject, step: StepFns, inputs: Sequence[Inputs]
    ) -> Callable[[], object]:
        """The pass as a function that takes the next input at each call."""
        if run.pass_ == "decode":
            mixer = subject.mixer
            if mixer is None:
                level = self.place.config.level
                raise Unsupported(f"decoding is a mixer's: task.level=mixer instead of {level}")
            decoder = Decoder(mixer, inputs[0].x)
            run.state_mib = decoder.state_mib
            return decoder.step
        turns = cycle(inputs)
        step.model.train(run.pass_ != "forward")
        return lambda: _run(step, run.pass_, next(turns))

    def _track(self, run: PassRun, step: StepFns, batch: Inputs) -> None:
        """Memory and FLOPs; of a decoder its state is what counts."""
        if run.pass_ == "decode":
            return
        held, device = _held(step, run.pass_, batch), self.place.device

        def peak() -> None:
            run.peak_mem_mib = peak_memory_mib(
                lambda: _run(step, run.pass_, batch), *held, device=device
            )

        try:
            flops = count_flops(peak)
        except Exception as error:
            if out_of_memory(error):
                raise
            # ops that no dispatch mode can watch raise under one
            run.notes.append(f"no memory, no FLOPs: {reason_of(error)}")
            return
        run.gflop, run.coverage = flops.total_gflop, flops.coverage
        if flops.unknown:
            run.notes.append(f"no FLOP formula: {', '.join(flops.unknown)}")

    # -- timing ------------------------------------------------------------------------------

    def _sample(self, step: StepFns) -> None:
        """All that are left in turns; one that raises is taken out, and all begin anew."""
        config = self.place.config
        while alive := {run.pass_: run for run in self.alive}:
            now = ""

            def turn(name: str) -> None:
                nonlocal now
                now = name
                self.place.store.at_work(self.name, name)
                step.model.train(name != "forward")

            try:
                with self.place.lock.exclusive():
                    samples = sample_ms(
                        {name: self._calls[name] for name in alive}, device=self.place.device,
                        setup=turn, warmup=1, budget_s=config.budget_s,
                        min_samples=config.min_samples, max_samples=config.max_samples,
                    )  # fmt: skip
            except Exception as error:
                alive[now].fail(error)
                look_at_device(self.place.device)
                continue
            for name, run in alive.items():
                run.samples = samples[name]
            return

    # -- after -------------------------------------------------------------------------------

    def _outputs(self, subject: Subject, inputs: Sequence[Inputs]) -> list[Tensor] | None:
        """What the untrained system makes of two inputs; None where that does not fit."""
        subject.system.eval()
        try:
            with self.place.lock.shared(), torch.no_grad():
                return [subject.output(x) for x in inputs[:2]]
        except Exception:
            look_at_device(self.place.device)
            return None

    def _check_again(self, before: list[Tensor], after: list[Tensor] | None) -> None:
        """The same output as before the timing, another one for other inputs, and finite."""
        assert after is not None
        ended: tuple[str, str] | None = None
        if not all(torch.isfinite(y).all() for y in after):
            ended = "nan", "its output is not finite"
        elif torch.equal(after[0], after[1]):
            ended = "error", "it gives the same output for other inputs"
        elif not torch.allclose(before[0], after[0], rtol=1e-3, atol=1e-5):
            ended = "error", "its output after timing is another one than before"
        for run in self.alive:
            if ended is not None:
                run.end(*ended)

    def _attempt(self, run: PassRun, work: Callable[[], None]) -> None:
        self.place.store.at_work(self.name, run.pass_)
        try:
            with self.place.lock.shared():
                work()
        except (Exception, CallTooLong) as error:
            run.fail(error)
        if not run.ok:
            # the traceback held the tensors of the failed call
            gc.collect()
            look_at_device(self.place.device)

    def _seconds(self, call: Callable[[], object]) -> float:
        start = time.perf_counter()
        call()
        if self.place.device.type == "cuda":
            torch.cuda.synchronize(self.place.device)
        return time.perf_counter() - start


def _run(step: StepFns, pass_: str, batch: Inputs) -> None:
    run = {
        "forward": step.forward, "forward_backward": step.forward_backward, "step": step.full_step,
    }  # fmt: skip
    run[pass_](batch)


def _held(step: StepFns, pass_: str, batch: Inputs) -> Sequence[object]:
    """What exists before the call and is part of its memory."""
    return (step.model, step.optimizer, batch) if pass_ == "step" else (step.model, batch)


def _backends(chosen: Mapping[str, dispatch.Choice]) -> str | None:
    return ",".join(f"{op}={choice.backend}" for op, choice in sorted(chosen.items())) or None
