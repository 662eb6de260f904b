"""One cell at work in one process: train, select, test once, measure; always one row."""

import contextlib
import dataclasses
import inspect
import itertools
import json
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from kernels import dispatch
from kernels.errors import Unsupported
from lra.config import RunConfig
from lra.errors import UserError
from lra.measurement.measure import measure
from lra.measurement.memory import out_of_memory
from lra.measurement.step import StepFns
from lra.model import Built, family, label, mixer_knobs, n_params
from lra.results.cell import FINISHED, Cell, cell_id
from lra.results.fingerprint import Fingerprint
from lra.results.schema import RunRow
from lra.results.source import source_digest
from lra.saved import Saved, save_model
from lra.tasks.spec import Batch, Task
from lra.tracking import Tracker
from lra.training import checkpoint
from lra.training.batches import training_rows
from lra.training.evaluate import Score
from lra.training.loop import Data, NotFinite, TimeUp, Trainer
from lra.training.score import loss_sum
from lra.training.stopping import Interrupted, Stopping
from models.backbone import Backbone
from models.build import locate
from models.model import Model

# the code that can change a number, beside the model's and the task's own
CODE = (
    "lra/training", "lra/tasks", "lra/data", "lra/measurement", "lra/model.py", "models", "kernels",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """A cell's row, the trivial baselines of its data, and the files that hold the rest."""

    row: RunRow
    baselines: Mapping[str, float]
    files: tuple[Path, ...]
    was_finished: bool = False


class CellRun:
    """One cell at work in one process."""

    def __init__(
        self,
        config: RunConfig,
        fabric: Fabric,
        task: Task,
        splits: dict[str, Data],
        built: Built,
        marks: Fingerprint,
        saved: Saved | None,
        start: Saved | None,
        stopping: Stopping,
    ):
        self.config, self.fabric, self.task, self.splits = config, fabric, task, splits
        self.built, self.marks, self.saved, self.stopping = built, marks, saved, stopping
        # what the parameters come from, if not from the seed
        self.origin = f"evaluated from {saved.digest}" if saved else None
        if start is not None:
            self.origin = f"begun with {start.digest} ({start.about})"
        identity = cell_id(config, task.manifest(), self._source(), marks, self.origin)
        name = (
            f"{config.model}_{task.spec.name}_{config.protocol['name']}_s{config.seed}_{identity}"
        )
        self.cell = Cell(identity, name, config.results)
        self.row = self._first_row(identity)

    def _source(self) -> str:
        config = self.config
        parts = (part for layer in config.layers for part in layer.values())
        targets = [config.backbone, config.task, *parts]
        modules = {str(target["_target_"]).rpartition(".")[0] for target in targets}
        modules |= {"lra.training.loop", "lra.measurement.measure", "lra.model", "models.build"}
        files = [inspect.getfile(import_module(module)) for module in modules]
        return source_digest((Path(file) for file in files), within=CODE)

    def _first_row(self, identity: str) -> RunRow:
        config, spec = self.config, self.task.spec
        # a backbone that makes no blocks has the configured mixer and block in name only
        hosted = locate(config.backbone["_target_"], Backbone).hosts
        layers = config.layers if hosted else []
        blocks = [_class_name(layer["block"]) for layer in layers]
        return RunRow(
            cell=identity, model=config.model, family=family(config),
            mixer="+".join(_class_name(layer["mixer"]) for layer in layers) or "none",
            block="+".join(dict.fromkeys(blocks)) or "none",
            backbone=_class_name(config.backbone),
            mixer_knobs=mixer_knobs(layers),
            task=spec.name, tier=spec.tier, length=spec.length, batch=config.recipe.batch,
            causal=spec.causal, protocol=config.protocol["name"], label="standard",
            seed=config.seed, status="interrupted", chance_acc=spec.chance_acc,
            selection=config.recipe.selection, precision=config.recipe.precision,
            device=self.marks.device, n_threads=self.marks.n_threads, versions=self.marks.versions,
            git_sha=self.marks.git_sha, date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )  # fmt: skip

    def files(self) -> tuple[Path, ...]:
        """What the cell leaves behind, where it is there."""
        names = (
            "row.json", "config.json", "environment.json", "backends.json", "history.csv",
            "model.pt", "error.txt",
        )  # fmt: skip
        found = [self.cell.folder / name for name in names]
        found.append(self.cell.rows / "runs" / f"{self.cell.id}.json")
        return tuple(path for path in found if path.exists())

    # -- processes ---------------------------------------------------------------------------

    def follow(self) -> None:
        """A process beside the first: trains with it, writes nothing, and leaves the telling of
        how it ended to the first."""
        if self.fabric.broadcast(False) or self.built.problem is not None:
            return
        with contextlib.suppress(Interrupted, NotFinite, TimeUp):
            self._train_and_test(Tracker())

    def lead(self) -> Outcome:
        """The first process: runs the cell and writes its row, whatever happens.

        Raises:
            UserError: what a user can mend; the row says it too.
        """
        baselines = self.task.baselines()
        name, trivial = max(baselines.items(), key=lambda item: item[1])
        self.row = replace(
            self.row, trivial_acc=trivial, trivial_name=name, majority_acc=baselines.get("majority")
        )
        tracker = Tracker()
        try:
            self._begin()
            tracker = self._tracker()
            self._run(tracker)
        except (Unsupported, UserError) as error:
            self._end("unsupported" if isinstance(error, Unsupported) else "error", str(error))
            self._finish(tracker)
            raise UserError(str(error)) from error
        except (Interrupted, KeyboardInterrupt) as error:
            self._end("interrupted", f"by {error}")
        except NotFinite as error:
            self._end("nan", str(error))
        except TimeUp as error:
            self._end("timeout", f"{self.config.limits.time_s:g} s were up {error}")
        except Exception as error:
            if not out_of_memory(error):
                self.cell.write("error.txt", traceback.format_exc())
            kind = "oom" if out_of_memory(error) else "error"
            self._end(kind, f"{type(error).__name__}: {_first_line(error)}")
        self._finish(tracker)
        files = self.files() if tracker.folder is None else (*self.files(), tracker.folder)
        return Outcome(self.row, baselines, files)

    def _begin(self) -> None:
        """What is known before the first step goes on record."""
        self.cell.write_row(self.row)
        (self.cell.folder / "error.txt").unlink(missing_ok=True)
        settings = dataclasses.asdict(self.config)
        self.cell.write("config.json", json.dumps(settings, indent=1, default=str))
        facts = {**dataclasses.asdict(self.marks), "data": dict(self.task.manifest())}
        self.cell.write("environment.json", json.dumps(facts, indent=1, default=str))
        if self.built.problem is not None:
            raise self.built.problem
        notes = self.task.spec.notes
        if self.origin is not None:
            notes = (self.origin, *notes)
        if self.saved is not None:
            name = "; ".join(notes)
        else:
            name = label(self.config, self.built.spec, self.model, notes)
        mixers = self.model.mixers()
        # a causal-only mixer stays causal on a task that is not
        causal = all(mixer.causal for mixer in mixers) if mixers else self.row.causal
        self.row = replace(
            self.row, n_params=n_params(self.model), label=name, causal=causal,
            degenerate=self.model.dense_at(self.row.length),
        )  # fmt: skip

    def _end(self, status: Any, reason: str) -> None:
        self.row = replace(self.row, status=status, reason=reason)

    def _finish(self, tracker: Tracker) -> None:
        with self.stopping.uninterrupted():
            self.cell.write_row(self.row)
            if self.row.status in FINISHED:
                checkpoint.clear(self.cell.folder)
            tracker.finish(self.row)

    # -- the parts ---------------------------------------------------------------------------

    @property
    def model(self) -> Model:
        assert self.built.model is not None
        return self.built.model

    def _tracker(self) -> Tracker:
        folder = self.config.results / "local"
        settings = {**dataclasses.asdict(self.config), "cell": self.cell.id}
        return Tracker.start(
            self.config.logger, name=self.cell.name, config=settings, folder=folder
        )

    def _run(self, tracker: Tracker) -> None:
        with dispatch.record() as chosen:
            try:
                trainer, score = self._train_and_test(tracker)
            finally:
                used = [f"{op}={choice.backend}" for op, choice in sorted(chosen.items())]
                self.row = replace(self.row, backend=",".join(used) or None)
                choices = [dataclasses.asdict(choice) for choice in chosen.all]
                self.cell.write("backends.json", json.dumps(choices, indent=1))
        self.row = replace(self.row, test_acc=score.acc, n_test=score.n)
        if self.saved is None:
            self._measure(trainer)
        self.row = replace(self.row, status="ok")

    def _train_and_test(self, tracker: Tracker) -> tuple[Trainer, Score]:
        limit = self.config.limits.time_s
        deadline = None if limit is None else time.monotonic() + limit
        trainer = Trainer(
            self.fabric, self.model, self.config.recipe, seed=self.config.seed,
            folder=self.cell.folder, stopping=self.stopping, deadline=deadline,
            on_validation=tracker.log,
        )  # fmt: skip
        # every process draws its own dropout
        torch.manual_seed(self.config.seed * self.fabric.world_size + self.fabric.global_rank)
        with dispatch.prefer(self.config.backend):
            if self.saved is None:
                self._train(trainer)
            else:
                self.row = replace(self.row, steps=self.saved.step)
            score = trainer.score(self.splits["test"])
        return trainer, score

    def _train(self, trainer: Trainer) -> None:
        try:
            state = trainer.fit(self.splits["train"], self.splits["val"])
        finally:
            state = trainer.state
            self.row = replace(self.row, steps=state.step, train_s=state.train_s or None)
        trainer.use_selected()
        wait = state.wait_s / state.train_s if state.train_s else None
        self.row = replace(self.row, val_acc=state.best_acc, data_wait_frac=wait)
        if self.fabric.is_global_zero:
            import pandas as pd

            self.cell.write("history.csv", pd.DataFrame(state.history).to_csv(index=False))
            path = self.cell.folder / "model.pt"
            save_model(path, trainer.bare, self.config, self.task.spec, state.best_step)

    def _measure(self, trainer: Trainer) -> None:
        """Time, memory and FLOPs of a step on fresh batches, with the device to itself."""
        recipe, spec, train = self.config.recipe, self.task.spec, self.splits["train"]
        if self.fabric.world_size > 1:
            # each waits for the others: no time of one of them is that of a step
            reason = "time, memory and FLOPs are measured in a run of one process"
            self.row = replace(self.row, reason=reason)
            return
        steps, updates = itertools.count(recipe.steps), itertools.count(recipe.steps)

        def fresh() -> Batch:
            rows = training_rows(train.rows, recipe.batch, next(steps), seed=self.config.seed)
            return train.fetch(rows).padded_to(spec.length).to(self.fabric.device)

        parts = recipe.accumulate
        step = StepFns(
            self.model, trainer.bare_optimiser,
            loss=lambda model, part: self._loss(model, part),
            split=lambda batch: (batch.part(i, parts) for i in range(parts)),
            clip_norm=recipe.grad_clip,
            after=lambda model: model.on_step(next(updates)),
        )  # fmt: skip
        tokens = fresh().mask.numel()
        with dispatch.prefer(self.config.backend):
            found = measure(
                step, fresh, tokens=tokens, device=self.fabric.device,
                budget_s=self.config.protocol["timing_s"],
            )  # fmt: skip
        self.cell.write("measured.json", json.dumps(dataclasses.asdict(found), indent=1))
        columns: dict[str, Any] = dict(found.columns())
        self.row = replace(self.row, **columns)

    def _loss(self, model: Model, part: Batch) -> torch.Tensor:
        with self.fabric.autocast():
            logits = model(part.x, part.mask)
        total, count = loss_sum(logits, part.y)
        extra = model.aux_loss()
        loss = total / count.clamp(min=1)
        return loss if extra is None else loss + extra


def _class_name(config: Mapping[str, Any]) -> str:
    return str(config["_target_"]).rpartition(".")[2]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]
