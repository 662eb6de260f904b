"""``task=lengths``: from the composed configuration to rows, a table and an exit code."""

import logging
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from lra.config import load
from lra.errors import CellFailed
from lra.lengths.config import settings

if TYPE_CHECKING:
    from lra.lengths.runner import Outcome

log = logging.getLogger(__name__)


def run(cfg: DictConfig, changed: list[str]) -> None:
    """Measures a model at every length on this device and shows the table.

    Raises:
        UserError: wrong input.
        CellFailed: a pass failed, or the model can do none of what was asked; the rows say why.
    """
    # wrong input must be said before torch is imported
    config = settings(load(cfg, changed))
    from lra.lengths.report import show
    from lra.lengths.runner import Runner
    from lra.measurement.attempt import DeviceLost
    from lra.training.stopping import Stopping

    try:
        with Stopping().listening():
            outcome = Runner(config).run()
    except DeviceLost as error:
        log.error("the device was lost (%s): the same command goes on without that pass", error)
        raise CellFailed("error", 1) from error
    show(outcome)
    _judge(outcome)


def _judge(outcome: "Outcome") -> None:
    statuses = {row.status for row in outcome.rows}
    if "error" in statuses:
        raise CellFailed("error", 1)
    if statuses == {"unsupported"}:
        reasons = sorted({row.reason or "" for row in outcome.rows})
        log.error("error: %s: %s", outcome.model, "; ".join(reasons))
        raise CellFailed("unsupported", 2)
