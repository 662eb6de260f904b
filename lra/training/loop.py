"""The training loop: visible, resumable to the bit, and short enough to hold in the head."""

import contextlib
import copy
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from lra.config import Recipe
from lra.measurement.lock import DeviceLock
from lra.progress import Progress, progress
from lra.tasks.spec import Batch
from lra.training import checkpoint
from lra.training.batches import share, training_rows
from lra.training.evaluate import Score, evaluate, reduce_sum
from lra.training.optimiser import make_optimiser
from lra.training.score import correct_sum, loss_sum
from lra.training.stopping import Interrupted, Stopping
from models.model import Model

log = logging.getLogger(__name__)
CHECKPOINT_S = 30.0  # seconds of work that a kill can cost
LOOK_EVERY = 20  # steps between looks at the loss: a look waits for the device


class NotFinite(Exception):
    """The loss is NaN or infinite."""


class TimeUp(Exception):
    """The cell's time limit is reached."""


@dataclass
class Data:
    """A split: its number of rows, and what makes a batch of row numbers."""

    rows: int
    fetch: Callable[[np.ndarray], Batch]


@dataclass
class Progressed:
    """What a run has to remember beside parameters: all of it is in every checkpoint.

    ``train_s`` is wall time inside training steps, ``wait_s`` the part of it spent waiting for
    data. ``history`` has a row for each validation.
    """

    step: int = 0
    train_s: float = 0.0
    wait_s: float = 0.0
    best_acc: float = -1.0
    best_step: int = 0
    best_loss: float = math.inf
    history: list[dict[str, float]] = field(default_factory=list)


