"""All lengths of one model on this device: finished ones are kept, the others measured."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from lra.device import find_device
from lra.lengths.bench import Bench, Workplace
from lra.lengths.config import LengthsConfig, Point
from lra.lengths.outcome import Frontier, PassRun
from lra.lengths.subject import AUTOCAST, DTYPES, card
from lra.limits import machine_bytes
from lra.measurement.cases import CaseRunner
from lra.measurement.lock import DeviceLock
from lra.measurement.roofline import TOO_FAST, Roofline
from lra.measurement.timing import OVERHEAD_LIMIT, Summary, timer_overhead_ms
from lra.model import CHANGES, departures, family, mixer_knobs, n_params
from lra.results.fingerprint import Fingerprint, fingerprint
from lra.results.schema import LengthRow
from lra.results.source import source_digest
from lra.results.store import Death, Finished, Store, case_id
from lra.runner import check_backend

# the code that can change a number
CODE = ("kernels", "models", "lra/lengths", "lra/measurement", "lra/training", "lra/model.py")
MEMORY_SHARE = 0.9  # of the device's, where no limit is given


@dataclass(frozen=True)
class Outcome:
    """What is known of a model now: rows of each length, and how many lengths are new."""

    model: str
    device: str
    rows: Sequence[LengthRow]
    n_new: int
    files: Sequence[Path]


class Runner(CaseRunner[Point]):
    """A model's lengths on this device.

    Args:
        config: validated.

    Raises:
        UserError: an unknown backend, or a device that is not here.
    """

    noun = "lengths"

    def __init__(self, config: LengthsConfig):
        self.config, run = config, config.run
        check_backend(run.backend)
        self.device = find_device(run.device)
        self.marks: Fingerprint = fingerprint(self.device.type)
        self.store = Store(run.results, f"lengths_{run.model}", LengthRow)
        self.cases, self.title = config.points(self.device.type), run.model
        self._source, self._frontier = self._digest(), Frontier()
        self._lock = DeviceLock(self.device)
        self._roofline = Roofline(self.device, self._lock)

    def run(self) -> Outcome:
        """Measures what is not finished.

        Raises:
            UserError: the results folder cannot be written.
            DeviceLost: the rest needs another process.
            CellFailed: time is up.
        """
        run = self.config.run
        found, n_new = self.finish(rerun=run.rerun, time_s=run.limits.time_s)
        self._lock.close()
        return Outcome(
            run.model, self.marks.device, [row for f in found for row in f.rows], n_new,
            [self.store.folder, run.results / "local" / "lengths"],
        )  # fmt: skip

    # -- points ------------------------------------------------------------------------------

    def name_of(self, case: Point) -> str:
        config, run = self.config, self.config.run
        parts = ("model", "backbone", "layers", "backend", "bidirectional")
        keys = ("level", "causal", "passes", "vocab", "budget_s", "min_samples", "max_samples")
        return case_id(
            point=asdict(case), source=self._source, recipe=asdict(run.recipe), seed=run.seed,
            **{key: getattr(run, key) for key in parts},
            **{key: getattr(config, key) for key in (*keys, "limit_s")},
            memory=run.limits.memory_gib, device=self.marks.device, versions=self.marks.versions,
            threads=self.marks.n_threads, matmul_precision=self.marks.matmul_precision,
        )  # fmt: skip

    def _digest(self) -> str:
        run = self.config.run
        card(self.config)  # a class that does not exist is said here
        targets = [run.backbone, *(part for layer in run.layers for part in layer.values())]
        modules = {str(target["_target_"]).rpartition(".")[0] for target in targets}
        modules |= {"lra.lengths.bench", "lra.model", "models.build"}
        files = [Path(inspect.getfile(import_module(module))) for module in modules]
        return source_digest(files, within=CODE)

    def _capacity_mib(self) -> float:
        limit = self.config.run.limits.memory_gib
        if limit is not None:
            return limit * 1024
        if self.device.type == "cuda":
            total = torch.cuda.get_device_properties(self.device).total_memory
        else:
            total = machine_bytes()
        return MEMORY_SHARE * total / 2**20

    def estimate_s(self, case: Point) -> float:
        return self.config.point_s(case, self.device.type)

    def heading(self) -> str:
        passes = ", ".join(self.config.passes)
        return f"{self.title} ({self.config.level}, {passes}) on {self.marks.device}"

    def note(self, case: Point, finished: Finished) -> None:
        for row in finished.rows:
            self._frontier.note(row, killed=row.pass_ in finished.killers)

    def measure(self, case: Point, name: str, killers: Mapping[str, Death]) -> Finished:
        place = Workplace(self.config, self.device, self._lock, self.store, self._capacity_mib())
        bench = Bench(place, case, name, self._frontier, killers)
        runs = bench.run()
        peak = self._roofline.tflop_per_s(self._dtype()) if any(run.ok for run in runs) else None
        samples = {run.pass_: run.samples for run in runs if run.ok}
        return Finished([self._row(name, bench, run, peak) for run in runs], samples, killers)

    def _dtype(self) -> torch.dtype:
        return AUTOCAST.get(self.config.run.recipe.precision, torch.float32)

    # -- rows --------------------------------------------------------------------------------

    def _row(self, name: str, bench: Bench, run: PassRun, tflop_per_s: float | None) -> LengthRow:
        config, recipe, subject = self.config, self.config.run.recipe, bench.subject
        status: Any = run.status
        level: Any = config.level
        pass_: Any = run.pass_
        return LengthRow(
            cell=name, model=config.run.model, family=family(config.run), level=level,
            mixer_knobs=mixer_knobs(config.run.layers),
            protocol=config.run.protocol["name"], variant=variant(config),
            length=bench.point.length, batch=bench.point.batch,
            causal=config.causal if subject is None else subject.causal,
            dim=recipe.dim, heads=recipe.heads,
            layers=recipe.depth if config.level == "model" else 1, pass_=pass_, status=status,
            n_params=None if subject is None else n_params(subject.system),
            pred_mem_mib=run.pred_mem_mib, state_mib=run.state_mib,
            degenerate=None if subject is None else subject.degenerate, backend=run.backend,
            dtype=DTYPES[recipe.precision], device=self.marks.device,
            n_threads=self.marks.n_threads, versions=self.marks.versions,
            git_sha=self.marks.git_sha, date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            **_measured(run, tflop_per_s, self.device.type),
        )  # fmt: skip


def variant(config: LengthsConfig) -> str:
    """What departs from the protocol's recipe and the preset, beside the mixer's knobs."""
    # those have columns of their own
    apart = ("recipe.precision=", "recipe.dim=", "recipe.depth=", "recipe.heads=")
    return departures(config.run.changed, (*CHANGES, "task.vocab="), apart=apart)


def _measured(run: PassRun, tflop_per_s: float | None, device: str) -> dict[str, Any]:
    """The columns that only a pass that was timed has, and its doubts."""
    if not run.ok:
        return {"reason": run.reason}
    assert tflop_per_s is not None
    time_ms, notes = Summary.of(run.samples), list(run.notes)
    share = None if run.gflop is None else run.gflop / tflop_per_s / time_ms.median
    if share is not None and share > TOO_FAST:
        notes.append(f"too fast to be true: {share:.2g} x the roofline")
    if device == "cpu" and (own := timer_overhead_ms() / time_ms.median) > OVERHEAD_LIMIT:
        notes.append(f"the timer takes {own:.0%} of it")
    return {
        "reason": "; ".join(notes) or None,
        "median_ms": time_ms.median, "p20_ms": time_ms.p20, "p80_ms": time_ms.p80,
        "cv": time_ms.cv, "n_samples": time_ms.n, "peak_mem_mib": run.peak_mem_mib,
        "gflop": run.gflop, "flop_coverage": run.coverage, "roofline_frac": share,
    }  # fmt: skip
