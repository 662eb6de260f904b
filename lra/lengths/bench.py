"""One length of a model: predicted, run once, tracked, timed in turns, and checked again."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from kernels import dispatch
from kernels.errors import Unsupported
from kernels.flops import count_flops
from lra.errors import UserError
from lra.lengths.config import LengthsConfig, Point
from lra.lengths.decoding import Decoder
from lra.lengths.outcome import Frontier, PassRun, trouble
from lra.lengths.subject import Inputs, Subject, held_by, make_subject
from lra.measurement.attempt import CallTooLong, at_most, look_at_device
from lra.measurement.lock import DeviceLock
from lra.measurement.memory import out_of_memory, peak_memory_mib, predict_memory_mib, reason_of
from lra.measurement.step import StepFns
from lra.measurement.timing import sample_ms
from lra.results.store import Death, Store

INPUTS = 3  # different ones that the samples take in turn
# compiling, tuning and filling a decoder's state count to the first call
FIRST_CALL_S = 600.0


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
        killers: passes that ended an earlier process here, and how.
    """

    def __init__(
        self,
        place: Workplace,
        point: Point,
        name: str,
        frontier: Frontier,
        killers: Mapping[str, Death],
    ):
        self.place, self.point, self.name, self.frontier = place, point, name, frontier
        self.runs = {name: PassRun(pass_=name) for name in place.config.passes}
        self.subject: Subject | None = None
        self._calls: dict[str, Callable[[Inputs], object]] = {}
        self._batches: Iterator[Inputs] = iter(())
        for run in self.runs.values():
            if how := killers.get(run.pass_):
                run.end(*how)

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
            self._attempt(run, partial(self._prepare, run, subject, step, inputs[0]))
        if not self.alive:
            return
        before = self._outputs(subject, subject.system, inputs)
        self._sample(step, inputs)
        after = self._outputs(subject, subject.system, inputs)
        # what was timed has trained on: as the other with its parameters it must read the inputs
        timed = self._outputs(subject, step.model, inputs)
        subject.system.load_state_dict(step.model.state_dict())
        same = self._outputs(subject, subject.system, inputs)
        self._check_again(before, after, timed, same)

    # -- before ------------------------------------------------------------------------------

    def _predict(self, run: PassRun, subject: Subject, step: StepFns, batch: Inputs) -> None:
        """The peak under fake tensors, for lengths that do not fit, too."""

        def fake(mode: FakeTensorMode) -> tuple[Callable[[], object], Sequence[object]]:
            made, faked = step.faked(mode, batch)
            made.model.train(run.pass_ != "forward")
            return partial(subject.call(made, run.pass_), faked), held_by(made, run.pass_, faked)

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

    def _prepare(self, run: PassRun, subject: Subject, step: StepFns, batch: Inputs) -> None:
        """Its call, run once against the time limit, then with memory tracked and FLOPs counted."""
        limit, decodes = self.place.config.limit_s, run.pass_ == "decode"
        step.model.train(run.pass_ != "forward")
        with at_most(FIRST_CALL_S), dispatch.record() as chosen:
            if decodes:
                call, held = self._decoder(run, subject, batch)
            else:
                call, held = subject.call(step, run.pass_), held_by(step, run.pass_, batch)
            spent = self._seconds(partial(call, batch))
        run.backend = _backends(chosen)
        # each once, where it is first met
        said = {note for other in self.alive for note in other.notes}
        refusals = [note for choice in chosen.all for note in choice.refusals]
        run.notes += [note for note in dict.fromkeys(refusals) if note not in said]
        step.model.zero_grad(set_to_none=True)
        # the first call may have built things, the tracked one is watched: the quicker counts
        spent = min(spent, self._seconds(lambda: self._track(run, call, held, batch)))
        if spent > limit:
            raise CallTooLong(f"a call takes {spent:.1f} s, more than task.limit_s={limit:g}")
        self._calls[run.pass_] = call

    def _decoder(
        self, run: PassRun, subject: Subject, batch: Inputs
    ) -> tuple[Callable[[Inputs], object], Sequence[object]]:
        """One more token, whatever the inputs; and what is held for it."""
        if subject.part is None:
            raise Unsupported("decoding is of a mixer or block: task.level=mixer or block")
        if not subject.causal:
            raise Unsupported("decoding needs a causal system: task.causal=true")
        precision = self.place.config.run.recipe.precision
        if precision != "32-true":
            raise Unsupported(
                f"states are kept in float32: recipe.precision=32-true instead of {precision}"
            )
        subject.system.eval()
        decoder = Decoder(subject.part, batch.x)
        run.state_mib = decoder.state_mib
        return lambda _: decoder.step(), decoder.held

    def _track(
        self,
        run: PassRun,
        call: Callable[[Inputs], object],
        held: Sequence[object],
        batch: Inputs,
    ) -> None:
        device = self.place.device

        def peak() -> None:
            run.peak_mem_mib = peak_memory_mib(partial(call, batch), *held, device=device)

        try:
            if device.type == "cuda":
                peak()
                # kernels launched past the dispatcher are seen by no counter
                with dispatch.prefer("eager"):
                    flops = count_flops(partial(call, batch))
            else:
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

    def _sample(self, step: StepFns, inputs: Sequence[Inputs]) -> None:
        """All that are left in turns; one that raises is taken out, and all begin anew."""
        config, turns = self.place.config, cycle(inputs)
        while alive := {run.pass_: run for run in self.alive}:
            now = ""

            def turn(name: str) -> None:
                nonlocal now
                now = name
                self.place.store.at_work(self.name, name)
                step.model.train(name != "forward")
                # another tensor each time, so that nothing can be remembered of it; a turn is one
                # call on the CPU, many on CUDA
                several = inputs if self.place.device.type == "cuda" else [next(turns)]
                self._batches = cycle([one.cloned() for one in several])

            try:
                with self.place.lock.exclusive():
                    samples = sample_ms(
                        {name: partial(self._timed, self._calls[name]) for name in alive},
                        device=self.place.device, setup=turn, warmup=1, budget_s=config.budget_s,
                        min_samples=config.min_samples, max_samples=config.max_samples,
                    )  # fmt: skip
            except Exception as error:
                if now not in alive:
                    raise
                alive[now].fail(error)
                look_at_device(self.place.device)
                continue
            for name, run in alive.items():
                run.samples = samples[name]
            return

    def _timed(self, call: Callable[[Inputs], object]) -> object:
        return call(next(self._batches))

    # -- after -------------------------------------------------------------------------------

    def _outputs(
        self, subject: Subject, system: nn.Module, inputs: Sequence[Inputs]
    ) -> list[Tensor] | None:
        """What a system makes of the first two inputs; None where it raises."""
        system.eval()
        try:
            with self.place.lock.shared(), torch.no_grad(), torch.random.fork_rng():
                torch.manual_seed(0)
                return [subject.forward(system, x.x) for x in inputs[:2]]
        except Exception:
            look_at_device(self.place.device)
            return None

    def _check_again(
        self,
        before: list[Tensor] | None,
        after: list[Tensor] | None,
        timed: list[Tensor] | None,
        same: list[Tensor] | None,
    ) -> None:
        """The same outputs as before the timing and as what was timed, others for other inputs, and
        finite."""
        for run in self.alive:
            if before is None or after is None or timed is None or same is None:
                run.notes.append("its outputs were not checked: they did not fit")
            elif ended := trouble(before, after, timed, same):
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


def _backends(chosen: Mapping[str, dispatch.Choice]) -> str | None:
    return ",".join(f"{op}={choice.backend}" for op, choice in sorted(chosen.items())) or None