class Trainer:
    """Trains a model on a split, validating on the whole of another.

    Args:
        fabric: launched; carries device, precision and processes.
        model: on any device, not yet set up.
        recipe: size of steps and their number.
        seed: of the order of rows.
        folder: where checkpoints live; None keeps none (processes other than the first).
        deadline: ``time.monotonic()`` at which the run ends with ``TimeUp``; None: never.
        on_validation: called with each new row of the history.
    """

    def __init__(
        self,
        fabric: Fabric,
        model: Model,
        recipe: Recipe,
        *,
        seed: int,
        folder: Path,
        stopping: Stopping,
        deadline: float | None = None,
        on_validation: Callable[[dict[str, float]], Any] = lambda row: None,
    ):
        self.fabric, self.recipe, self.seed, self.folder = fabric, recipe, seed, folder
        self.stopping, self.deadline, self.on_validation = stopping, deadline, on_validation
        self.bare = model
        self.bare_optimiser, self.schedule = make_optimiser(model, recipe)
        self.model, self.optimiser = fabric.setup(model, self.bare_optimiser)
        # one process a device: a second one inside, waiting at the turnstile for a measurement that
        # waits for the first, would wait for ever
        self.lock = DeviceLock(fabric.device) if fabric.local_rank == 0 or _own(fabric) else None
        self.state = Progressed()
        self.best: dict[str, torch.Tensor] | None = None
        self._sums = torch.zeros(3, dtype=torch.float64, device=fabric.device)

    # -- one step ----------------------------------------------------------------------------

    def train_step(self, batch: Batch) -> None:
        """Forward, backward, clip, update. Losses add up as sums, so that neither accumulation nor
        the number of processes changes the mean."""
        parts = self.recipe.accumulate
        scored = self._scored(batch)
        for part in range(parts):
            small = batch.part(part, parts)
            last = part == parts - 1
            with contextlib.nullcontext() if last else self.fabric.no_backward_sync(self.model):
                logits = self.model(small.x, small.mask)
                total, count = loss_sum(logits, small.y)
                loss = total * (self.fabric.world_size / scored)
                extra = self.bare.aux_loss()
                self.fabric.backward(loss if extra is None else loss + extra / parts)
            with torch.no_grad():
                self._sums += torch.stack([total, correct_sum(logits, small.y), count])
        if self.recipe.grad_clip is not None:
            self.fabric.clip_gradients(
                self.model, self.optimiser, max_norm=self.recipe.grad_clip,
                error_if_nonfinite=False,
            )  # fmt: skip
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.schedule.step()
        self.bare.on_step(self.state.step + 1)

    def _scored(self, batch: Batch) -> float | torch.Tensor:
        """Number of scored labels over all processes."""
        if batch.y.ndim == 1:
            return float(len(batch) * self.fabric.world_size)
        return reduce_sum(self.fabric, (batch.y != -100).sum()).clamp(min=1)

    # -- the run -----------------------------------------------------------------------------

    def fit(self, train: Data, val: Data) -> Progressed:
        """Trains to the last step, from the newest checkpoint if there is one.

        Raises:
            Interrupted: a signal came; the state is saved.
            TimeUp: the deadline passed; the state is saved.
            NotFinite: the loss is NaN or infinite.
        """
        self._resume()
        self.model.train()
        total, done = self.recipe.steps, self.state.step
        try:
            with progress("training", total, unit="steps", start=done) as shown:
                self._loop(train, val, shown)
        except (Interrupted, TimeUp):
            self.save()
            raise
        self.save()
        return self.state

    def _loop(self, train: Data, val: Data, shown: Progress) -> None:
        saved = time.monotonic()
        while True:
            if self._validation_due():
                self._validate(val)
            if self.state.step >= self.recipe.steps:
                break
            self.advance(train, shown)
            asked, late = self.stopping.asked is not None, self._is_late()
            asked, late, due = self._agree(asked, late, time.monotonic() - saved > CHECKPOINT_S)
            if asked:
                raise Interrupted(self.stopping.asked)
            if late:
                raise TimeUp(f"after {self.state.step} of {self.recipe.steps} steps")
            if due:
                self.save()
                saved = time.monotonic()

    def _validation_due(self) -> bool:
        """True after every ``eval_every``-th and the last step, also where a kill came between."""
        step, history = self.state.step, self.state.history
        due = step > 0 and (step % self.recipe.eval_every == 0 or step == self.recipe.steps)
        return due and (not history or history[-1]["step"] < step)

    def advance(self, train: Data, shown: Progress) -> None:
        """One step with all its book-keeping: the device lock, its data, its clock, its display."""
        with self.stopping.uninterrupted():
            self._timed_step(train)
        if self.state.step % LOOK_EVERY == 0 or self.state.step == self.recipe.steps:
            self._look(shown)

    def at_work(self) -> contextlib.AbstractContextManager[None]:
        """Held while computing, so that nobody measures meanwhile."""
        return contextlib.nullcontext() if self.lock is None else self.lock.shared()

    def _timed_step(self, train: Data) -> None:
        with self.at_work():
            start = time.perf_counter()
            rows = training_rows(train.rows, self.recipe.batch, self.state.step, seed=self.seed)
            batch = train.fetch(share(rows, self.fabric.global_rank, self.fabric.world_size))
            self.state.wait_s += time.perf_counter() - start
            self.train_step(batch.to(self.fabric.device))
            self.state.step += 1
            self.state.train_s += time.perf_counter() - start

    def _look(self, shown: Progress) -> None:
        """Shows the mean loss since the last validation; processes see NaN together."""
        total, correct, count = reduce_sum(self.fabric, self._sums.clone()).tolist()
        loss = total / max(count, 1)
        shown.update(
            self.state.step, loss=loss, acc=correct / max(count, 1),
            steps_per_s=self.state.step / max(self.state.train_s, 1e-9),
        )  # fmt: skip
        if not math.isfinite(loss):
            raise NotFinite(f"loss is {loss} at step {self.state.step}")

    def _validate(self, val: Data) -> None:
        score = self.score(val)
        with self.stopping.uninterrupted():
            total, correct, count = reduce_sum(self.fabric, self._sums).tolist()
            self._sums.zero_()
            state = self.state
            better = (score.acc, -score.loss) > (state.best_acc, -state.best_loss)
            if self.recipe.selection == "last" or better:
                state.best_acc, state.best_loss, state.best_step = score.acc, score.loss, state.step
                self.best = copy.deepcopy(self.bare.state_dict())
            row = {
                "step": state.step, "train_loss": total / max(count, 1),
                "train_acc": correct / max(count, 1), "val_loss": score.loss, "val_acc": score.acc,
                "lr": self.schedule.get_last_lr()[0], "train_s": state.train_s,
            }  # fmt: skip
            state.history.append(row)
        self.on_validation(row)

    def score(self, split: Data) -> Score:
        """The current model on a whole split."""
        size = self.recipe.eval_batch or 4 * self.recipe.batch
        return evaluate(
            self.fabric, self.bare, split.fetch, split.rows, size, at_work=self.at_work,
            on_batch=self._check_time,
        )  # fmt: skip

    def _check_time(self) -> None:
        """Several processes agree on the time between steps, not here."""
        if self.fabric.world_size == 1 and self._is_late():
            raise TimeUp(f"after {self.state.step} of {self.recipe.steps} steps")

    def _is_late(self) -> bool:
        return self.deadline is not None and time.monotonic() > self.deadline

    def use_selected(self) -> None:
        """Puts the selected parameters (best validation, or the last) into the model."""
        if self.best is not None:
            self.bare.load_state_dict(self.best)

    def _agree(self, *flags: bool) -> list[bool]:
        """Each flag true in every process where it is true in one, so that they act together."""
        if self.fabric.world_size == 1:
            return list(flags)
        value = torch.tensor(flags, dtype=torch.float32, device=self.fabric.device)
        return [bool(flag > 0) for flag in reduce_sum(self.fabric, value)]

    # -- state -------------------------------------------------------------------------------

    def save(self) -> None:
        """Writes a checkpoint: with it the run goes on to the same bits."""
        state = {
            "model": self.bare.state_dict(), "best": self.best,
            "optimiser": self.optimiser.state_dict(), "schedule": self.schedule.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),
            "progress": vars(self.state), "own": self._own(),
        }  # fmt: skip
        if self.fabric.is_global_zero:
            checkpoint.save(state, self.folder, self.state.step)
        self.fabric.barrier()

    def _resume(self) -> None:
        state = checkpoint.load_newest(self.folder, self.fabric.device)
        if state is None:
            return
        self.bare.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.fabric.strategy.precision.load_state_dict(state["scaler"])
        self.state, self.best = Progressed(**state["progress"]), state["best"]
        # set_rng_state crashes on a view of a row
        own = {name: rows[self.fabric.global_rank].clone() for name, rows in state["own"].items()}
        self._sums = own["sums"].to(self.fabric.device)
        torch.set_rng_state(own["cpu"].cpu())
        if self.fabric.device.type == "cuda":
            torch.cuda.set_rng_state(own["cuda"].cpu())
        for row in self.state.history:
            self.on_validation(row)
        log.info("resumed at step %d of %d", self.state.step, self.recipe.steps)

    def _own(self) -> dict[str, torch.Tensor]:
        """What each process has of its own, generators' states and sums: one row a process."""
        own = {"cpu": torch.get_rng_state(), "sums": self._sums}
        if self.fabric.device.type == "cuda":
            own["cuda"] = torch.cuda.get_rng_state()
        gathered = {}
        for name, value in own.items():
            every = self.fabric.all_gather(value.to(self.fabric.device))
            assert isinstance(every, torch.Tensor)
            gathered[name] = every.reshape(self.fabric.world_size, -1).cpu()
        return gathered


def _own(fabric: Fabric) -> bool:
    """Whether each process has a device of its own."""
    return fabric.device.type == "cuda"
