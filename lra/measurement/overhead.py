"""What the harness costs: its training step over a bare PyTorch loop of the same model and batches.

``python -m lra.measurement.overhead model=performer`` interleaves the two in one process, step by
step, and logs the ratio of the medians with its bootstrap interval. The bare loop gets its batches
ready made; the harness fetches them, keeps the device lock, the clock, the sums and the display.
"""

import copy
import gc
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.stats
import torch

from lra import presets
from lra.app import set_up_logging
from lra.config import RunConfig, load
from lra.freed_memory import keep_freed_memory
from lra.model import make_model, model_spec
from lra.progress import progress
from lra.runner import build_splits, make_fabric, make_task
from lra.tasks.spec import Batch
from lra.training.batches import training_rows
from lra.training.loop import Data, Trainer
from lra.training.score import loss_sum
from lra.training.stopping import Stopping
from models.model import Model

log = logging.getLogger("lra.overhead")
PAIRS, WARMUP = 1000, 20


def overhead(config: RunConfig) -> dict[str, list[float]]:
    """Milliseconds of each step, for ``bare`` and ``harness``."""
    fabric, task = make_fabric(config), make_task(config)
    train = build_splits(fabric, task)["train"]
    torch.manual_seed(config.seed)
    model = make_model(config, model_spec(config.recipe, task.spec, two_way=config.bidirectional))
    twin = copy.deepcopy(model)
    found: dict[str, list[float]] = {"bare": [], "harness": []}
    with tempfile.TemporaryDirectory() as folder, progress("overhead", PAIRS + WARMUP) as shown:
        trainer = Trainer(
            fabric, model, config.recipe, seed=config.seed, folder=Path(folder),
            stopping=Stopping(),
        )  # fmt: skip
        trainer.model.train()
        steps: dict[str, Callable[[Batch], object]] = {
            "bare": bare_loop(twin, config, train),
            "harness": lambda _: trainer.advance(train, shown),
        }
        gc.collect()
        gc.disable()  # a collection would fall on whoever comes next
        for pair in range(PAIRS + WARMUP):
            batch = _batch(train, pair, config)
            # who comes second finds the caches and the clock that the first one left: by turns
            for name in sorted(steps, reverse=bool(pair % 2)):
                ms = _timed(steps[name], batch)
                if pair >= WARMUP:
                    found[name].append(ms)
        gc.enable()
    return found


def bare_loop(model: Model, config: RunConfig, train: Data) -> Callable[[Batch], None]:
    """The step that anybody would write by hand."""
    recipe = config.recipe
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=recipe.lr, betas=(recipe.betas[0], recipe.betas[1]),
        eps=recipe.eps, weight_decay=recipe.weight_decay,
    )  # fmt: skip
    model.train()

    def step(batch: Batch) -> None:
        total, count = loss_sum(model(batch.x, batch.mask), batch.y)
        (total / count).backward()
        if recipe.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.grad_clip)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def _batch(train: Data, step: int, config: RunConfig) -> Batch:
    return train.fetch(training_rows(train.rows, config.recipe.batch, step, seed=config.seed))


def _timed(step: Callable[[Batch], object], batch: Batch) -> float:
    start = time.perf_counter()
    step(batch)
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    """Logs the ratio for the configuration of the command line."""
    set_up_logging()
    config = load(presets.compose(*sys.argv[1:]))
    found = overhead(config)
    bare, harness = np.array(found["bare"]), np.array(found["harness"])
    interval = scipy.stats.bootstrap((harness, bare), _ratio, paired=True, n_resamples=2000)
    low, high = interval.confidence_interval
    log.info(
        "%s: bare loop %.2f ms a step, harness %.2f ms: ratio %.3f (95 %% interval %.3f to %.3f, "
        "%d pairs)",
        config.model, np.median(bare), np.median(harness), _ratio(harness, bare), low, high, PAIRS,
    )  # fmt: skip


def _ratio(harness: np.ndarray, bare: np.ndarray, axis: int = -1) -> np.ndarray:
    """Of the medians."""
    return np.median(harness, axis) / np.median(bare, axis)


if __name__ == "__main__":
    keep_freed_memory()
    main()
