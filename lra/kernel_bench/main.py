"""``task=kernels``: from the composed configuration to rows, a table and an exit code."""

import logging
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from lra.errors import CellFailed
from lra.kernel_bench.config import KernelConfig, load

if TYPE_CHECKING:
    from lra.kernel_bench.runner import Outcome

log = logging.getLogger(__name__)


def run(cfg: DictConfig, changed: list[str]) -> None:
    """Times an op's backends on this device and shows them side by side.

    Raises:
        UserError: wrong input.
        CellFailed: a backend is wrong or failed, or the one asked for cannot do any of it; the rows
            say why.
    """
    # wrong input must be said before torch is imported
    config = load(cfg, changed)
    from lra.kernel_bench.report import show
    from lra.kernel_bench.runner import Runner
    from lra.measurement.attempt import DeviceLost
    from lra.training.stopping import Stopping

    try:
        with Stopping().listening():
            outcome = Runner(config).run()
    except DeviceLost as error:
        log.error("the device was lost (%s): the same command goes on without that backend", error)
        raise CellFailed("error", 1) from error
    show(outcome)
    _judge(config, outcome)


def _judge(config: KernelConfig, outcome: "Outcome") -> None:
    failed = outcome.statuses & {"wrong", "error"}
    if failed:
        raise CellFailed(min(failed), 1)
    if outcome.statuses == {"unsupported"}:
        reasons = {row.reason for _, finished in outcome.cases for row in finished.rows}
        log.error("error: %s: %s", config.op, "; ".join(sorted(filter(None, reasons))))
        raise CellFailed("unsupported", 2)
