"""How many cells a sweep has, which one this is, and how long the rest will take."""

import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lra.errors import UserError

_begun: dict[int, float] = {}  # number of cells -> start, of the sweep that this process is in


def place(number: int, cfg: DictConfig) -> str:
    """``3 of 35, about 0:40:00 left``: cells that are done tell of those to come.

    Args:
        number: of the cell, from 0.
        cfg: of the cell; where it says how long its like takes, the first cell has an estimate too.
    """
    total = n_cells()
    if total is None or number >= total:
        return f"{number + 1}"
    begun = _begun.setdefault(total, time.monotonic())
    seconds = (time.monotonic() - begun) / number if number else _estimate_s(cfg)
    if seconds is None:
        return f"{number + 1} of {total}"
    left = timedelta(seconds=round(seconds * (total - number)))
    return f"{number + 1} of {total}, about {left} left"


def n_cells() -> int | None:
    """Number of cells of the sweep on the command line; None where Hydra does not tell."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if not HydraConfig.initialized() or not GlobalHydra.instance().is_initialized():
        return None
    params: Any = HydraConfig.get().sweeper.get("params") or {}
    given = [argument for argument in sys.argv[1:] if "=" in argument and argument[0] != "-"]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    try:
        overrides = parser.parse_overrides([f"{k}={v}" for k, v in params.items()] + given)
        return sum(map(len, BasicSweeper.split_arguments(overrides, None)))
    except Exception:
        # another sweeper, or a program of one's own: the count is a courtesy
        return None


def _estimate_s(cfg: DictConfig) -> float | None:
    if cfg.task.name != "lengths":
        return None
    from lra.config import load
    from lra.lengths.config import settings

    device = cfg.device
    if device == "auto":
        # no torch here: a sweep's parent stays light
        device = "cuda" if Path("/dev/nvidia0").exists() else "cpu"
    try:
        return settings(load(cfg)).estimate_s(device)
    except UserError:
        return None
