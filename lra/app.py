"""What happens after Hydra: one cell in this process, or a swept cell in a process of its own."""

import logging
import os
from importlib import import_module
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lra.errors import CellFailed
from lra.limits import limit_memory

# tasks that train nothing
BENCHMARKS = {"kernels": "lra.kernel_bench.main", "lengths": "lra.lengths.main"}
EXIT_CODES = {"ok": 0, "unsupported": 2, "interrupted": 130}


def main(cfg: DictConfig) -> None:
    """Runs the cell of a composed configuration.

    Raises:
        UserError: wrong input.
        CellFailed: the cell ended otherwise than ``ok``; its row is written.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    changed = list(hydra.overrides.task)
    if hydra.mode == RunMode.MULTIRUN:
        from lra.sweep import run_in_child

        run_in_child(cfg, changed, number=int(hydra.job.num))
    else:
        run_here(cfg, changed)


def run_here(cfg: DictConfig, changed: list[str], on_cell: Any = lambda cell: None) -> None:
    """Runs the cell in this process and shows its row; ``on_cell`` gets the cell beforehand."""
    benchmark = BENCHMARKS.get(OmegaConf.select(cfg, "task.name"))
    if benchmark is not None:
        set_up_logging()
        import_module(benchmark).run(cfg, changed)
        return
    from lra.config import load

    # wrong input must be said before torch is imported
    config = load(cfg, changed)
    limit_memory(config.limits.memory_gib)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # of several processes the first speaks
    first = os.environ.get("RANK", "0") == "0"
    set_up_logging(logging.INFO if first else logging.ERROR)
    from lra.report import announce, show
    from lra.runner import run_cell

    if first:
        announce(config)
    outcome = run_cell(config, on_cell=on_cell)
    if outcome is None:
        return
    show(outcome, config)
    if outcome.row.status != "ok":
        raise CellFailed(outcome.row.status, EXIT_CODES.get(outcome.row.status, 1))


def set_up_logging(level: int = logging.INFO) -> None:
    """Plain lines on standard error, ours and warnings of others."""
    logging.basicConfig(level=max(level, logging.WARNING), format="%(message)s")
    logging.getLogger("lra").setLevel(level)
    for noisy in ("lightning_fabric", "lightning.fabric", "datasets", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
