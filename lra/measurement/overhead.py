"""What the harness costs: its training step over a bare PyTorch loop of the same model and batches.

``python -m lra.measurement.overhead model=performer`` interleaves the two in one process, chunk by
chunk, and logs the ratio of the medians. The bare loop gets its batches ready made; the harness
fetches them, keeps the device lock, the clock, the sums and the display.
"""

import copy
import gc
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from lra import presets
from lra.app import set_up_logging
from lra.config import RunConfig, load
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
CHUNK, CHUNKS, WARMUP = 10, 30, 2


def overhead(config: RunConfig) -> dict[str, list[float]]:
    """Milliseconds a step of each chunk, for ``bare`` and ``harness``."""
    fabric, task = make_fabric(config), make_task(config)
    train = build_splits(fabric, task)["train"]
    torch.manual_seed(config.seed)
    model = make_model(config, model_spec(config.recipe, task.spec, two_way=config.bidirectional))
    twin = copy.deepcopy(model)
    found: dict[str, list[float]] = {"bare": [], "harness": []}
    with tempfile.TemporaryDirectory() as folder, progress("overhead", CHUNKS) as shown:
        trainer = Trainer(
            fabric, model, config.recipe, seed=config.seed, folder=Path(folder),
            stopping=Stopping(),
        )  # fmt: skip
        trainer.model.train()
        bare = bare_loop(twin, config, train)
        for chunk in range(CHUNKS + WARMUP):
            ready = [_batch(train, chunk * CHUNK + step, config) for step in range(CHUNK)]
            taken = {
                "bare": _timed(bare, ready),
                "harness": _timed(lambda _: trainer.advance(train, shown), ready),
            }
            for name, ms in taken.items():
                if chunk >= WARMUP:
                    found[name].append(ms / CHUNK)
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


def _timed(step: Callable[[Batch], None], batches: Sequence[Batch]) -> float:
    gc.collect()
    start = time.perf_counter()
    for batch in batches:
        step(batch)
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    """Logs the ratio for the configuration of the command line."""
    set_up_logging()
    config = load(presets.compose(*sys.argv[1:]))
    found = overhead(config)
    bare, harness = np.median(found["bare"]), np.median(found["harness"])
    ratios = np.array(found["harness"]) / np.array(found["bare"])
    low, high = np.quantile(ratios, [0.2, 0.8])
    log.info(
        "%s: bare loop %.2f ms a step, harness %.2f ms: ratio %.3f (of chunks, median %.3f, "
        "p20 %.3f, p80 %.3f, n %d)",
        config.model, bare, harness, harness / bare, np.median(ratios), low, high, len(ratios),
    )  # fmt: skip


if __name__ == "__main__":
    main()
