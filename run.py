"""Composes a configuration and runs its cell: ``python run.py model=performer task=listops``.

Every configuration error is one line with the nearest valid name, exit code 2. Nothing heavy is
imported before a job starts, so that ``--help`` and ``--cfg job`` answer at once.
"""

import os
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lra.config_errors import explain
from lra.errors import CellFailed
from lra.freed_memory import keep_freed_memory
from lra.resolvers import register

# Hydra would print its own trace and exit 1
os.environ["HYDRA_FULL_ERROR"] = "1"
register()


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def job(cfg: DictConfig) -> None:
    from lra.app import main

    try:
        main(cfg)
    except (ValueError, CellFailed) as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        # Hydra announces what is raised; an exit it lets pass
        sys.exit(report(error))


def report(error: BaseException) -> int:
    """Says what is wrong, once, and gives the exit code."""
    if isinstance(error, CellFailed):
        return error.exit_code
    print(f"error: {explain(error, sys.argv[1:])}", file=sys.stderr)
    return 2


def run() -> int:
    try:
        job()
    except (ValueError, OSError, CellFailed, HydraException, OmegaConfBaseException) as error:
        return report(error)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(run())
